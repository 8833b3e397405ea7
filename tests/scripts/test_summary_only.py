"""`--summary_only True` of every training script of every size, where there is no GPU and no weights."""

from __future__ import annotations

import importlib
import json
import shutil
import sys

import pytest
from accelerate.state import AcceleratorState

from tests.support.recorded_scripts import LARGE, ONE_CARD, OTHER_FAMILIES, OTHER_SIZES, ROOT, ScriptRunner
from tests.support.tiny_data import write_tiny_data
from tests.support.tiny_families import TINY_FAMILIES

TINY = [
    f"tiny/{name}.sh"
    for name in ("train_sft", "train_reward_model", "initialize_policy_model", "train_rl_model")
]
SMALL = {  # the data of the test has 16 rows
    "EVAL_SIZE": "2",
    "ROLLOUT_BATCH_SIZE": "8",
    "ROLLOUT_PER_DEVICE_BATCH_SIZE": "4",
    "STEP_BATCH_SIZE": "8",
    "BATCH_SIZE": "1",
    "ACCUMULATION": "1",
    "NUM_GPUS": "2",
}
SEVEN_B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "vocab_size": 32064}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tiny_data(tmp_path_factory.mktemp("summary") / "data")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Configuration, tokenizer and image processor of a 7B LLaVA, without weights; its words are the tiny world's."""
    folder = tmp_path_factory.mktemp("summary") / "base"
    shutil.copytree(ROOT / "scripts/tiny/base", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {
        **SEVEN_B,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": 128,
    }
    config["vision_config"] |= {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def other_bases(tmp_path_factory):
    """Size of a script → a tiny base of its family, without weights."""
    folder, found = tmp_path_factory.mktemp("summary"), {}
    for family in TINY_FAMILIES:
        if family.model_type in OTHER_SIZES.values():
            found[family.model_type] = family.save(folder / family.model_type)
            (found[family.model_type] / "model.safetensors").unlink()
    return {size: found[model_type] for size, model_type in OTHER_SIZES.items()}


def variables(data, base, folder):
    """What every script needs, by the names that all sizes have."""
    return {
        "BASE_MODEL": str(base),
        "REWARD_BASE_MODEL": str(base),
        "DIALOGUES": str(data.dialogues),
        "PREFERENCES": str(data.preferences),
        "PROMPTS": str(data.prompts),
        "CAPTIONS": str(data.captions),
        "IMAGE_FOLDER": str(data.images),
        "REWARD_PROMPT": str(data.fact_prompt),
        "RUN_DIR": str(folder / "run"),
        "OUTPUT_DIR": str(folder / "out"),
        **SMALL,
    }


def of_the_sft(data, world):
    """train_sft.sh reads its own names in a world."""
    world.mkdir()
    shutil.copytree(data.images, world / "images")
    shutil.copy(data.dialogues, world / "sft.json")


@pytest.mark.parametrize("script", [*LARGE, *ONE_CARD, *OTHER_FAMILIES, *TINY])
def test_every_script_summarises_without_gpu_and_weights(
    script, data, base, other_bases, tmp_path, capsys, monkeypatch
):
    """As far as its program: bfloat16, 4 bits, DeepSpeed and tensorboard are those of the size."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    of_the_sft(data, tmp_path / "world")
    base = other_bases.get(script.split("/")[0], base)
    given = variables(data, base, tmp_path) | {"WORLD_DIR": str(tmp_path / "world")}
    (call, *_) = ScriptRunner(ROOT, tmp_path).run(script, "--summary_only", "True", **given)
    program = importlib.import_module(call.module)
    words = [*call.arguments, "--model_max_length", "2048"]
    try:
        assert program.prepare(words) is None
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert "16 of 16 rows kept" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("script", ["tiny/train_sft.sh", "7b-1x24gb/train_rl_model.sh"])
def test_a_script_ends_with_the_summary(script, data, base, tmp_path):
    """Nothing is launched, nothing exported; eight processes of a large size need no eight GPUs."""
    of_the_sft(data, tmp_path / "world")
    given = variables(data, base, tmp_path) | {"WORLD_DIR": str(tmp_path / "world"), "NUM_GPUS": "1"}
    runner = ScriptRunner(ROOT, tmp_path)
    done = runner.start(
        script,
        "--summary_only",
        "True",
        PYTHON=sys.executable,
        LAUNCHER=None,
        CUDA_VISIBLE_DEVICES="",
        **given,
    )
    assert done.returncode == 0, done.stderr
    assert "16 of 16 rows kept" in done.stdout and "torch.distributed" not in done.stderr
    assert not (tmp_path / "out").exists()

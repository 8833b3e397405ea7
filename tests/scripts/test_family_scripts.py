"""The scripts for models of other families: hyper-parameters, one base in all stages, and the memory in their headers."""

from __future__ import annotations

import re

import pytest
import torch
from torch.distributed.run import parse_args as parse_torchrun

from llava_rlhf import plan_memory
from llava_rlhf.memory_planning.bases import BaseSpec
from llava_rlhf.memory_planning.passes import Bank, decoding, prefill
from llava_rlhf.memory_planning.plan import CONTEXT, GIB
from llava_rlhf.memory_planning.ppo import DRAWING_TABLES
from llava_rlhf.memory_planning.weights import FLOAT, adapter_numbers, base_parts
from models.settings import LoraSettings
from tests.scripts.test_one_card_scripts import CARD, DIFFERENT, header
from tests.scripts.test_published_scripts import PUBLISHED as HYPER_PARAMETERS
from tests.support.recorded_scripts import OTHER_FAMILIES, OTHER_SIZES, ROOT, ScriptRunner, parsed
from tests.support.tiers import tiered

COCO = (640, 640)  # no picture of COCO is larger
HUB = {
    "qwen2.5-vl-7b": "Qwen/Qwen2.5-VL-7B-Instruct",
    "qwen3-vl-8b": "Qwen/Qwen3-VL-8B-Instruct",
    "qwen2.5-vl-3b-1x24gb": "Qwen/Qwen2.5-VL-3B-Instruct",
}
ONE_CARD = "qwen2.5-vl-3b-1x24gb"


def stated_gib(script: str) -> float:
    """The memory that a header states."""
    said = r"Memory: ([\d.]+) GiB( a GPU)? \(planned for pictures of 640x640 pixels, nothing was measured on a GPU\)"
    ((gib, _),) = re.findall(said, header(script))
    return float(gib)


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", tiered(OTHER_FAMILIES, daily=[s for s in OTHER_FAMILIES if s.startswith(ONE_CARD)])
)
def test_headers_state_what_the_planner_says(script):
    size = f"{COCO[0]}x{COCO[1]}"
    ((_, plan),) = plan_memory.prepare([str(ROOT / "scripts" / script), "--picture", size]).planned
    assert stated_gib(script) == pytest.approx(plan.total / GIB, abs=0.2)
    assert plan.total < (CARD if script.startswith(ONE_CARD) else 80 * GIB)
    (positions,) = re.findall(r"A picture of COCO takes up to (\d+)", (ROOT / "scripts" / script).read_text())
    assert f"of {size} pixels that take {positions} positions each" in " ".join(plan.notes)


@pytest.mark.slow
@pytest.mark.parametrize("size", OTHER_SIZES)
def test_headers_of_the_evaluation_state_what_sampling_takes(size, runner, tmp_path):
    answer, _ = runner.run(f"{size}/evaluate.sh", DATA_DIR=str(tmp_path), BASE_MODEL="/base")
    flags = parsed(answer, tmp_path)
    name = size.removesuffix("-1x24gb")
    base = BaseSpec.published(name, picture=COCO, bits=flags["bits"], dtype=torch.bfloat16)
    bank, rows = Bank(base, LoraSettings()), flags["batch_size"]
    prompt, response = flags["query_len"] - 1 + base.positions, flags["response_len"]
    drawing = rows * base.vocabulary * (DRAWING_TABLES * FLOAT + base.dtype.itemsize)
    first = prefill(bank, rows, prompt, merge=True)
    last = decoding(bank, rows, prompt, response, merge=True) + drawing
    held = sum(part.size for part in base_parts(base)) + FLOAT * sum(adapter_numbers(base, bank.lora))
    total = held + rows * base.feature_bytes + max(first, last) + CONTEXT
    assert stated_gib(f"{size}/evaluate.sh") == pytest.approx(total / GIB, abs=0.2)


def expected(script: str) -> dict[str, object]:
    """The published hyper-parameters, but for what a base of another family and one card change."""
    size, name = script.split("/")
    if size == ONE_CARD:
        published, different = DIFFERENT[name.removesuffix(".sh")]
        different = different | {"bits": 16}
    else:
        published, different = f"13b-v1.5-336/{name}", {}
        if "rl_model" in name:
            different = {"rollout_per_device_batch_size": 64}
    ours = {"version": "chat", "image_aspect_ratio": None, "model_max_length": 2624}
    return HYPER_PARAMETERS[published] | different | ours


@pytest.mark.parametrize("script", OTHER_FAMILIES)
def test_hyper_parameters_are_the_published_ones_but_for_what_is_said(script, runner, tmp_path):
    given = {"DATA_DIR": str(tmp_path / "my data"), "BASE_MODEL": str(tmp_path / "my base")}
    (call,) = runner.run(script, "--use_cpu", "True", **given)
    settings = parsed(call, tmp_path)
    wanted = expected(script)
    aspect_ratio = wanted.pop("image_aspect_ratio")
    assert aspect_ratio is None and "--image_aspect_ratio" not in call.words
    assert {name: settings[name] for name in wanted} == wanted
    processes = "1" if script.startswith(ONE_CARD) else "8"
    assert parse_torchrun(list(call.words)).nproc_per_node == processes
    assert "Time: not measured" in header(script)


@pytest.mark.parametrize("size", OTHER_SIZES)
def test_one_base_serves_all_stages_and_each_finds_what_the_last_one_wrote(size, runner: ScriptRunner):
    scripts = [script for script in OTHER_FAMILIES if script.startswith(f"{size}/")]
    (reward_model,), (init,), (ppo,) = (runner.run(script) for script in scripts)
    answer, _ = runner.run(f"{size}/evaluate.sh")
    bases = [call.value("model_name_or_path") for call in (reward_model, init)]
    bases += [ppo.value("base_model_name"), ppo.value("reward_base_model_name")]
    assert {*bases, answer.value("base_model_name")} == {HUB[size]}
    assert ppo.value("reward_model_name_or_path") == reward_model.value("output_dir")
    assert ppo.value("reward_prompt_file") == reward_model.value("reward_prompt_file")
    assert ppo.value("policy_model_name_or_path") == init.value("output_dir")
    assert answer.value("adapter") == ppo.value("output_dir")
    assert answer.value("version") == "chat"
    assert HUB[size] in (ROOT / "docs/weights_and_data.md").read_text()


@pytest.mark.parametrize("script", [*OTHER_FAMILIES, *(f"{size}/evaluate.sh" for size in OTHER_SIZES)])
def test_limits_of_a_picture_are_the_bases_unless_named(script, runner: ScriptRunner, tmp_path):
    names = ("min_pixels", "max_pixels")
    bare = runner.run(script)[0]
    assert not {f"--{name}" for name in names} & {*bare.words}
    given = {"MIN_PIXELS": "200704", "MAX_PIXELS": "313600"}
    named = runner.run(script, **given)[0]
    assert [named.value(name) for name in names] == [*given.values()]
    mine = {"DATA_DIR": str(tmp_path), "BASE_MODEL": str(tmp_path / "base")}
    settings = parsed(runner.run(script, "--use_cpu", "True", **mine, **given)[0], tmp_path)
    assert [settings[name] for name in names] == [200704, 313600]


@pytest.mark.parametrize("script", ["7b-1x24gb/train_rl_model.sh", "7b-1x24gb/evaluate.sh"])
def test_pictures_of_a_llava_have_no_limits_whatever_the_environment_says(script, runner: ScriptRunner):
    assert "--max_pixels" not in runner.run(script, MAX_PIXELS="313600")[0].words

"""The tiny pipeline as a chain of scripts, and the DeepSpeed configurations as the programs read them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.recorded_scripts import ROOT, ScriptRunner
from tests.support.tiers import tiered

ZERO_PROBE = """
import json, sys
from llava_rlhf.initialize_policy_model import ARGUMENTS
from llava_rlhf.runs.parsing import StrictParser
training = StrictParser(ARGUMENTS).parse(sys.argv[1:])[0]
config = training.hf_deepspeed_config
config.trainer_config_process(training)
print(json.dumps({"config": config.config, "stage": training.deepspeed_plugin.zero_stage}))
"""


@pytest.fixture
def chain(tmp_path):
    """The calls of `run_all.sh`."""
    runner = ScriptRunner(ROOT, tmp_path)
    return runner, runner.run("tiny/run_all.sh", RUN_DIR="my run", JOBS="1")


def test_run_all_runs_every_stage_in_order(chain):
    _, calls = chain
    assert [call.module.removeprefix("llava_rlhf.").removeprefix("tiny_world.") for call in calls] == [
        "make_world",
        *("initialize_policy_model", "export_policy"),
        *("answer_prompts", "label_preferences"),
        "train_reward_model",
        *("answer_prompts", "evaluate") * 2,
        "train_reward_model",
        "initialize_policy_model",
        "train_rl_model",
        *("answer_prompts", "evaluate") * 3,
        *("answer_prompts", "score", "score"),
        "report",
    ]


def test_run_all_hands_every_result_to_the_next_stage(chain):
    runner, calls = chain
    world, sft, export, sample, label, plain, *before, factual, init, ppo = calls[:13]
    evaluation, (best, *scored, report) = before + calls[13:-4], calls[-4:]
    run = runner.cwd / "my run"
    assert {call.value("image_folder") for call in calls if "--image_folder" in call.words} == {
        f"{world.value('output_dir')}/images"
    }
    assert export.value("adapter") == sft.value("output_dir") == str(run / "sft")
    merged = export.value("output_dir")
    for call in (sample, ppo, evaluation[0]):
        assert call.value("base_model_name") == merged
    for call in (plain, factual, init):
        assert call.value("model_name_or_path") == merged
        assert call.value("dataset_path") == {init: f"{run}/world/policy_init.json"}.get(
            call, label.value("output_file")
        )
    assert label.value("answers") == sample.value("output_file")
    assert plain.value("output_dir") != factual.value("output_dir") == ppo.value("reward_model_name_or_path")
    assert ppo.value("policy_model_name_or_path") == init.value("output_dir")
    adapters = [call.value("adapter") if "--adapter" in call.words else None for call in evaluation[::2]]
    assert adapters == [None, None, init.value("output_dir"), *[ppo.value("output_dir")] * 2]
    files = [call.value("output_file") for call in evaluation]
    assert len(set(files)) == 10
    assert best.value("adapter") == init.value("output_dir") and best.value("samples") == "16"
    judges = [call.value("reward_model_name_or_path") for call in scored]
    assert judges == [plain.value("output_dir"), factual.value("output_dir")]
    assert {call.value("dataset_path") for call in scored} == {best.value("output_file")}
    shown = [*files[::2], *(call.value("output_file") for call in scored)]
    assert sorted(word.partition("=")[2] for word in report.words if word.endswith(".jsonl")) == sorted(shown)
    assert [call.value("answers") for call in evaluation[1::2]] == files[::2]
    assert report.value("ppo") == ppo.value("output_dir") and report.value("ppo_report_file")


def test_run_all_passes_shared_variables_on_and_refuses_those_of_one_stage(tmp_path):
    runner = ScriptRunner(ROOT, tmp_path)
    calls = runner.run("tiny/run_all.sh", SEED="7", MAX_STEPS="3", JOBS="1")
    assert {call.value("seed") for call in calls if "--seed" in call.words} == {"7"}
    assert [call.value("max_steps") for call in calls if "--max_steps" in call.words] == ["3"] * 5
    for wrong in ({"OUTPUT_DIR": "x"}, {"FACTS": "False"}, {"IMAGE_FOLDER": "x"}):
        done = runner.start("tiny/run_all.sh", **wrong)
        assert done.returncode == 2 and next(iter(wrong)) in done.stderr and not runner.calls()
    done = runner.start("tiny/run_all.sh", LANES="1")
    assert done.returncode == 2 and "LANES is now called JOBS" in done.stderr and not runner.calls()
    done = runner.start("tiny/run_all.sh", "--seed", "1")
    assert done.returncode == 2 and "takes no arguments (--seed 1)" in done.stderr and not runner.calls()


def test_a_family_has_its_own_base_template_and_pictures_in_every_stage(tmp_path):
    runner = ScriptRunner(ROOT, tmp_path)
    first, second = (
        runner.run("tiny/run_all.sh", JOBS="1", RUN_DIR="", **given)
        for given in ({}, {"FAMILY": "qwen2_5_vl"})
    )
    for calls, template, pictures, base, folder in (
        (first, "tiny", "noisy", "base", "tiny"),
        (second, "chat", "drawn", "base-qwen2_5_vl", "tiny-qwen2_5_vl"),
    ):
        world, sft = calls[:2]
        assert {call.value("version") for call in calls if "--version" in call.words} == {template}
        assert world.value("pictures") == pictures
        assert sft.value("model_name_or_path") == str(ROOT / "scripts/tiny" / base)
        assert world.value("output_dir") == str(ROOT / "runs" / folder / "world")
    assert [call.module for call in first] == [call.module for call in second]


@pytest.mark.parametrize("script", ["quickstart.sh", "tiny/run_all.sh", "tiny/build_base.sh"])
def test_a_family_without_a_tiny_world_is_refused_with_the_list(script, tmp_path):
    runner = ScriptRunner(ROOT, tmp_path)
    done = runner.start(script, FAMILY="qwen3_vl")
    assert done.returncode == 2 and not runner.calls()
    assert "error: FAMILY=qwen3_vl: there is no tiny world for it; choose llava or qwen2_5_vl" in done.stderr


def test_run_all_stops_at_the_first_failure(tmp_path):
    runner = ScriptRunner(ROOT, tmp_path)
    done = runner.start("tiny/run_all.sh", FAIL_ON="label_preferences")
    assert done.returncode != 0
    assert [call.module for call in runner.calls()][-1] == "llava_rlhf.tiny_world.label_preferences"


@pytest.mark.distributed
@pytest.mark.parametrize(("name", "stage"), tiered([("zero2", 2), ("zero3", 3)], daily=[("zero3", 3)]))
def test_zero_configurations_are_filled_by_the_trainer(name, stage, tmp_path):
    """In a process of its own: reading `--deepspeed` starts a process group. No "auto" may be left."""
    runner = ScriptRunner(ROOT, tmp_path)
    (tmp_path / "data.json").touch()
    (call,) = runner.run(
        "13b-v1.5-336/initialize_policy_model.sh",
        *("--use_cpu", "True"),
        DEEPSPEED=str(ROOT / "scripts" / f"{name}.json"),
        DIALOGUES=str(tmp_path / "data.json"),
        IMAGE_FOLDER=str(tmp_path),
    )
    single = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", ZERO_PROBE, *call.arguments],
        env={
            **os.environ,
            **single,
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        },
        cwd=Path(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    read = json.loads(done.stdout.splitlines()[-1])
    config = read["config"]
    assert read["stage"] == stage and "auto" not in json.dumps(config)
    # one process: 8 dialogues × 2
    assert (config["train_micro_batch_size_per_gpu"], config["gradient_accumulation_steps"]) == (8, 2)
    assert config["train_batch_size"] == 16
    assert config["bf16"]["enabled"] is True and config["gradient_clipping"] == 0.3
    assert config["zero_allow_untested_optimizer"] is True

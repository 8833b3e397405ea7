"""The scripts whose base ZeRO-3 divides: those of the 7B of the family but for what that takes, and the memory in their headers."""

from __future__ import annotations

import re

import pytest

from llava_rlhf import plan_memory
from llava_rlhf.memory_planning.plan import GIB
from tests.scripts.test_one_card_scripts import header
from tests.support.recorded_scripts import ROOT, parsed

LARGEST, SMALLER = "qwen2.5-vl-72b", "qwen2.5-vl-7b"
NAMES = ("train_reward_model.sh", "initialize_policy_model.sh", "train_rl_model.sh")
DIFFERENT = {
    "train_rl_model.sh": {
        "bits": 16,
        "optim": "adamw_torch",
        "rollout_per_device_batch_size": 32,
        "step_per_device_batch_size": 4,
        "rollout_engine": "vllm",
        "vllm_servers": ["http://127.0.0.1:8000"],
    }
}


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_those_of_the_smaller_size_but_for_what_is_said(name, runner, tmp_path):
    given = {"DATA_DIR": str(tmp_path / "data"), "OUTPUT_DIR": str(tmp_path / "run")}
    given |= {"BASE_MODEL": str(tmp_path / "base")}
    given |= {"POLICY_MODEL": str(tmp_path / "policy"), "REWARD_MODEL": str(tmp_path / "reward")}
    ours, theirs = (
        runner.run(f"{size}/{name}", "--use_cpu", "True", **given)[0] for size in (LARGEST, SMALLER)
    )
    assert ours.value("deepspeed").endswith("scripts/zero3.json")
    ours, theirs = parsed(ours, tmp_path), parsed(theirs, tmp_path)
    plain = (int, float, str, list, type(None))  # of other values two are never equal
    different = {
        key: value for key, value in ours.items() if isinstance(value, plain) and value != theirs[key]
    }
    assert different == DIFFERENT.get(name, {})


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_headers_state_what_the_planner_says(name):
    script = f"{LARGEST}/{name}"
    ((_, plan),) = plan_memory.prepare([str(ROOT / "scripts" / script), "--picture", "640x640"]).planned
    (stated,) = re.findall(
        r"Memory: ([\d.]+) GiB a GPU \(planned for pictures of 640x640 pixels", header(script)
    )
    assert float(stated) == pytest.approx(plan.total / GIB, abs=0.2)
    assert plan.total < 80 * GIB
    assert "Never run" in header(script) and "Time: not measured" in header(script)

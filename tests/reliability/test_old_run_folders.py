"""A run folder that an earlier state of this repository wrote is continued, to the numbers that it would have reached there.

`tests/references/old_runs` was written before the files of `llava_rlhf/` moved into rooms: each run was whole, and what
came after its second checkpoint is kept apart in `metrics_to_the_end.jsonl`.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from llava_rlhf import initialize_policy_model, train_reward_model, train_rl_model
from llava_rlhf.ppo.checkpoints import check_roles
from llava_rlhf.runs.run_folder import read_json_lines
from tests.support.ppo_settings import PPO_WITH_STATE
from tests.support.tiny_data import TinyData, policy_command, ppo_command, reward_command, write_tiny_data

OLD = Path(__file__).parents[1] / "references" / "old_runs"
TRAINER = {
    "max_steps": 4,
    "lora_r": 2,
    "lora_dropout": 0.2,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 1,
    "logging_steps": 1,
    "eval_size": 4,
    "per_device_train_batch_size": 4,
}
PPO = {**PPO_WITH_STATE, "normalize_returns": False, "max_steps": 3}
CLOCKS = ("time/", "runtime", "per_second")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TinyData:
    """The rows that those runs were made from, and the images as they were then."""
    return dataclasses.replace(
        write_tiny_data(tmp_path_factory.mktemp("old") / "data"), images=OLD / "images"
    )


def commands(data: TinyData, folder: Path) -> dict[str, tuple[ModuleType, list[str]]]:
    """Run → program and command line that continues it in `folder`."""
    base, policy, reward = OLD / "base", OLD / "start_policy", OLD / "start_reward"
    ppo = PPO | {"reward_base_model_name": base}  # the card names a folder of then
    return {
        "policy": (initialize_policy_model, policy_command(data, base, folder, **TRAINER)),
        "reward": (train_reward_model, reward_command(data, base, folder, **TRAINER)),
        "ppo": (train_rl_model, ppo_command(data, base, policy, reward, folder, **ppo)),
    }


def numbers(path: Path) -> list[dict[str, float]]:
    """The lines of a file of metrics without what a clock said; how loss sums are averaged over a whole run is not continued."""
    lines = read_json_lines(path)
    return [
        {key: value for key, value in line.items() if not any(clock in key for clock in CLOCKS)}
        for line in lines
        if "train_loss" not in line
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["policy", "reward", "ppo"])
def test_an_old_run_goes_on(name, data, tmp_path):
    folder = tmp_path / name
    shutil.copytree(OLD / name, folder)
    program, argv = commands(data, folder)[name]
    program.run(program.prepare(argv))
    found, expected = numbers(folder / "metrics.jsonl"), numbers(OLD / name / "metrics_to_the_end.jsonl")
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    assert len(found) > len(read_json_lines(OLD / name / "metrics.jsonl")), "nothing was done"
    for line, then in zip(found, expected, strict=True):
        assert line == pytest.approx(then, rel=1e-4, abs=1e-5)  # sums take another order on other processors


def test_an_old_run_under_other_settings_is_refused(data, tmp_path):
    folder = tmp_path / "policy"
    shutil.copytree(OLD / "policy", folder)
    program, argv = commands(data, folder)["policy"]
    with pytest.raises(ValueError, match=r"learning_rate: then 0\.001, now 0\.01"):
        program.prepare([*argv, "--learning_rate", "0.01"])


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("ppo", {"overlong_responses": "mask"}, "overlong_responses: then penalize, now mask"),
        ("ppo", {"normalize_returns": True}, "normalize_returns: then False, now True"),
        ("reward", {"reward_head": "mlp"}, "reward_head: then linear, now mlp"),
    ],
)
def test_what_an_old_run_had_no_choice_of_was_at_its_default(name, change, told, data, tmp_path):
    folder = tmp_path / name
    shutil.copytree(OLD / name, folder)
    program, argv = commands(data, folder)[name]
    more = [word for flag, value in change.items() for word in (f"--{flag}", str(value))]
    with pytest.raises(ValueError, match=told):
        program.prepare([*argv, *more])


def test_a_checkpoint_with_a_critic_is_not_continued_without_one(data, tmp_path):
    """Whatever is allowed: the optimizer would not fit."""
    folder = tmp_path / "ppo"
    shutil.copytree(OLD / "ppo", folder)
    program, argv = commands(data, folder)["ppo"]
    argv += ["--advantage_estimator", "reinforce"]
    with pytest.raises(ValueError, match="advantage_estimator: then gae, now reinforce"):
        program.prepare(argv)
    with pytest.raises(
        ValueError, match="was written with a critic, and this --advantage_estimator trains none"
    ):
        program.prepare([*argv, "--allow_changed_arguments", "True"])
    shutil.rmtree(folder / "checkpoint-2" / "lora_value")
    with pytest.raises(
        ValueError, match="was written without a critic, and this --advantage_estimator trains one"
    ):
        check_roles(folder / "checkpoint-2", critic=True)
    check_roles(folder / "checkpoint-2", critic=False)

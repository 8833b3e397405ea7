"""`--report_to tensorboard` writes the same numbers as `metrics.jsonl`, in PPO and in the Trainer programs."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from llava_rlhf import train_reward_model
from llava_rlhf.runs.run_folder import read_json_lines
from tests.support.ppo_world import run_ppo
from tests.support.tiny_data import ppo_command, reward_command


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag → (step, value) of all event files below a folder."""
    found: dict[str, list[tuple[int, float]]] = {}
    for file in folder.rglob("events.out.tfevents.*"):
        events = EventAccumulator(str(file)).Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, []).extend((event.step, event.value) for event in events.Scalars(tag))
    return found


def test_ppo_metrics_reach_tensorboard(tiny_data, tiny_base, policy_run, reward_run, tmp_path):
    run_ppo(ppo_command(tiny_data, tiny_base, policy_run, reward_run, tmp_path, report_to="tensorboard"))
    logged = scalars(tmp_path)
    for line in read_json_lines(tmp_path / "metrics.jsonl"):
        step = line.pop("step")
        for name, value in line.items():
            assert dict(logged[name])[step] == pytest.approx(value, rel=1e-5, abs=1e-6)


def test_reward_model_metrics_reach_tensorboard(tiny_data, tiny_base, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    run = tmp_path / "run"
    prepared = train_reward_model.prepare(reward_command(tiny_data, tiny_base, run, report_to="tensorboard"))
    train_reward_model.run(prepared)
    losses = {line["step"]: line["loss"] for line in read_json_lines(run / "metrics.jsonl") if "loss" in line}
    assert losses
    logged = dict(scalars(tmp_path / "events")["train/loss"])
    assert logged == {step: pytest.approx(loss, rel=1e-5) for step, loss in losses.items()}

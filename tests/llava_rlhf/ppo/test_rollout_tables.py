"""The table of rollouts in Weights & Biases: which steps, which rows, which pictures; and training does not notice it.

The package itself is replaced by the two names that are used of it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image

from llava_rlhf.ppo import assembly
from llava_rlhf.ppo.arguments import PPOArguments
from llava_rlhf.ppo.trackers import COLUMNS, PICTURE_SIDE, SHOWN_ROWS, RolloutTable, names, shown_rows
from llava_rlhf.runs.run_folder import read_json_lines
from tests.support.ppo_world import metrics_of, run_ppo
from tests.support.run_folders import rollout
from tests.support.tiny_data import ppo_command


@dataclass
class Tracker:
    """Keeps what accelerate's tracker would send."""

    tables: list = field(default_factory=list)

    def log_table(self, table_name, columns, data, step):
        self.tables.append((table_name, step, [dict(zip(columns, row, strict=True)) for row in data]))


@pytest.fixture
def wandb(monkeypatch):
    module = ModuleType("wandb")
    module.Image = lambda picture, caption: SimpleNamespace(size=picture.size, caption=caption)
    monkeypatch.setitem(sys.modules, "wandb", module)


def test_a_table_by_hand(wandb, tmp_path):
    Image.new("RGB", (2 * PICTURE_SIDE, PICTURE_SIDE), "red").save(tmp_path / "red.png")
    tracker = Tracker()
    table = RolloutTable(tracker, str(tmp_path), every=3)
    rows = [
        rollout(0, 2.0),
        rollout(1, 1.0, image=["gone.png"]),
        rollout(2, 3.0, image=[], captions=["a", "b"]),
    ]
    for step in range(1, 8):
        table.log(step, rows)
    assert [(name, step) for name, step, _ in tracker.tables] == [("rollouts", step) for step in (1, 3, 6)]
    lowest, middle, highest = tracker.tables[1][2]
    assert [row["score"] for row in (lowest, middle, highest)] == [1.0, 2.0, 3.0]
    picture = middle["picture"]
    assert (picture.size, picture.caption) == ((PICTURE_SIDE, PICTURE_SIDE // 2), "red.png")
    assert lowest["picture"] is None and highest["picture"] is None
    assert highest["captions the reward model saw"] == "a\nb" and middle["step"] == 3
    told = {COLUMNS[name]: rollout(0, 2.0)[name] for name in COLUMNS if name != "captions"}
    assert {name: middle[name] for name in told} == told


def test_a_table_is_never_large():
    rows = [rollout(row, float((row * 7) % 100)) for row in range(100)]
    half = SHOWN_ROWS // 2
    scores = [row["score"] for row in shown_rows(rows)]
    assert scores == [*range(half), *range(100 - half, 100)]


def test_who_gets_a_table():
    accelerator = SimpleNamespace(get_tracker=lambda name: name)

    def table(report_to: str, steps: int = 5) -> RolloutTable | None:
        ppo = SimpleNamespace(report_to=report_to, rollout_table_steps=steps)
        settings = SimpleNamespace(ppo=ppo, data=SimpleNamespace(image_folder="images"))
        return assembly.make_rollout_table(accelerator, settings)

    assert table("tensorboard,wandb") == RolloutTable("wandb", "images", 5)
    assert table("wandb", 0) is table("none") is table("tensorboard") is None
    assert names("none") == [] and names("tensorboard,wandb") == ["tensorboard", "wandb"]
    with pytest.raises(ValueError, match="--rollout_table_steps -1: must be at least 0"):
        PPOArguments("base", "policy", "reward", "out", rollout_table_steps=-1)


def test_a_run_shows_its_rollouts_and_trains_as_without(
    wandb, monkeypatch, tiny_data, tiny_base, policy_run, reward_run, tmp_path
):
    def run(name: str):
        run_ppo(ppo_command(tiny_data, tiny_base, policy_run, reward_run, tmp_path / name))
        return metrics_of(tmp_path / name)

    without = run("without")
    tracker = Tracker()
    monkeypatch.setattr(
        assembly,
        "make_rollout_table",
        lambda accelerator, settings: RolloutTable(tracker, settings.data.image_folder, every=2),
    )
    assert run("with") == without
    assert [step for _, step, _ in tracker.tables] == [1, 2]
    written = read_json_lines(tmp_path / "with/rollouts/000002.jsonl")
    shown = tracker.tables[1][2]
    assert sorted(row["response"] for row in shown) == sorted(row["response"] for row in written)
    assert sum(row["picture"] is not None for row in shown) == sum(bool(row["image"]) for row in written) > 0

"""What shows a run elsewhere: which trackers there are, and the table of rollouts in Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest, nsmallest
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelerate.tracking import WandBTracker
    from PIL.Image import Image

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}
TABLE = "rollouts"
SHOWN_ROWS, PICTURE_SIDE = 16, 256  # of a table; pixels
COLUMNS = {
    "question": "question",
    "captions": "captions the reward model saw",
    "response": "response",
    "answer_type": "answer type",
    "stop_reason": "ended by",
    "length": "tokens",
    "score": "score",
    "reward_model": "reward model",
    "stop_penalty": "stop penalty",
    "length_bonus": "length bonus",
    "correct_bonus": "correct bonus",
    "kl": "KL",
}


def names(report_to: str) -> list[str]:
    """The trackers that `--report_to` names."""
    return [] if report_to == "none" else report_to.split(",")


def check_trackers(report_to: str) -> None:
    """Raises ValueError for a tracker that there is not, or whose package is missing."""
    for name in names(report_to):
        if name not in PACKAGES:
            raise ValueError(f"--report_to {name}: choose from none, {', '.join(PACKAGES)}")
        if find_spec(PACKAGES[name]) is None:
            raise ValueError(f"--report_to {name}: the package {PACKAGES[name]} is not installed")


@dataclass(frozen=True)
class RolloutTable:
    """Rollouts of some steps with their pictures, in Weights & Biases.

    Attributes:
        tracker: accelerate's, which has begun.
        image_folder: where the pictures lie.
        every: a table after the first step, and after every so many.
    """

    tracker: WandBTracker
    image_folder: str
    every: int

    def log(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show the lowest and the highest scores of a step (from 1), SHOWN_ROWS in all."""
        if step != 1 and step % self.every:
            return
        import wandb

        table = [
            [step, self._picture(wandb, row), *(_cell(row[name]) for name in COLUMNS)]
            for row in shown_rows(rows)
        ]
        self.tracker.log_table(TABLE, ["step", "picture", *COLUMNS.values()], table, step=step)

    def _picture(self, wandb: Any, row: Mapping[str, Any]) -> Any:
        """The first picture, small; None where there is none, or it can't be read any more: that stops no training."""
        from data_utils.images import small_copy

        if not row["image"]:
            return None
        try:
            copy: Image = small_copy(self.image_folder, row["image"][0], PICTURE_SIDE)
        except ValueError:
            return None
        return wandb.Image(copy, caption=row["image"][0])


def shown_rows(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """All of a few rows; of many the lowest scores and the highest, half each, lowest first."""
    if len(rows) <= SHOWN_ROWS:
        return sorted(rows, key=_score)
    half = SHOWN_ROWS // 2
    return [*nsmallest(half, rows, key=_score), *reversed(nlargest(half, rows, key=_score))]


def _score(row: Mapping[str, Any]) -> float:
    return row["score"]


def _cell(value: Any) -> Any:
    return "\n".join(value) if isinstance(value, list) else value

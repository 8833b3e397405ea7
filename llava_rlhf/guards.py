"""Non-finite numbers stop the run, with the batch in a file and without spoiling what was saved."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from llava_rlhf.rollout import Experience
from llava_rlhf.run_folder import write_text_whole


class NonFiniteError(RuntimeError):
    """A loss, score or gradient became infinite or NaN."""


class Guard:
    """Checks numbers on all processes together, so that all stop at the same place.

    Attributes:
        weights_changed: whether the current PPO step has already moved weights; if not, the state before the step can
            still be saved as a checkpoint.
    """

    def __init__(self, accelerator: Accelerator, output_dir: str | Path):
        self.accelerator = accelerator
        self.output_dir = Path(output_dir)
        self.weights_changed = False

    def check_experience(self, experience: Experience, step: int) -> None:
        """Refuse non-finite scores, log-probabilities or values. Raises NonFiniteError on every process."""
        per_row = torch.stack(
            [
                experience.scores,
                experience.values.sum(dim=1),
                experience.log_probs.sum(dim=1),
                experience.ref_log_probs.sum(dim=1),
            ]
        )
        bad = (~torch.isfinite(per_row)).any(dim=0).nonzero().flatten().tolist()
        self._stop_if(bool(bad), "a score, value or log-probability", experience, bad, step)

    def check_rewards(self, rewards: Tensor, experience: Experience, step: int) -> None:
        """Refuse non-finite token rewards float[R, T]. Raises NonFiniteError on every process."""
        bad = (~torch.isfinite(rewards.sum(dim=1))).nonzero().flatten().tolist()
        self._stop_if(bool(bad), "a reward", experience, bad, step)

    def check_losses(
        self, losses: Sequence[Tensor], experience: Experience, rows: Sequence[int], step: int
    ) -> None:
        """Refuse non-finite losses of an optimizer step's micro-batches, before its weights move (under DeepSpeed after).

        Raises NonFiniteError on every process.
        """
        self._stop_if(
            not bool(torch.isfinite(torch.stack(list(losses))).all()), "the loss", experience, rows, step
        )

    def check_norm(self, norm: float, experience: Experience, rows: Sequence[int], step: int) -> None:
        """Refuse a non-finite gradient, before it reaches the weights unless DeepSpeed's engine has just applied it.

        Raises NonFiniteError on every process.
        """
        # fp16 scaling meets infinite gradients all the time, and skips such a step itself.
        bad = not math.isfinite(norm) and self.accelerator.mixed_precision != "fp16"
        self._stop_if(bad, "the gradient", experience, rows, step)

    def _stop_if(
        self, bad_here: bool, what: str, experience: Experience, rows: Sequence[int], step: int
    ) -> None:
        flag = torch.tensor(int(bad_here), device=self.accelerator.device)
        if not int(self.accelerator.reduce(flag, reduction="sum")):
            return
        path = self.output_dir / f"nonfinite-step{step + 1}-process{self.accelerator.process_index}.json"
        if bad_here:
            write_text_whole(path, json.dumps([_describe(experience, row) for row in rows], indent=2) + "\n")
        raise NonFiniteError(
            f"step {step + 1}: {what} is not finite; the rows are in {self.output_dir}/nonfinite-*.json"
        )


def _describe(experience: Experience, row: int) -> dict[str, object]:
    item = experience.items[row]
    return {
        "row": item.row,
        "id": item.id,
        "image": list(item.image_names),
        "question": item.question,
        "captions": list(item.captions),
        "response": experience.texts[row],
        "response_ids": experience.responses[row][experience.response_mask[row]].tolist(),
        "score": repr(float(experience.scores[row])),
        "values": [repr(float(value)) for value in experience.values[row]],
        "log_probs": [repr(float(value)) for value in experience.log_probs[row]],
        "ref_log_probs": [repr(float(value)) for value in experience.ref_log_probs[row]],
    }

"""What PPO refuses to train on: numbers that are not finite, and a policy past the limits that the user set."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from llava_rlhf.ppo.experience import Experience
from llava_rlhf.ppo.limits import GuardArguments, passed_limits
from llava_rlhf.ppo.reward_shaping import ShapedReward
from llava_rlhf.runs.run_folder import read_json_lines
from llava_rlhf.runs.stopping import Alarm, GuardError, LimitError, NonFiniteError

__all__ = ["Guard", "GuardError", "LimitError", "NonFiniteError"]

ROWS_AT_A_LIMIT = 16  # written by each process
HISTORY = ("objective/rewards", "objective/rewards_std")

logger = logging.getLogger(__name__)


class Guard:
    """Checks numbers on all processes together, so that all stop at the same place.

    Args:
        accelerator: processes.
        output_dir: run folder.
        limits: those of the user; None: none.

    Attributes:
        weights_changed: whether the current PPO step has already moved weights; if not, the state before the step can
            still be saved as a checkpoint.
    """

    def __init__(
        self, accelerator: Accelerator, output_dir: str | Path, limits: GuardArguments | None = None
    ):
        self.alarm = Alarm(accelerator, output_dir)
        self.limits: GuardArguments = limits or GuardArguments()
        self.weights_changed = False
        self._history: list[Mapping[str, float]] = []
        self._warned: set[str] = set()

    def begin(self, first_step: int) -> None:
        """Read the steps already done from `metrics.jsonl`. Called on every process."""
        accelerator, box = self.alarm.accelerator, [[]]
        if first_step > 0 and accelerator.is_main_process:
            lines = read_json_lines(self.alarm.output_dir / "metrics.jsonl")
            # A run folder of an earlier version may lack them: it starts to count here.
            done = [line for line in lines if line["step"] <= first_step and set(HISTORY) <= set(line)]
            box = [[{name: line[name] for name in HISTORY} for line in done]]
        self._history = broadcast_object_list(box)[0]

    def check_experience(self, experience: Experience, step: int) -> None:
        """Refuse non-finite logits, scores, log-probabilities or values. Raises NonFiniteError on every process."""
        per_row = {
            "a logit while sampling is": experience.finite,
            "a score of the reward model is": experience.scores.isfinite(),
            "a log-probability of the policy is": experience.log_probs.isfinite().all(dim=1),
            "a log-probability of the reference is": experience.ref_log_probs.isfinite().all(dim=1),
        }
        if experience.engine_log_probs is not None:
            per_row["a log-probability of the engine is"] = experience.engine_log_probs.isfinite().all(dim=1)
        if experience.values is not None:
            per_row["a value is"] = experience.values.isfinite().all(dim=1)
        finite = torch.stack(list(per_row.values()))
        bad = (~finite.all(dim=0)).nonzero().flatten().tolist()
        found = dict(zip(per_row, (~finite.all(dim=1)).tolist(), strict=True))
        self.alarm.stop_on_non_finite(found, step, lambda: _describe(experience, bad))

    def check_rewards(self, rewards: Tensor, experience: Experience, step: int) -> None:
        """Refuse non-finite token rewards float[R, T]. Raises NonFiniteError on every process."""
        bad = (~torch.isfinite(rewards.sum(dim=1))).nonzero().flatten().tolist()
        self.alarm.stop_on_non_finite({"a reward is": bool(bad)}, step, lambda: _describe(experience, bad))

    def check_losses(
        self, losses: Sequence[Tensor], experience: Experience, rows: Sequence[int], step: int
    ) -> None:
        """Refuse non-finite losses of an optimizer step's micro-batches, before its weights move.

        Raises NonFiniteError on every process.
        """
        bad = not bool(torch.isfinite(torch.stack(list(losses))).all())
        self.alarm.stop_on_non_finite({"the loss is": bad}, step, lambda: _describe(experience, rows))

    def check_norm(self, norm: float, experience: Experience, rows: Sequence[int], step: int) -> None:
        """Refuse a non-finite gradient, before it reaches the weights (DeepSpeed's engine has left such a step out).

        Raises NonFiniteError on every process.
        """
        # fp16 scaling meets infinite gradients all the time, and skips such a step itself.
        bad = not math.isfinite(norm) and self.alarm.accelerator.mixed_precision != "fp16"
        self.alarm.stop_on_non_finite({"the gradient is": bad}, step, lambda: _describe(experience, rows))

    def check_limits(
        self, metrics: Mapping[str, float], experience: Experience, shaped: ShapedReward, step: int
    ) -> None:
        """Stop or warn, as the user chose, where the policy is past a limit; remembers the step's metrics.

        Raises LimitError on every process.
        """
        passed = passed_limits(self.limits, metrics, self._history)
        self._history.append({name: metrics[name] for name in HISTORY})
        if not passed:
            return
        message = f"step {step + 1}: {'; '.join(passed.values())}"
        stopping = self.limits.guard_action == "stop"
        if (
            stopping or not set(passed) <= self._warned
        ):  # the rows once: every step writes its rollouts anyway
            self._warned |= set(passed)
            severity = shaped.kl.sum(dim=1) if "max_kl" in passed else -shaped.score
            worst = severity.argsort(descending=True)[:ROWS_AT_A_LIMIT].tolist()
            self.alarm.write_rows(f"limit-step{step + 1}", _describe(experience, worst))
        if stopping:
            raise LimitError(
                f"{message}. Nothing was trained on these rollouts; the worst are in "
                f"{self.alarm.output_dir}/limit-step{step + 1}-process*.json, the weights in stopped-in-step-{step + 1}, "
                "and the checkpoints are as they were"
            )
        if self.alarm.accelerator.is_main_process:
            logger.warning(message)


def _describe(experience: Experience, rows: Sequence[int]) -> list[Mapping[str, object]]:
    return [_describe_row(experience, row) for row in rows]


def _describe_row(experience: Experience, row: int) -> Mapping[str, object]:
    item, values = experience.items[row], experience.values
    return {
        "row": item.row,
        "id": item.id,
        "image": list(item.image_names),
        "question": item.question,
        "captions": list(item.captions),
        "response": experience.texts[row],
        "response_ids": experience.responses[row][experience.response_mask[row]].tolist(),
        "finite_while_sampling": bool(experience.finite[row]),
        "score": repr(float(experience.scores[row])),
        "values": None if values is None else [repr(float(value)) for value in values[row]],
        "log_probs": [repr(float(value)) for value in experience.log_probs[row]],
        "ref_log_probs": [repr(float(value)) for value in experience.ref_log_probs[row]],
    }

"""How far the engine that samples is from the model that trains: numbers of a step, and a warning where it grows."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from llava_rlhf.functional.estimators import KLEstimator
from llava_rlhf.functional.importance import engine_log_ratio, truncated_importance_weights
from llava_rlhf.functional.kl import kl_estimate
from llava_rlhf.ppo.experience import Experience
from llava_rlhf.ppo.loss_arguments import LossArguments
from llava_rlhf.runs.metrics import ENGINE_KL, NOTABLE_ENGINE_KL
from llava_rlhf.runs.run_folder import read_json_lines

ALIKE = (0.9, 1.1)  # ratios p / q within are called alike
TAIL = 0.99
LARGEST = 50.0  # nats: a larger difference counts as one of so many in the KL, which would else be infinite

logger = logging.getLogger(__name__)


def engine_metrics(accelerator: Accelerator, experience: Experience, loss: LossArguments) -> dict[str, float]:
    """`engine/…` of a step, over the real tokens of all processes; none where the engine has no numbers of its own.

    With p the probability of a token under the model that trains, and q that of the engine, KL(q‖p) is estimated by k3,
    p / q − 1 − log p / q. Of a response p / q is that of all its tokens together.

    Raises ValueError for a correction without an engine's numbers.
    """
    if experience.engine_log_probs is None:
        if loss.importance_correction != "none":
            raise ValueError(
                f"--importance_correction {loss.importance_correction}: the engine gave no log-probabilities of its own; leave "
                "it out"
            )
        return {}
    mask = experience.response_mask
    ratios = engine_log_ratio(experience.log_probs, experience.engine_log_probs, mask)
    # Processes have responses of different widths; what is padded is no token.
    padded = accelerator.pad_across_processes(ratios.masked_fill(~mask, math.nan), dim=1, pad_index=math.nan)
    everyone = accelerator.gather(padded).double()
    tokens = everyone[~everyone.isnan()]
    sizes = tokens.abs().sort().values
    bounded = tokens.clamp(-LARGEST, LARGEST)
    kl = kl_estimate(torch.zeros_like(bounded), bounded, KLEstimator.K3)
    found = {
        "engine/log_ratio": tokens.mean(),
        ENGINE_KL: kl.mean(),
        "engine/difference_p99": sizes[math.ceil(TAIL * len(sizes)) - 1],
        "engine/difference_max": sizes[-1],
        "engine/tokens_off": _off(tokens),
        "engine/rows_off": _off(everyone.nansum(dim=1)),
    }
    if loss.importance_correction != "none":
        found["engine/weight_mean"] = truncated_importance_weights(tokens, loss.importance_cap).mean()
        found["engine/weight_capped"] = (tokens.exp() > loss.importance_cap).double().mean()
    return {name: float(value) for name, value in found.items()}


def _off(log_ratios: torch.Tensor) -> torch.Tensor:
    """Share of ratios that are not alike."""
    low, high = ALIKE
    ratios = log_ratios.exp()
    return ((ratios < low) | (ratios > high)).double().mean()


@dataclass
class EngineWatch:
    """Warns once a run of an engine that answers otherwise than the model that trains, and again whenever that has doubled.

    Attributes:
        limit: `engine/kl` above which the next warning comes.
    """

    limit: float = NOTABLE_ENGINE_KL

    def begin(self, output_dir: str | Path, first_step: int) -> None:
        """Take in what the steps before `first_step` (from 0) have warned of."""
        for line in read_json_lines(Path(output_dir) / "metrics.jsonl") if first_step else ():
            if line["step"] <= first_step:
                self._passed(line)

    def look(self, step: int, metrics: Mapping[str, float], loss: LossArguments) -> None:
        """Warn where a step's metrics ask for it; `step` counts from 1."""
        before = self.limit
        if not self._passed(metrics):
            return
        again = "" if before == NOTABLE_ENGINE_KL else ", twice what it was at the last warning or more"
        weighs = loss.importance_correction != "none"
        logger.warning(
            "step %d: the engine draws answers with other probabilities than the model that trains says, KL %.2g nats a token "
            "(engine/kl; above %.2g%s), %.0f%% of the tokens more than 10%% off. bfloat16 alone makes less: see that the engine "
            "serves this step's adapter, on the same base, not quantised otherwise, at the same --temperature. %s",
            step,
            metrics[ENGINE_KL],
            before,
            again,
            100 * metrics["engine/tokens_off"],
            "Only weights up to --importance_cap hold against it"
            if weighs
            else "--importance_correction truncated weighs tokens against what is left",
        )

    def _passed(self, metrics: Mapping[str, float]) -> bool:
        kl = metrics.get(ENGINE_KL, 0.0)
        passed = kl > self.limit
        if passed:
            self.limit = 2 * kl
        return passed

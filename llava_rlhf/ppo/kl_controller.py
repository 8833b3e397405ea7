"""The weight of the KL penalty: constant, or steered towards a target."""

from __future__ import annotations

import math
from typing import Any

MAX_PROPORTIONAL_ERROR = 0.2  # Ziegler et al. 2019, section 2.2


class FixedKLController:
    """A KL coefficient that stays what it is."""

    kind = "fixed"

    def __init__(self, value: float) -> None:
        self.value = _checked("kl_coef", value, low=0.0)

    def update(self, observed_kl: float, n_steps: int) -> None:
        """Take part in the loop like :meth:`AdaptiveKLController.update`, and change nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Plain values that a JSON file can hold."""
        return {"kind": self.kind, "value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state.

        Raises:
            ValueError: it was saved by the other kind of controller.
        """
        if state["kind"] != self.kind:
            raise ValueError(
                f"the checkpoint was written with a KL controller of kind {state['kind']!r}, this run asks for "
                f"{self.kind!r}: resume with the same kind"
            )
        self.value = float(state["value"])


class AdaptiveKLController(FixedKLController):
    """A KL coefficient that follows the observed KL (Ziegler et al. 2019, arXiv 1909.08593, section 2.2).

    Args:
        init: first coefficient, in reward-model units per nat.
        target: wanted KL in nats per sequence.
        horizon: sequences over which an error of 100 % would be corrected; larger = slower.
    """

    kind = "adaptive"

    def __init__(self, init: float, target: float, horizon: float) -> None:
        super().__init__(init)
        self.target = _checked("KL target", target, low=0.0, open_interval=True)
        self.horizon = _checked("KL horizon", horizon, low=0.0, open_interval=True)

    def update(self, observed_kl: float, n_steps: int) -> None:
        """Multiply the coefficient by 1 + error * n_steps / horizon, the relative error clipped to +-0.2.

        Args:
            observed_kl: mean KL in nats per sequence of the rollouts just made, over all processes.
            n_steps: number of those rollouts (sequences).

        Raises:
            ValueError: the observed KL is not finite; the coefficient is left as it was.
        """
        if not math.isfinite(observed_kl):
            raise ValueError(f"observed KL is {observed_kl}: the KL coefficient would be lost")
        error = observed_kl / self.target - 1.0
        clipped = min(max(error, -MAX_PROPORTIONAL_ERROR), MAX_PROPORTIONAL_ERROR)
        self.value *= 1.0 + clipped * n_steps / self.horizon


def _checked(name: str, value: float, low: float, open_interval: bool = False) -> float:
    if not math.isfinite(value) or value < low or (open_interval and value == low):
        raise ValueError(
            f"{name} must be a finite number {'>' if open_interval else '>='} {low}, got {value}"
        )
    return float(value)

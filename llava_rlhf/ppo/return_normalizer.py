"""Returns in units of their running mean and spread, so that a critic learns numbers of size 1 whatever rewards there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from llava_rlhf.functional.masked import Moments
from llava_rlhf.functional.running_units import running_units
from models.divided_weights import is_divided_weight, own_part, whole
from models.heads import ScalarHead

DECAY = 0.9  # of what earlier PPO steps say, for each step


class ReturnNormalizer:
    """The critic's units (van Hasselt et al. 2016, arXiv 1602.07714, "Pop-Art").

    A value is `mean + spread · head(state)`. When mean and spread move, the head's last layer is rewritten so that every
    value stays what it was: only what it learns towards has changed.

    Args:
        head: of the value model; its last layer is linear.
    """

    def __init__(self, head: ScalarHead):
        self.head = head
        # How much was seen, and running sums of returns and of their squares.
        self.weight = self.first = self.second = 0.0

    @property
    def begun(self) -> bool:
        """Whether any return has been seen."""
        return self.weight > 0

    @property
    def mean(self) -> float:
        """Running mean of returns, in units of the rewards."""
        return running_units(self.weight, self.first, self.second)[0]

    @property
    def spread(self) -> float:
        """Running standard deviation of returns, in units of the rewards."""
        return running_units(self.weight, self.first, self.second)[1]

    def values(self, outputs: Tensor) -> Tensor:
        """What the head says, in units of the rewards."""
        return self.mean + self.spread * outputs

    def outputs(self, values: Tensor) -> Tensor:
        """What the head has to say for values or returns in units of the rewards."""
        return (values - self.mean) / self.spread

    def begin(self, returns: Moments) -> None:
        """Take the units from the first returns; a head that starts at 0 then says their mean."""
        self._see(returns)

    @torch.no_grad()
    def update(self, returns: Moments) -> None:
        """Move with the returns of a PPO step, over all processes, and keep every value what it is."""
        mean, spread = self.mean, self.spread
        self._see(returns)
        last = self.head.linear
        bias = (_read(last.bias) * spread + mean - self.mean) / self.spread
        _write(last.weight, _read(last.weight) * (spread / self.spread))
        _write(last.bias, bias)

    @torch.no_grad()
    def undo(self) -> Callable[[], None]:
        """What brings units and head back to what they are now."""
        state, last = self.state_dict(), self.head.linear
        kept = [(parameter, _read(parameter).clone()) for parameter in last.parameters()]

        @torch.no_grad()
        def bring_back() -> None:
            self.load_state_dict(state)
            for parameter, value in kept:
                _write(parameter, value)

        return bring_back

    def state_dict(self) -> dict[str, float]:
        """Plain numbers, for `state.json`."""
        return {"weight": self.weight, "first": self.first, "second": self.second}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave; the head is loaded apart."""
        self.weight, self.first, self.second = (float(state[name]) for name in ("weight", "first", "second"))

    def _see(self, returns: Moments) -> None:
        mean, var = float(returns.mean), float(returns.var)
        self.weight = DECAY * self.weight + 1 - DECAY
        self.first = DECAY * self.first + (1 - DECAY) * mean
        self.second = DECAY * self.second + (1 - DECAY) * (var + mean**2)


# DeepSpeed steps on float32 copies of its own, of which the parameters are roundings in bfloat16; ZeRO-3 divides both.
def _read(parameter: nn.Parameter) -> Tensor:
    if hasattr(parameter, "_hp_mapping") or is_divided_weight(parameter):
        from deepspeed.utils import safe_get_full_fp32_param

        return safe_get_full_fp32_param(parameter)
    return parameter.float()


def _write(parameter: nn.Parameter, value: Tensor) -> None:
    with whole([parameter], written=True):
        parameter.copy_(value)
    if is_divided_weight(parameter):
        from deepspeed.utils import safe_set_local_fp32_param

        safe_set_local_fp32_param(parameter, own_part(parameter, value))
    elif hasattr(parameter, "_hp_mapping"):
        from deepspeed.utils import safe_set_full_fp32_param

        safe_set_full_fp32_param(parameter, value)

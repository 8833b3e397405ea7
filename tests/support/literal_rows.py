"""A rollout of PPO written out."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from data_utils.items import PromptItem


@dataclass
class Row:
    """One rollout and everything said of it; lists run over its tokens."""

    item: PromptItem
    response: list[int]
    text: str
    log_probs: Tensor | None = None
    ref_log_probs: Tensor | None = None
    engine_log_probs: Tensor | None = None
    masked: bool = False
    values: Tensor | None = None
    rewards: list[float] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)

"""In which units the value head of a run speaks, and the same head in units of the rewards, which the original's files are in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from llava_rlhf.functional.running_units import running_units
from llava_rlhf.runs.checkpoints import STATE, complete_checkpoints
from llava_rlhf.runs.role_files import VALUE_HEAD
from llava_rlhf.runs.run_record import ARGUMENTS_FILE


class CriticUnits(NamedTuple):
    """A value is `mean + spread · head(state)`, all of it in units of the rewards.

    Attributes:
        mean, spread: running ones of returns; 0 and 1 where the critic learned in units of the rewards.
        sees_facts: whether it read the reward prompt before the response.
    """

    mean: float = 0.0
    spread: float = 1.0
    sees_facts: bool = False

    def folded(self, head: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same values by `weight` [1, D] and `bias` [1] alone."""
        return {"weight": head["weight"] * self.spread, "bias": head["bias"] * self.spread + self.mean}


def critic_units(folder: Path) -> CriticUnits:
    """Those of the critic in a run folder or a checkpoint.

    A run folder keeps no state: its units are those of the checkpoint with the same head, which ends every run.

    Raises:
        ValueError: the critic had units of its own, and no file there says which.
    """
    settings = _estimator(folder)
    facts = bool(settings.get("value_sees_facts", False))
    if not settings.get("normalize_returns", False):
        return CriticUnits(sees_facts=facts)
    head = (folder / VALUE_HEAD).read_bytes()
    for place in (folder, *reversed(complete_checkpoints(folder))):
        state = _json(place / STATE)
        if "returns" in state and (place / VALUE_HEAD).read_bytes() == head:
            return CriticUnits(*running_units(**state["returns"]), facts)
    raise ValueError(
        f"{folder}: its critic learned returns in units of their mean and spread (--normalize_returns True), and the original "
        f"knows none; no {STATE} in it or in its checkpoints says which they were. Name a checkpoint of the run as --input, or "
        "its policy alone (lora_policy)"
    )


def _estimator(folder: Path) -> Mapping[str, Any]:
    """The critic's settings that the run recorded; a folder that a run stopped into lies in the run's."""
    record = _json(folder / ARGUMENTS_FILE) or _json(folder.parent / ARGUMENTS_FILE)
    return record.get("EstimatorArguments", {})


def _json(path: Path) -> Mapping[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

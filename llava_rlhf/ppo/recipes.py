"""Which defaults belong together: the settings that were published, and what docs/optimisers.md measured to be better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PUBLISHED, MODERN = "published", "modern"
# Where `modern` differs from the published settings, which are the defaults of the fields themselves.
UNITS_OF_RETURNS: Mapping[str, Any] = {"normalize_returns": True}
SIGHT_OF_FACTS: Mapping[str, Any] = {"value_sees_facts": True}


def recipe_defaults(
    recipe: str, critic: bool, facts: bool = True, whitened: bool = False
) -> Mapping[str, Any]:
    """Defaults by flag that a recipe puts in the place of the fields' own; a flag that is given wins over them.

    Nothing is set that other settings would refuse: what a user did not say must not stop a run.

    Args:
        recipe: its name; one that is unknown changes nothing, and is refused where flags are parsed.
        critic: whether a value model is trained.
        facts: whether the reward model reads facts.
        whitened: whether rewards are whitened, and so have units already.
    """
    if recipe != MODERN or not critic:
        return {}
    return {**({} if whitened else UNITS_OF_RETURNS), **(SIGHT_OF_FACTS if facts else {})}

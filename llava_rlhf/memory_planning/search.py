"""The smallest change with which a run fits, or the part that is too large whatever is changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llava_rlhf.memory_planning.bases import BaseSpec, weight_shapes
from llava_rlhf.memory_planning.knobs import Knob, changed, knobs_of
from llava_rlhf.memory_planning.names import PPO, REWARD_MODEL
from llava_rlhf.memory_planning.plan import GIB, MemoryPlan
from llava_rlhf.memory_planning.ppo import bases_of
from llava_rlhf.memory_planning.programs import plan_for
from llava_rlhf.memory_planning.published import PUBLISHED
from llava_rlhf.memory_planning.request import Request

SIZE = re.compile(r"(?:^|-)([\d.]+[bm])(?:-|$)")  # in weights, as the name of a published shape says


@dataclass(frozen=True)
class Fit:
    """What to change, what that does to the results, and the plan with it."""

    changes: Mapping[str, Any]
    effects: tuple[str, ...]
    plan: MemoryPlan


def search(request: Request, gpu_bytes: float) -> Fit | str:
    """Change as little as lets the run fit: of the knobs in their order, the later ones least; else say why nothing does.

    Raises ValueError when the batch sizes do not divide as they are.
    """
    knobs = knobs_of(request)

    def planned(levels: Sequence[int]) -> MemoryPlan:
        return plan_for(changed(request, _changes(knobs, levels)))

    def fits(levels: Sequence[int]) -> bool:
        return planned(levels).total <= gpu_bytes

    levels = [0] * len(knobs)
    for place, knob in enumerate(knobs):
        levels[place] = len(knob.levels) - 1
        if fits(levels):
            break
    else:
        return _too_large(request, changed(request, _changes(knobs, levels)), gpu_bytes)
    for place in reversed(range(len(knobs))):  # back again, what costs most first
        levels[place] = _least(levels, place, fits)
    effects = tuple(knob.effect for knob, level in zip(knobs, levels, strict=True) if level)
    return Fit(_changes(knobs, levels), effects, planned(levels))


def _least(levels: Sequence[int], place: int, fits: Callable[[Sequence[int]], bool]) -> int:
    """The smallest level of one knob that fits; that of `levels` does."""
    if levels[place] == 0 or fits([*levels[:place], 0, *levels[place + 1 :]]):  # often traced already
        return 0
    low, high = 1, levels[place]
    while low < high:
        middle = (low + high) // 2
        if fits([*levels[:place], middle, *levels[place + 1 :]]):
            high = middle
        else:
            low = middle + 1
    return high


def _changes(knobs: Sequence[Knob], levels: Sequence[int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for knob, level in zip(knobs, levels, strict=True):
        found |= knob.levels[level]
    return found


def _too_large(request: Request, least: Request, gpu_bytes: float) -> str:
    """Why a request does not fit although `least` is all that can be changed."""
    plan = plan_for(least)
    base, role = _largest(least)
    text = f"the {_size(base)} {role} takes {plan.held_bytes / GIB:.1f} GiB before any work"
    if plan.held_bytes + plan.context <= gpu_bytes:
        text += f", and the least work {plan.widest.size / GIB:.1f} ({plan.widest.name})"
    for name in _smaller(base):
        other = replace(least, shape=name, reward_shape=None)
        if plan_for(other).total <= gpu_bytes:
            (size,) = SIZE.findall(name)
            return f"{text}: name a {size.upper()} one"
    return f"{text}: no published base is small enough"


def _smaller(base: BaseSpec) -> list[str]:
    """Published shapes of its family that are smaller, the largest first."""
    found = {}
    for name in PUBLISHED:
        other = BaseSpec.published(name, dtype=base.dtype)
        if other.family.model_type == base.family.model_type:
            found[name] = _numbers(other)
    return sorted(
        (name for name in found if found[name] < 0.9 * _numbers(base)), key=lambda name: -found[name]
    )


def _largest(request: Request) -> tuple[BaseSpec, str]:
    """The larger base, and what it is for."""
    if request.program != PPO:
        base = request.base(request.flags["model_name_or_path"], request.shape)
        return base, "reward model" if request.program == REWARD_MODEL else "policy"
    policy, reward = bases_of(request)
    if policy == reward:
        return policy, "base of policy and reward model"
    return (reward, "reward model") if _numbers(reward) > _numbers(policy) else (policy, "policy")


def _numbers(base: BaseSpec) -> int:
    return sum(shape.numel() * count for shape, count in weight_shapes(base).values())


def _size(base: BaseSpec) -> str:
    numbers = _numbers(base)
    return f"{numbers / 1e9:.0f}B" if numbers >= 1e9 else f"{numbers / 1e6:.0f}M"

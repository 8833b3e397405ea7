"""What can be changed so that a run takes less memory, in the order of what that costs, least first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from llava_rlhf.memory_planning.names import PPO
from llava_rlhf.memory_planning.ppo import (
    BUDGET,
    MERGE,
    SAMPLED,
    SCORED,
    STEPPED,
    longest_row,
    shares_base,
)
from llava_rlhf.memory_planning.request import Request
from llava_rlhf.memory_planning.settings import Lengths, checkpoints_activations, samples_here
from llava_rlhf.memory_planning.trainers import EVAL_ROWS, TRAIN_ROWS
from llava_rlhf.ppo.batch_plan import plan_batches

ACCUMULATION, RESPONSE, TOTAL = "gradient_accumulation_steps", "response_len", "model_max_length"
REWARD_BASE, REWARD_MODEL_PATH = "reward_base_model_name", "reward_model_name_or_path"
EIGHTHS = (7, 6, 4)  # of the response length; below a half too many answers would be cut off


@dataclass(frozen=True)
class Knob:
    """One thing to change.

    Attributes:
        effect: what that does to the results.
        levels: flags to set, from the smallest change to the largest; the first one changes nothing.
    """

    effect: str
    levels: tuple[Mapping[str, Any], ...]


def knobs_of(request: Request) -> list[Knob]:
    """All that can still be changed. Raises ValueError when the batch sizes of PPO do not divide as they are."""
    found = _ppo_knobs(request) if request.program == PPO else _trainer_knobs(request)
    return [Knob(effect, ({}, *levels)) for effect, levels in found if levels]


def changed(request: Request, changes: Mapping[str, Any]) -> Request:
    """The request with other flags; what the flags allow follows them."""
    flags = {**request.flags, **changes}
    shape = None if REWARD_BASE in changes else request.reward_shape
    return replace(request, flags=flags, lengths=Lengths.allowed(flags), reward_shape=shape)


def _trainer_knobs(request: Request) -> list[tuple[str, list[dict]]]:
    flags = request.flags
    rows, step = flags[TRAIN_ROWS], flags[TRAIN_ROWS] * flags[ACCUMULATION]
    fewer = [
        {TRAIN_ROWS: less, ACCUMULATION: step // less} for less in range(rows - 1, 0, -1) if step % less == 0
    ]
    evaluated = _halves(EVAL_ROWS, flags[EVAL_ROWS]) if flags["eval_size"] > 0 else []
    return [
        ("nothing: fewer rows at once, as many an optimizer step", fewer),
        ("nothing: fewer rows at once in evaluation", evaluated),
        *_checkpointing(flags),
        ("longer rows are left out and counted", _shorter(flags, RESPONSE, TOTAL)),
        *_bits(flags),
    ]


def _ppo_knobs(request: Request) -> list[tuple[str, list[dict]]]:
    flags = request.flags
    plan_batches(SimpleNamespace(**flags), request.processes, flags["rollout_batch_size"])
    share = flags["rollout_batch_size"] // request.processes
    fewer = [{SAMPLED: rows} for rows in range(flags[SAMPLED] - 1, 0, -1) if share % rows == 0]
    rows, longest = flags[SAMPLED], longest_row(request)
    present = flags[BUDGET] or rows * longest
    budgets = [level for level in _halves(BUDGET, rows * longest) if longest <= level[BUDGET] < present]
    merged = [{MERGE: False}] if flags[MERGE] and flags["bits"] > 8 and samples_here(flags) else []
    # A whole ensemble would have to be trained anew: that is no small change.
    one_base = [] if shares_base(request) or flags["more_reward_models"] else [_one_base(flags)]
    return [
        ("nothing: fewer rollouts a backward pass", _halves(STEPPED, flags[STEPPED])),
        ("nothing: fewer rows at once for the reward model", _halves(SCORED, flags[SCORED])),
        ("nothing: scoring and backward passes take fewer tokens at once", budgets),
        *_checkpointing(flags),
        ("nothing but time: sampling goes without a merged copy of the base", merged),
        ("nothing but time: fewer prompts are answered at once", fewer),
        ("shorter responses, and a length bonus that counts by them", _shorter(flags, RESPONSE)),
        *_bits(flags),
        ("reward and value stand on the policy's base; train such a reward model first", one_base),
    ]


def _one_base(flags: Mapping[str, Any]) -> dict[str, Any]:
    """A reward model of another base can't be used: it gets a folder of its own."""
    base, reward_model = flags["base_model_name"], flags.get(REWARD_MODEL_PATH)
    change = {REWARD_BASE: base}
    if base and reward_model:
        change[REWARD_MODEL_PATH] = f"{reward_model}-on-{Path(base).name}"
    return change


def _halves(name: str, number: int) -> list[dict[str, int]]:
    found = []
    while number > 1:
        number //= 2
        found.append({name: number})
    return found


def _shorter(flags: Mapping[str, Any], *names: str) -> list[dict[str, int]]:
    """Responses of fewer eighths; with rows that are shorter by as much, where rows are what is counted."""
    response = flags[RESPONSE]
    cuts: Iterable[int] = (response - response * eighths // 8 for eighths in EIGHTHS)
    return [{name: flags[name] - cut for name in names} for cut in cuts if 0 < cut < response]


def _bits(flags: Mapping[str, Any]) -> list[tuple[str, list[dict]]]:
    return [("the base is quantised to 4 bits, as in the published PPO", [{"bits": 4}])] * (flags["bits"] > 4)


def _checkpointing(flags: Mapping[str, Any]) -> list[tuple[str, list[dict]]]:
    if checkpoints_activations(flags):
        return []
    return [("nothing but time: activations are computed again", [{"gradient_checkpointing": True}])]

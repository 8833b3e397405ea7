"""Direct preference optimisation written out: plain models, one whole sequence at a time, without padding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext

import torch
from torch import Tensor

from data_utils.answer_pairs import AnswerPairItem
from data_utils.items import DialogueItem
from tests.support.plain_models import PlainRole
from tests.support.tiny_models import tiny_tokenizer

Finder = Callable[[DialogueItem], tuple[int, int]]
ASSISTANT = tiny_tokenizer().convert_tokens_to_ids("▁ASSISTANT")


def last_answer(item: DialogueItem) -> tuple[int, int]:
    """Where the answer behind the last "ASSISTANT:" begins and ends, found in the ids alone."""
    return len(item.input_ids) - item.input_ids[::-1].index(ASSISTANT) + 1, len(item.input_ids)


def labelled_answer(item: DialogueItem) -> tuple[int, int]:
    """The same by what is said to carry loss, for templates of other words."""
    start = item.supervised.index(True)
    return start, start + sum(item.supervised)


def answer_log_probs(role: PlainRole, item: DialogueItem, with_adapter: bool, find: Finder) -> Tensor:
    """float[T]: log-probability of each token of the last answer."""
    start, end = find(item)
    images = item.images if item.grids is None else (item.images, item.grids)
    with nullcontext() if with_adapter else role.model.disable_adapter():
        query, answer = item.input_ids[:start], item.input_ids[start:end]
        return role.response_log_probs(query, answer, images, temperature=1.0)[0]


def literal_dpo(
    policy: PlainRole,
    reference: PlainRole | None,
    items: Iterable[AnswerPairItem],
    beta: float,
    smoothing: float,
    find: Finder = last_answer,
) -> dict[str, Tensor]:
    """Means over pairs, `approxkl` over tokens; `loss` has a gradient if the policy trains. No reference: the policy's base."""
    found: dict[str, list[Tensor]] = {}
    tokens, squares = 0, 0.0
    for item in items:
        sums, ratios = [], []
        for one in (item.chosen, item.rejected):
            ours = answer_log_probs(policy, one, True, find)
            with torch.no_grad():
                theirs = answer_log_probs(reference or policy, one, reference is not None, find)
            sums.append(ours.sum())
            ratios.append(ours.sum() - theirs.sum())
            tokens += len(ours)
            squares += float(((ours - theirs).detach() ** 2 / 2).sum())
        margin = beta * (ratios[0] - ratios[1])
        right = torch.sigmoid(margin)
        values = {
            "loss": -(1 - smoothing) * torch.log(right) - smoothing * torch.log(1 - right),
            "chosen_reward": beta * ratios[0],
            "rejected_reward": beta * ratios[1],
            "reward_margin": margin,
            "accuracy": (margin > 0).float(),
            "chosen_log_prob": sums[0],
            "rejected_log_prob": sums[1],
        }
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    means = {name: torch.stack(values).mean() for name, values in found.items()}
    return {**means, "approxkl": torch.tensor(squares / tokens)}

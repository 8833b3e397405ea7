"""Do both judges want the same of a policy? Their preferences, and the policy gradients (REINFORCE) of their scores.

The gradients are of the policy init, over two halves of the pictures, so that what is compared shares no answer and no noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from benchmarks.facts.stages import KINDS, QUERY, RESPONSE, Judge, Stages
from benchmarks.facts.studies import Arms, most, selection_answers
from benchmarks.facts.world import dialogue
from data_utils.batches import ROWS, DialogueCollator
from data_utils.building import build_dialogues
from data_utils.shapes_files import Row
from llava_rlhf.assembly.reward_models import load_frozen
from llava_rlhf.assembly.roles import load_text_side, row_settings, unsampled_ids
from llava_rlhf.runs.arguments import DataArguments
from llava_rlhf.runs.role_files import POLICY, find_policy_adapter
from llava_rlhf.supervised.sft_trainer import DialogueLoss
from models.adapters import AdapterBank, AdapterSpec
from models.roles import Policy
from models.vlm import BaseSettings

ANSWERS = 128  # at once
BREVITY = "brevity"
COMPARED = (
    ("plain", "factual"),
    ("factual", "plain"),
    ("oracle", "plain"),
    ("oracle", "factual"),
    (BREVITY, "plain"),
)


def gradients(stages: Stages, seed: int) -> Arms:
    """Of each two judges: how alike their policy gradients are. Of plain and factual also how alike their preferences are."""
    judges = {kind: Judge(kind, most(stages), seed) for kind in KINDS}
    name, answers, scores = selection_answers(stages, seed, judges)
    # A judge that wants little of what the others want, to see what the numbers can tell apart.
    scores[BREVITY] = [[-float(one["tokens"]) for one in group] for group in answers]
    rows, weights = weighed_rows(answers, list(scores.values()))
    file = stages.write(f"rows/{name}-all.json", rows)
    lengths = {"query_len": int(QUERY), "response_len": int(RESPONSE)}
    data = DataArguments(str(file), str(stages.world / "images"), version="tiny", **lengths)
    pushes = halves_of_gradient(stages.sft(), stages.init(), data, weights)
    by_judge = dict(zip(scores, pushes.unbind(1), strict=True))
    held_out = {kind: stages.scores(judge, stages.held_out(), "held-out") for kind, judge in judges.items()}
    margins = {kind: [pair["margin"] for pair in pairs] for kind, pairs in held_out.items()}
    for one, other in COMPARED:
        numbers = agreement(by_judge[one], by_judge[other])
        if other in KINDS and one in KINDS:
            numbers["slope"] = slope(margins[other], margins[one])
        yield f"{one} with {other}", numbers


def weighed_rows(
    answers: Sequence[Sequence[Mapping[str, Any]]], scores: Sequence[Sequence[Sequence[float]]]
) -> tuple[list[Row], Tensor]:
    """N dialogues, and float64[2, J, N]: their advantages by each of J scores, in the half that their picture belongs to, else 0.

    Args:
        answers: by prompt. Empty ones are no dialogues, and of one that was cut off the stop was not sampled: both are left out.
        scores: of each judge, as `answers`.
    """
    halves = {
        image: at % 2 for at, image in enumerate(dict.fromkeys(group[0]["image"][0] for group in answers))
    }
    rows, columns = [], []
    for prompt, group in enumerate(answers):
        usable = [at for at, one in enumerate(group) if one["answer"].strip() and one["stopped"]]
        if len(usable) < 2:
            continue
        rows += [dialogue(group[at]) for at in usable]
        found = torch.tensor([advantages([table[prompt][at] for at in usable]) for table in scores])
        own = torch.zeros(2, *found.shape, dtype=torch.float64)
        own[halves[group[0]["image"][0]]] = found
        columns.append(own)
    return rows, torch.cat(columns, dim=2)


def slope(margins: Sequence[float], of: Sequence[float]) -> float:
    """How far σ(margin) of one judge is from ½ where that of another is 1 from it, by least squares; both orders of each pair count.

    1 where the probabilities of `of` are the means of the others' given its own: no bias.
    """
    one, other = (torch.sigmoid(torch.tensor(m, dtype=torch.float64)) - 0.5 for m in (margins, of))
    return float((one * other).sum() / other.square().sum())


def advantages(scores: Sequence[float]) -> list[float]:
    """Of the answers to one prompt: each score less the mean of the others', which doesn't depend on the answer (no bias)."""
    total, others = sum(scores), len(scores) - 1
    return [score - (total - score) / others for score in scores]


def halves_of_gradient(base: Path, adapter: Path, data: DataArguments, weights: Tensor) -> Tensor:
    """Σ weight · ∇ log π(answer) over the adapter's parameters.

    Args:
        base: of the policy.
        adapter: the policy.
        data: N dialogues of one answer each, and how they are read.
        weights: float[2, J, N]; of J gradients in two halves of the answers.

    Returns:
        float64[2, J, P].
    """
    text = load_text_side(str(base), data.image_choices(), data.version)
    rows = build_dialogues(data.dataset_path, row_settings(data, text))
    if len(rows) != weights.shape[2]:
        raise ValueError(f"{data.dataset_path}: {len(rows)} of {weights.shape[2]} dialogues can be used")
    adapters = {POLICY: AdapterSpec(find_policy_adapter(str(adapter)), trainable=True)}
    bank = AdapterBank(load_frozen(str(base), BaseSettings()), adapters)
    loss = DialogueLoss(Policy(bank, POLICY), unsampled_ids(text, bank.vlm.vocab_size)).train()
    parameters = [parameter for parameter in bank.parameters() if parameter.requires_grad]
    collate = DialogueCollator(text.tokenizer.pad_token_id, text.image_token_id, text.family.placeholder)
    found = torch.zeros(*weights.shape[:2], sum(one.numel() for one in parameters), dtype=torch.float64)
    for start in tqdm(range(0, len(rows), ANSWERS), desc="gradients", unit="batch", disable=None):
        chosen = slice(start, start + ANSWERS)
        batch = collate([rows[place] for place in range(*chosen.indices(len(rows)))])
        log_probs = -loss(**{name: value for name, value in batch.items() if name != ROWS})
        for half, judge in torch.cartesian_prod(*map(torch.arange, weights.shape[:2])).tolist():
            total = (weights[half, judge, chosen] * log_probs).sum()
            of_batch = torch.autograd.grad(total, parameters, retain_graph=True)
            found[half, judge] += torch.cat([one.flatten() for one in of_batch]).double()
    return found


def agreement(first: Tensor, other: Tensor) -> dict[str, float]:
    """How alike two expected gradients are, from noisy ones of two halves of the data.

    Args:
        first, other: float64[2, P], halves of two gradients; what is compared never shares an answer.

    Returns:
        `reliability`: the cosine of the halves of `first`; `cosine`: of a half of one and the other half of the other; `corrected`:
        that over the root of both reliabilities (Spearman's correction for attenuation), 1 where the expected directions are the same.
    """
    unit = [functional.normalize(one, dim=1) for one in (first, other)]
    own = [float(halves[0] @ halves[1]) for halves in unit]
    cosine = float(unit[0][0] @ unit[1][1] + unit[0][1] @ unit[1][0]) / 2
    corrected = cosine / (own[0] * own[1]) ** 0.5 if min(own) > 0 else float("nan")
    return {"reliability": own[0], "cosine": cosine, "corrected": corrected}

"""What is written of each rollout of a step."""

from __future__ import annotations

from typing import Any

from llava_rlhf.fact_rewards.claims import JudgedClaim
from llava_rlhf.fact_rewards.mentions import Judged
from llava_rlhf.ppo.experience import Experience
from llava_rlhf.ppo.fact_scores import FactScores
from llava_rlhf.ppo.reward_scores import SentenceScores
from llava_rlhf.ppo.reward_shaping import ShapedReward
from llava_rlhf.ppo.targets import Targets


def _stop_reason(experience: Experience, row: int, response_len: int) -> str:
    if bool(experience.stopped[row]):
        return "stop token"
    return "length" if int(experience.lengths[row]) == response_len else "question mark"


def _sentences(scores: SentenceScores, row: int) -> list[dict[str, Any]]:
    rewards = zip(scores.ends[row], scores.rewards(row), strict=True)
    return [{"end": end, "reward": reward} for end, reward in rewards]


def _probabilities(one: Judged) -> dict[str, float]:
    """What was asked: whether the picture shows it and, of a claim, what the facts say of it."""
    asked = {"probability": one.probability}
    if isinstance(one, JudgedClaim):
        asked |= {"supported": one.supported, "contradicted": one.contradicted}
    return {name: value for name, value in asked.items() if value is not None}


def _facts(scores: FactScores, row: int) -> dict[str, Any]:
    found = scores.rewards[row]
    mentions = [
        {
            "name": one.mention.name,
            "start": one.mention.start,
            "end": one.mention.end,
            "verdict": one.verdict,
            "reward": one.reward,
            **_probabilities(one),
        }
        for one in found.mentions
    ]
    return {
        "fact_mentions": found.by_mentions,
        "fact_coverage": found.coverage,
        **({"undecided": found.undecided} if found.undecided else {}),
        "mentions": mentions,
    }


def _first_value(targets: Targets, row: int) -> dict[str, float]:
    if targets.values is None or targets.returns is None or not targets.learned[row, 0]:
        return {}
    return {"value": float(targets.values[row, 0]), "return": float(targets.returns[row, 0])}


def rollout_row(
    experience: Experience, shaped: ShapedReward, targets: Targets, row: int, response_len: int
) -> dict[str, Any]:
    """One rollout with its scores, as plain JSON values.

    Where there is a critic that learns from the response, `value` is what it said before the first token, and `return` what
    it should have said, both in units of the scaled rewards. Where sentences are scored, `sentences` names for each the
    character of `response` behind it and what it earned; where facts pay, `mentions` names the things in `response`, or
    its claims, the characters where they stand and what became of them, and `undecided` counts the questions about them to
    which a judge said neither Yes nor No, if there are any.

    Args:
        experience, shaped: of the step.
        targets: of the step, in units of the rewards.
        row: place among this process's rollouts.
        response_len: longest response in tokens.
    """
    item, members = experience.items[row], experience.member_scores
    by_sentence = {} if experience.sentences is None else {"sentences": _sentences(experience.sentences, row)}
    return {
        "row": item.row,
        "id": item.id,
        "image": list(item.image_names),
        "answer_type": item.answer_type.name,
        "question": item.question,
        "captions": list(item.captions),
        "response": experience.texts[row],
        "length": int(experience.lengths[row]),
        "stop_reason": _stop_reason(experience, row, response_len),
        "reward_model": float(experience.scores[row]),
        **({} if members is None else {"reward_models": members[row].tolist()}),
        "stop_penalty": float(shaped.stop_penalty[row]),
        "length_bonus": float(shaped.length_bonus[row]),
        "correct_bonus": float(shaped.correct_bonus[row]),
        "score": float(shaped.score[row]),
        "kl": float(shaped.kl[row].sum()),
        **_first_value(targets, row),
        **by_sentence,
        **({} if experience.facts is None else _facts(experience.facts, row)),
    }

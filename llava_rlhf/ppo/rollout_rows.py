"""What is written of each rollout of a step."""

from __future__ import annotations

from typing import Any

from llava_rlhf.ppo.reward_shaping import ShapedReward
from llava_rlhf.ppo.rollout import Experience


def _stop_reason(experience: Experience, row: int, response_len: int) -> str:
    if bool(experience.stopped[row]):
        return "stop token"
    return "length" if int(experience.lengths[row]) == response_len else "question mark"


def rollout_row(experience: Experience, shaped: ShapedReward, row: int, response_len: int) -> dict[str, Any]:
    """One rollout with its scores, as plain JSON values.

    Args:
        experience, shaped: of the step.
        row: place among this process's rollouts.
        response_len: longest response in tokens.
    """
    item = experience.items[row]
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
        "stop_penalty": float(shaped.stop_penalty[row]),
        "length_bonus": float(shaped.length_bonus[row]),
        "correct_bonus": float(shaped.correct_bonus[row]),
        "score": float(shaped.score[row]),
        "kl": float(shaped.kl[row].sum()),
    }

"""What a server is asked: a prompt as ids with one placeholder a picture, and how to answer it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from models.generation import SamplingSettings

GENERATE = "/inference/v1/generate"
BAN = -100.0  # added to a logit: the lowest that vLLM takes, e^-100 of a probability
_DIGITS = 24  # bits of a float32 number in [0, 1)


def row_seeds(uniforms: Tensor) -> list[int]:
    """One seed a row, from the first two of its own random numbers float[B, T]: the same on any server, in any process."""
    numbers = (uniforms[:, :2].double() * 2**_DIGITS).long().tolist()
    return [sum(number << _DIGITS * place for place, number in enumerate(row)) for row in numbers]


def generate_body(
    model: str, token_ids: Sequence[int], pictures: Sequence[str], sampling: dict[str, Any]
) -> dict[str, Any]:
    """The body of a request.

    Args:
        model: the adapter's name, or the base's.
        token_ids: the prompt.
        pictures: data URLs, in the order of their placeholders.
        sampling: of `sampling_params`, or for a probe.
    """
    body: dict[str, Any] = {
        "model": model,
        "token_ids": list(token_ids),
        "sampling_params": sampling,
        "return_token_ids": True,
    }
    if pictures:
        body["content_parts"] = [{"type": "image_url", "url": url} for url in pictures]
    return body


def sampling_params(settings: SamplingSettings, seed: int) -> dict[str, Any]:
    """`settings` in vLLM's words; what it would take from elsewhere by default is said, too.

    Banned tokens are far fewer than those that may be drawn: they are the shorter list.
    """
    return {
        "n": 1,
        "max_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "seed": seed,
        "ignore_eos": True,  # what stops an answer is said by `stop_token_ids` alone
        "stop_token_ids": list(settings.stop_ids),
        "logit_bias": {str(index): BAN for index in settings.banned_ids},
        "logprobs": 0,  # of the drawn token alone
        "detokenize": False,
    }

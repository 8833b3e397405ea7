"""What a server answered, and whether that is an answer to what it was asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from models.generation import Sample, SamplingSettings

NOT_FINITE = -9000.0  # vLLM writes -9999 for a log-probability that is none


class WrongAnswerError(ValueError):
    """An answer to another question, or none at all."""


class Answer(NamedTuple):
    """One answer.

    Attributes:
        ids: the stop token included.
        log_probs: in nats, of each of them, as the server has them.
    """

    ids: list[int]
    log_probs: list[float]

    @property
    def finite(self) -> bool:
        """Whether every log-probability is a number."""
        return all(math.isfinite(value) and value > NOT_FINITE for value in self.log_probs)


@dataclass(frozen=True)
class AnswerCheck:
    """What every answer must keep to.

    Attributes:
        settings: how was to be answered.
        vocab_size: rows of the vocabulary projection.
    """

    settings: SamplingSettings
    vocab_size: int

    def read(self, reply: Any, model: str, prompt: Sequence[int]) -> Answer:
        """The answer in a server's reply.

        Args:
            reply: as the server sent it.
            model: that was asked.
            prompt: ids as the model that trains reads them, pictures at full width.

        Raises:
            WrongAnswerError: it is another model's, to another prompt, or not as the settings say.
        """
        answer, reason = read_answer(reply, model, prompt)
        ids, settings = answer.ids, self.settings
        outside = [index for index in ids if not 0 <= index < self.vocab_size]
        if outside:
            raise WrongAnswerError(f"token {outside[0]} is not in the vocabulary of {self.vocab_size}")
        banned = set(ids) & set(settings.banned_ids)
        if banned:
            raise WrongAnswerError(f"token {min(banned)} was drawn, which is never to be")
        if not 0 < len(ids) <= settings.max_new_tokens:
            raise WrongAnswerError(f"it has {len(ids)} tokens, of 1 to {settings.max_new_tokens}")
        early = [place for place, index in enumerate(ids[:-1]) if index in settings.stop_ids]
        if early:
            raise WrongAnswerError(f"it goes on behind its stop token at place {early[0]}")
        stopped = ids[-1] in settings.stop_ids
        if (reason == "stop") != stopped or (not stopped and len(ids) != settings.max_new_tokens):
            raise WrongAnswerError(
                f"it ended for the reason {reason!r} after {len(ids)} of {settings.max_new_tokens} tokens, "
                f"{'with' if stopped else 'without'} a stop token"
            )
        return answer


def read_answer(reply: Any, model: str, prompt: Sequence[int]) -> tuple[Answer, str]:
    """The answer in a reply and why it ended. Raises WrongAnswerError: it is not to this question."""
    try:
        named, read = reply["model"], reply["prompt_token_ids"]
        (choice,) = reply["choices"]
        ids, reason = choice["token_ids"], choice["finish_reason"]
        content = choice["logprobs"]["content"]
        told = [entry["token_id"] for entry in content]
        log_probs = [entry["logprob"] for entry in content]
    except (TypeError, KeyError, ValueError) as error:
        raise WrongAnswerError(f"no answer of /inference/v1/generate: {str(reply)[:200]}") from error
    if named != model:
        raise WrongAnswerError(f"{named!r} answered, {model!r} was asked")
    if read != list(prompt):
        raise WrongAnswerError(_other_prompt(read or [], prompt))
    if told != ids:
        raise WrongAnswerError(f"its log-probabilities are of the tokens {told}, it has {ids}")
    if reason not in ("stop", "length"):
        raise WrongAnswerError(f"it ended for the reason {reason!r}")
    return Answer(ids, [math.nan if value is None else value for value in log_probs]), reason


def _other_prompt(read: Sequence[int], prompt: Sequence[int]) -> str:
    place = next((at for at, (a, b) in enumerate(zip(read, prompt, strict=False)) if a != b), None)
    if place is None:
        place = min(len(read), len(prompt))
    return (
        f"it read another prompt: {len(read)} tokens, {len(prompt)} were meant; from place {place} on "
        f"{list(read[place : place + 5])}, not {list(prompt[place : place + 5])}"
    )


def as_sample(answers: Sequence[Answer], pad_id: int, device: torch.device) -> Sample:
    """Answers as one batch."""
    width = max(len(answer.ids) for answer in answers)
    shape = (len(answers), width)
    ids = torch.full(shape, pad_id)
    mask = torch.zeros(shape, dtype=torch.bool)
    log_probs = torch.zeros(shape)
    for row, answer in enumerate(answers):
        length = len(answer.ids)
        ids[row, :length] = torch.tensor(answer.ids)
        mask[row, :length] = True
        log_probs[row, :length] = torch.tensor(answer.log_probs)
    finite = torch.tensor([answer.finite for answer in answers])
    return Sample(*(tensor.to(device) for tensor in (ids, mask, finite, log_probs)))

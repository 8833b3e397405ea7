"""Reward terms that a program can check: is the answer correct, how long is it.

The third one, the penalty for a missing stop, needs no text: ``functional.rewards.apply_stop_penalty``.
"""

from __future__ import annotations

import re
import unicodedata

from torch import Tensor

from data_utils.schema import AnswerType

_OPTION = {
    AnswerType.A_IN_ABCD: "A",
    AnswerType.B_IN_ABCD: "B",
    AnswerType.C_IN_ABCD: "C",
    AnswerType.D_IN_ABCD: "D",
}
# "incorrect option is B." states nothing, hence the word boundary.
_STATED_OPTION = re.compile(r"\A([A-D])\s?\.|\bcorrect option is ([A-D])\.")
# The whole first word: a letter, or a joiner and a letter ("no-one", "no'one"), would continue it.
_STATED_NO_OR_YES = re.compile(r"\A(no|yes)(?![-‐‑'’]?\w)", re.IGNORECASE)


def correctness(response: str, answer_type: AnswerType | int) -> float:
    """Correctness bonus of a response, before it is multiplied with ``correct_bonus_score``.

    * A-D: 1 if the option stated FIRST is the right one, else 0. An option is stated by starting with ``"X."`` (or
      ``"X ."``) or by ``"correct option is X."``; letters count in capitals only, as published. So ``"A. B."`` and
      ``"A. The correct option is B."`` state A and nothing else.
    * NO_IN_YESNO: +0.5 if the first word is "no", -0.5 if it is "yes", else 0. Whole words in any capitals: ``"No,"``,
      ``"no ."`` and ``"NO"`` count, ``"Nobody"``, ``"None"``, ``"Not sure"`` and ``"Yesterday"`` do not.
    * YES_IN_YESNO and GENERAL: 0.

    White space around the response does not count; only what is stated first is looked at.

    Raises:
        ValueError: unknown answer type.
    """
    answer_type = AnswerType(answer_type)
    # Composed form, so that an accent written as a separate code point still belongs to its letter.
    text = unicodedata.normalize("NFC", response).strip()
    if answer_type in _OPTION:
        stated = _STATED_OPTION.search(text)
        return 1.0 if stated and _OPTION[answer_type] in stated.groups() else 0.0
    if answer_type is AnswerType.NO_IN_YESNO:
        stated = _STATED_NO_OR_YES.match(text)
        if stated is None:
            return 0.0
        return 0.5 if stated.group(1).lower() == "no" else -0.5
    return 0.0


def length_term(response_tokens: Tensor, response_len: int, length_bonus: Tensor) -> Tensor:
    """Length of each response as a share of the longest allowed, times the row's own multiplier.

    Unit-free: the caller multiplies with ``length_bonus_score`` (negative as published, so that length costs).

    Args:
        response_tokens: int[B], real tokens including the stop token.
        response_len: longest allowed response, in tokens.
        length_bonus: float[B], multiplier of each row (1 unless the data say otherwise).

    Returns:
        float[B].
    """
    return response_tokens.to(length_bonus.dtype) / response_len * length_bonus

"""Questions of Yes or No, each asked once, whatever becomes of the run: what was answered is on disk before it is used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_utils.items import PromptItem
from llava_rlhf.assembly.image_features import ImageFeatures
from llava_rlhf.ppo.yes_no import Asker, Chance, YesNo
from llava_rlhf.runs.run_folder import JsonLines, read_json_lines

CACHE = "{}/answers_{}.jsonl"  # in the run folder: by --fact_reward, and of each process by its number


def read_answers(file: str | Path) -> tuple[dict[str, Chance], int]:
    """Key of a question → probability of Yes, and whole lines of a file, which need not be there.

    Raises ValueError where it holds something else.
    """
    known: dict[str, Chance] = {}
    records = read_json_lines(file)
    for number, record in enumerate(records, 1):
        try:
            known |= {key: yes if yes is None else float(yes) for key, yes in record["answers"].items()}
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ValueError(f"{file}, line {number}: no answers of a judge; move the file away") from None
    return known, len(records)


class KnownAnswers:
    """Asks what was not asked before.

    A run that goes on from a checkpoint so reads what it was told before, and not what another batch of questions would
    have rounded otherwise.

    Args:
        asker: who is asked.
        file: of this process: lines of questions' keys and probabilities; None keeps answers for the life of the object only.

    Raises:
        ValueError: it is no such file.
    """

    def __init__(self, asker: Asker, file: str | Path | None):
        self.asker = asker
        self._known, lines = ({}, 0) if file is None else read_answers(file)
        self._lines = None if file is None else JsonLines(file, lines)

    def of_rows(self, questions: Sequence[Sequence[YesNo]], images: ImageFeatures) -> list[dict[str, Chance]]:
        """For each row text of a question → probability of Yes; all rows are asked together."""
        flat = iter(self.probabilities([one for row in questions for one in row], images))
        return [{one.text: next(flat) for one in row} for row in questions]

    def about_pictures(
        self, items: Sequence[PromptItem], questions: Sequence[Mapping[str, str]], images: ImageFeatures
    ) -> list[dict[str, Chance]]:
        """For each row name → probability of Yes, of its questions (name → text) about its pictures; without any it is not asked."""
        asked = [
            [YesNo(text, item.image_names, row) for text in of_row.values()] if item.image_names else []
            for row, (item, of_row) in enumerate(zip(items, questions, strict=True))
        ]
        return [
            {name: found[text] for name, text in of_row.items() if text in found}
            for of_row, found in zip(questions, self.of_rows(asked, images), strict=True)
        ]

    def probabilities(self, questions: Sequence[YesNo], images: ImageFeatures) -> list[Chance]:
        """Of Yes, for each question; its key is the text, the pictures and who is asked."""
        keys = [self._key(question) for question in questions]
        new = {key: one for key, one in zip(keys, questions, strict=True) if key not in self._known}
        if new:
            answers = self.asker.probabilities(list(new.values()), images)
            if self._lines is not None:
                self._lines.append({"answers": dict(zip(new, answers, strict=True))})
            self._known |= zip(new, answers, strict=True)
        return [self._known[key] for key in keys]

    def _key(self, question: YesNo) -> str:
        content = [self.asker.identity, question.text, list(question.pictures)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

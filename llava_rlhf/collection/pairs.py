"""Pairs of answers to one prompt: how two are chosen, and the file that keeps them (`pairs.jsonl`)."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_utils.fact_lists import NO_FACTS, FactList, fact_list
from data_utils.schema import IMAGE_MARKER, AnswerType
from llava_rlhf.runs.durable_lines import DurableLines


@dataclass(frozen=True)
class Pair:
    """Two different answers to one prompt.

    Attributes:
        row: the prompt's row in its file; names the pair.
        batch: pairs are sampled and handed out batch by batch.
        id, images, question, captions, answer_type: the prompt's.
        outputs: the two answers, in the order of the preference file.
        facts: the prompt's own, beside captions.
    """

    row: int
    batch: int
    id: str
    images: tuple[str, ...]
    question: str
    captions: tuple[str, ...]
    answer_type: AnswerType
    outputs: tuple[str, str]
    facts: FactList = NO_FACTS


def two_different(answers: Iterable[str]) -> tuple[str, str] | None:
    """The first two answers that are neither empty nor alike, or None: nothing could be learned from the prompt."""
    different = list(dict.fromkeys(text for text in map(str.strip, answers) if text))
    return (different[0], different[1]) if len(different) > 1 else None


def pair_line(answers: Sequence[Mapping[str, Any]], batch: int) -> dict[str, Any]:
    """One line of the pairs file from all answers to one prompt, in the format of `answer_prompts.py`."""
    first = answers[0]
    chosen = two_different(record["answer"] for record in answers)
    names = ("id", "image", "question", "captions", "facts", "answer_type")
    prompt = {name: first[name] for name in names if name in first}
    outputs = {"outputs": list(chosen)} if chosen else {"unusable": "all answers are alike or empty"}
    return {"row": first["prompt_row"], "batch": batch, **prompt, **outputs}


class PairFile:
    """The pairs sampled so far; threads may share it.

    Args:
        path: JSON Lines, one line a prompt. Prompts whose answers are all alike have a line, but no pair.

    Raises:
        ValueError: another process has it open, or it is no file of pairs.
    """

    def __init__(self, path: Path):
        self._lines = DurableLines(path)
        self._ready = threading.Condition()
        self._pairs: dict[int, Pair] = {}
        self._rows: set[int] = set()
        self._complete = False
        try:
            self._take(self._lines.records)
        except (KeyError, TypeError, ValueError) as error:
            self.close()
            raise ValueError(
                f"{path}: no file of pairs ({type(error).__name__}: {error}); move it away"
            ) from None

    @property
    def pairs(self) -> Mapping[int, Pair]:
        """Pairs by row."""
        return self._pairs

    @property
    def rows(self) -> frozenset[int]:
        """Prompts that were answered, also those without a pair."""
        return frozenset(self._rows)

    @property
    def complete(self) -> bool:
        """Whether no more pairs will come."""
        return self._complete

    def add(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Add a batch; it is on disk before anybody sees it."""
        self._lines.append(lines)
        with self._ready:
            self._take(lines)
            self._ready.notify_all()

    def finish(self) -> None:
        """Say that no more pairs will come."""
        with self._ready:
            self._complete = True
            self._ready.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait until pairs are added or none will come, at most so long."""
        with self._ready:
            if not self._complete:
                self._ready.wait(seconds)

    def close(self) -> None:
        """Let another process have the file."""
        self._lines.close()

    def _take(self, lines: Iterable[Mapping[str, Any]]) -> None:
        pairs = {}
        for line in lines:
            if "outputs" in line:
                pairs[line["row"]] = _pair(line)
            self._rows.add(line["row"])
        # A new mapping each time: whoever is going through the old one is not disturbed.
        self._pairs = {**self._pairs, **pairs}


def _pair(line: Mapping[str, Any]) -> Pair:
    first, second = line["outputs"]
    images = line.get("image") or []
    return Pair(
        row=line["row"],
        batch=line["batch"],
        id=str(line.get("id", "")),
        images=(images,) if isinstance(images, str) else tuple(images),
        question=line["question"].replace(IMAGE_MARKER, "").strip(),
        captions=tuple(line.get("captions") or ()),
        answer_type=AnswerType[line.get("answer_type") or "GENERAL"],
        outputs=(first, second),
        facts=fact_list(line["facts"], "facts") if line.get("facts") else NO_FACTS,
    )

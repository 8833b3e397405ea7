"""AMBER: descriptions and yes-or-no questions without a judge (Wang et al., arXiv 2311.07397)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tqdm import tqdm

from data_utils.json_files import read_object, read_text
from data_utils.schema import AnswerType
from llava_rlhf.evaluation.benchmarks.amber_rules import described, says
from llava_rlhf.evaluation.benchmarks.items import (
    Benchmark,
    Item,
    ItemScore,
    Record,
    Scores,
    file_hash,
    match_answers,
    read_objects,
    summed,
)
from llava_rlhf.evaluation.benchmarks.words import Words

FLAG = "--benchmark_files"
GENERATIVE = "generative"
# Every other type is a relation, as published: the file calls them "discriminative-relation" and "relation".
_PARTS = {
    GENERATIVE: GENERATIVE,
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
}
_ATTRIBUTES = ("state", "number", "action")


@dataclass(frozen=True)
class AmberFiles:
    """AMBER's folder `data`.

    Attributes:
        query: the questions, in its folder `query`.
        folder: where the others lie.
    """

    query: Path

    @property
    def folder(self) -> Path:
        """Of annotations, associations and safe words."""
        return self.query.resolve().parent.parent

    @property
    def others(self) -> tuple[Path, Path, Path]:
        """Annotations, associations, safe words."""
        return tuple(self.folder / name for name in ("annotations.json", "relation.json", "safe_words.txt"))

    def association(self) -> dict[str, list[str]]:
        """Thing → words that may stand for it. Raises ValueError."""
        path = self.others[1]
        try:
            found = read_object(path)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        for name, words in found.items():
            if not _are_texts(words):
                raise ValueError(f"{path}, field {name!r}: {words!r} must be a list of words")
        return found

    def safe_words(self) -> frozenset[str]:
        """Words that are never held against a description. Raises ValueError."""
        try:
            return frozenset(read_text(self.others[2]).splitlines())
        except ValueError as error:
            raise ValueError(f"{self.others[2]}: {error}") from None


class Amber(Benchmark):
    """The published questions.

    Args:
        query_file: `query_all.json` or another file in the folder `data/query` of the repository; the folder above it has
            `annotations.json`, `relation.json` and `safe_words.txt`.
        make_words: vocabulary → who finds nouns; None where answers are only to be made.
        reading: what a yes or no is, see `amber_rules.says`.
    """

    metrics: ClassVar[Mapping[str, str]] = {
        "chair": "descriptions: share of invented ones among mentions of things in the lists",
        "cover": "descriptions: share of the things there which are named; a short description invents less and covers less",
        "hal": "descriptions that invent something / descriptions",
        "cog": "descriptions: share of the things a person might imagine there which are named",
        "accuracy": "share of yes-or-no questions answered rightly; an answer that is neither is wrong",
        "precision": "share of right ones among the no answers: no is the positive class",
        "recall": "share of the questions whose answer is no which are answered no",
        "f1": "harmonic mean of this precision and recall",
        "affirmed": "share of the questions whose answer is yes which are answered yes; who always says no has a recall of 1, and 0 here",
        "attribute_accuracy": "accuracy over states, numbers and actions together",
        "attribute_f1": "f1 over states, numbers and actions together",
        "unclear": "share of answers to yes-or-no questions that are neither",
    }

    def __init__(
        self,
        query_file: str,
        make_words: Callable[[Collection[str]], Words] | None,
        reading: str = "published",
    ):
        self.files, self._reading = AmberFiles(Path(query_file)), reading
        for path in (query_file, *self.files.others):
            file_hash(path)  # refuses a missing one
        self._association, self._safe = self.files.association(), self.files.safe_words()
        self._vocabulary = {word for name, words in self._association.items() for word in (name, *words)}
        self._words = None if make_words is None else make_words(self._vocabulary)

    def items(self) -> list[Item]:
        """The questions, each with what is true of it."""
        truths = self._annotations()
        items: dict[str, Item] = {}
        for place, row in read_objects(self.files.query, FLAG):
            where = f"{self.files.query}, {place}"
            wrong = [name for name in ("image", "query") if not isinstance(row.get(name), str)]
            if wrong or type(row.get("id")) is not int:
                field = wrong[0] if wrong else "id"
                raise ValueError(
                    f"{where}: field {field!r} is {row.get(field)!r}; is this a query file of AMBER?"
                )
            if row["id"] not in truths:
                raise ValueError(f"{where}: id {row['id']} has no row in {self.files.others[0]}")
            if str(row["id"]) in items:
                raise ValueError(f"{where}: id {row['id']} comes twice")
            truth = truths[row["id"]]
            items[str(row["id"])] = _item(row, truth)
        if not items:
            raise ValueError(f"{self.files.query}: no questions")
        return list(items.values())

    def own_layout(self, answers: Sequence[Record]) -> Sequence[Record]:
        """As `Benchmark.own_layout`: `id` and `response`, as AMBER's script reads them."""
        if all("response" in answer and "answer" not in answer for answer in answers):
            return [{**answer, "answer": answer["response"]} for answer in answers]
        return answers

    def score(self, answers: Sequence[Record], leave_out_missing: bool) -> Scores:
        """Count mentions of the descriptions, and yes and no of the others."""
        assert self._words is not None
        items = self.items()
        matched = match_answers(items, answers, leave_out_missing)
        scored = [
            ItemScore(
                item.id, item.category, item.image, summed([self._values(item, text) for text in texts])
            )
            for item, texts in tqdm(matched, desc="scoring", unit="item", disable=None)
        ]
        conditions = {
            "query": file_hash(self.files.query),
            "files": [file_hash(path) for path in self.files.others],
            "words": self._words.name,
            "reading": self._reading,
        }
        return Scores(scored, conditions, {"missing": len(items) - len(scored)} | _amber_score(scored))

    def _values(self, item: Item, text: str) -> dict[str, tuple[float, float]]:
        values = dict.fromkeys(self.metrics, (0.0, 0.0))
        if item.category != GENERATIVE:
            return values | _yes_no_values(
                says(text, self._reading), item.truth["truth"] == "yes", item.category
            )
        truth, hallu = item.truth["truth"], item.truth["hallu"]
        nouns = self._words.nouns(text)
        found = described(
            nouns, truth, hallu, self._association, self._vocabulary, self._safe, self._words.alike
        )
        return values | {
            "chair": (found.invented, found.mentions),
            "cover": (found.covered, found.truths),
            "hal": (found.invented > 0, 1),
            "cog": (found.imagined, found.imaginable),
        }

    def _annotations(self) -> dict[int, Mapping[str, Any]]:
        path = self.files.others[0]
        found: dict[int, Mapping[str, Any]] = {}
        for place, row in read_objects(path, FLAG):
            if type(row.get("id")) is not int or not isinstance(row.get("type"), str):
                raise ValueError(f"{path}, {place}: must have a number as 'id' and a text as 'type'")
            fields = ("truth", "hallu") if row["type"] == GENERATIVE else ()
            for name in fields:
                self._check_things(f"{path}, {place}, field {name!r}", row.get(name))
            if not fields and row.get("truth") not in ("yes", "no"):
                raise ValueError(
                    f"{path}, {place}, field 'truth': {row.get('truth')!r} must be 'yes' or 'no'"
                )
            found[row["id"]] = row
        return found

    def _check_things(self, where: str, things: Any) -> None:
        if not _are_texts(things):
            raise ValueError(f"{where}: {things!r} must be a list of words")
        unknown = [thing for thing in things if thing not in self._association]
        if unknown:
            raise ValueError(f"{where}: {unknown[0]!r} is not in {self.files.others[1]}")


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _item(row: Mapping[str, Any], truth: Mapping[str, Any]) -> Item:
    part = _PARTS.get(truth["type"], "relation")
    kind = AnswerType.GENERAL
    if part != GENERATIVE:
        kind = AnswerType.YES_IN_YESNO if truth["truth"] == "yes" else AnswerType.NO_IN_YESNO
    return Item(str(row["id"]), row["query"].strip(), row["image"], part, kind, truth)


def _yes_no_values(said: bool | None, there: bool, part: str) -> dict[str, tuple[float, float]]:
    no, found = said is False, said is False and not there
    values = {
        "accuracy": (said is there, 1),
        "precision": (found, no),
        "recall": (found, not there),
        "f1": (2 * found, no + (not there)),
        "affirmed": (said is True and there, there),
        "unclear": (said is None, 1),
    }
    if part in _ATTRIBUTES:
        values |= {"attribute_accuracy": values["accuracy"], "attribute_f1": values["f1"]}
    return values


def _amber_score(scored: Sequence[ItemScore]) -> dict[str, float]:
    """The paper's (1 − CHAIR + F1) / 2, where both are there: no ratio of sums, so that it has no interval."""
    sums = {
        name: [sum(item.values[name][side] for item in scored) for side in (0, 1)] for name in ("chair", "f1")
    }
    if not all(bottom for _, bottom in sums.values()):
        return {}
    chair, f1 = (top / bottom for top, bottom in sums.values())
    return {"amber_score": (1 - chair + f1) / 2}

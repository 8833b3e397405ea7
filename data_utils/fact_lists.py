"""Facts beside captions: what detectors, annotators or readers of text say of an image, on rows or in a map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_utils.json_files import RepeatedKeys, read_object
from data_utils.json_hints import is_coco
from data_utils.problems import Problem, shorten, unreadable
from data_utils.row_fields import BadField, checked_text, refuse_other_spellings

CAPTION = "caption"  # the source of what a caption map or a row's captions say
TEXT, OBJECT, RELATION = "text", "object", "relation"
KINDS = (TEXT, OBJECT, RELATION)
SURE = 0.5  # a fact of less confidence is not shown to the reward model, and a thing that only it names is not judged by it
LINE = "{source}: {text}"  # how the reward model reads a fact, as a line beside the captions
_KEYS = frozenset({"source", "confidence", *KINDS})
_LIST = 'must be a list of {"source", "text" or "object" or "relation", "confidence"}, or {"facts": a list, "complete": true}'
_MAP = "a readable JSON object in UTF-8, gzip or not: image name → list of facts"


@dataclass(frozen=True)
class Fact:
    """One thing that a source says.

    Attributes:
        source: who says it.
        kind: `text` is a sentence, the name of one object, or a relation in words.
        text: what is said.
        confidence: 0 to 1.
    """

    source: str
    kind: str
    text: str
    confidence: float = 1.0

    @property
    def sure(self) -> bool:
        """Whether it is taken as said."""
        return self.confidence >= SURE

    def line(self) -> str:
        """As the reward model reads it."""
        return LINE.format(source=self.source, text=self.text)


@dataclass(frozen=True)
class FactList:
    """Facts of one image or row; `complete` where they name every thing that is there."""

    facts: tuple[Fact, ...] = ()
    complete: bool = False

    @classmethod
    def of_rows(cls, rows: Iterable[Mapping[str, Any]], complete: bool = False) -> FactList:
        """From the fields of facts, as a table holds them."""
        return cls(tuple(Fact(**row) for row in rows), complete)

    def joined(self, other: FactList) -> FactList:
        """The facts of both. Where one of them names every thing, both do."""
        return FactList(self.facts + other.facts, self.complete or other.complete)

    def written(self) -> dict[str, Any]:
        """As a field `facts` of a row, which is absent where there are none."""
        if not self.facts and not self.complete:
            return {}
        rows = [
            {
                "source": fact.source,
                fact.kind: fact.text,
                **({} if fact.confidence == 1 else {"confidence": fact.confidence}),
            }
            for fact in self.facts
        ]
        return {"facts": {"facts": rows, "complete": True} if self.complete else rows}

    def lines(self) -> tuple[str, ...]:
        """What the reward model reads of them."""
        return tuple(fact.line() for fact in self.facts if fact.sure)


NO_FACTS = FactList()


def captions_as_facts(captions: tuple[str, ...]) -> FactList:
    """Captions, which may leave things out."""
    return FactList(tuple(Fact(CAPTION, TEXT, caption) for caption in captions))


def fact_list(value: Any, field: str) -> FactList:
    """A list of facts, or an object with a list under `facts` and `complete`. Raises BadField."""
    complete = False
    if isinstance(value, dict):
        refuse_other_spellings(value, {"facts", "complete"})
        complete = value.get("complete", False)
        if not isinstance(complete, bool):
            raise BadField(f"{field}.complete", complete, "must be true or false (absent means false)")
        value = value.get("facts")
    if not isinstance(value, list):
        raise BadField(field, value, _LIST)
    return FactList(tuple(_fact(one, f"{field}[{index}]") for index, one in enumerate(value)), complete)


def _fact(value: Any, field: str) -> Fact:
    if not isinstance(value, dict):
        raise BadField(
            field, value, 'must be an object {"source", "text" or "object" or "relation", "confidence"}'
        )
    refuse_other_spellings(value, _KEYS)
    source = checked_text(value.get("source"), f"{field}.source").strip()
    if not source:
        raise BadField(f"{field}.source", source, "must name who says it")
    said = [kind for kind in KINDS if value.get(kind) is not None]
    if len(said) != 1:
        raise BadField(
            field, value, f"must say one thing, under text, object or relation; here: {said or 'none'}"
        )
    kind = said[0]
    text = value[kind]
    if kind == RELATION and isinstance(text, list):
        text = " ".join(checked_text(part, f"{field}.relation") for part in text)
    text = checked_text(text, f"{field}.{kind}").strip()
    if not text:
        raise BadField(f"{field}.{kind}", text, "must not be empty")
    confidence = value.get("confidence", 1.0)
    if isinstance(confidence, bool) or not isinstance(confidence, (int, float)) or not 0 <= confidence <= 1:
        raise BadField(f"{field}.confidence", confidence, "must be a number from 0 to 1 (absent means 1)")
    return Fact(source, kind, text, float(confidence))


def read_facts(path: str | Path) -> tuple[dict[str, FactList], list[Problem]]:
    """Read a map of facts by image, or COCO's `instances_*.json`; wrong entries become problems."""
    try:
        data = read_object(path)
    except ValueError as error:
        return {}, [unreadable(path, error, _MAP)]
    if is_coco(data):
        return _from_coco(path, data)
    repeated = data.repeated if isinstance(data, RepeatedKeys) else set()
    facts: dict[str, FactList] = {}
    problems: list[Problem] = []
    for name, value in data.items():
        try:
            if name in repeated:
                raise BadField(name, value, "stands there more than once; keep one")
            facts[checked_text(name, name)] = fact_list(value, name)
        except BadField as bad:
            problems.append(Problem(str(path), None, bad.field, shorten(bad.value), bad.remedy))
    return facts, problems


def _from_coco(path: str | Path, data: Mapping[str, Any]) -> tuple[dict[str, FactList], list[Problem]]:
    """The names of the objects that COCO annotates in each image, each once."""
    try:
        kinds = {row["id"]: row["name"] for row in data["categories"]}
        names = {row["id"]: row["file_name"] for row in data["images"]}
        seen: dict[str, dict[str, Fact]] = {name: {} for name in names.values()}
        for row in data["annotations"]:
            kind = kinds[row["category_id"]]
            seen[names[row["image_id"]]][kind] = Fact("coco", OBJECT, kind)
    except (KeyError, TypeError) as error:
        value = f"is an annotation file of COCO, without instances (lacks {error})"
        return {}, [Problem(str(path), None, "file", value, f"must be instances_*.json, or {_MAP}")]
    return {name: FactList(tuple(found.values())) for name, found in seen.items()}, []

"""Factual augmentation: which facts belong to an example, and the one function that writes them for the reward model.

Reward training and PPO both come through here, so that the reward model sees in PPO what it was trained on.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath

from data_utils.fact_lists import NO_FACTS, FactList, captions_as_facts
from data_utils.file_signatures import SEEN, foreign_file
from data_utils.schema import AnswerType, Record

PLACEHOLDER = "{factual_prompt}"
# Interface strings: released reward models were trained with them.
FACTS_HEADER = "Specifically, the AI's response should be fully supported by the combination of the following captions:\n"
FACT_LINE = "  - {}\n"

_RATIONALE_TYPES = frozenset(
    {AnswerType.A_IN_ABCD, AnswerType.B_IN_ABCD, AnswerType.C_IN_ABCD, AnswerType.D_IN_ABCD}
)


class MissingCaptions(str, Enum):
    """What to do with an image that has no captions: refuse the data, drop the row, or score it without facts."""

    ERROR = "error"
    SKIP = "skip"
    NO_FACT = "no_fact"


def caption_key(image: str, answer_type: AnswerType) -> str:
    """Key of an image in the caption map; multiple-choice rows (A–D) look up the A-OKVQA rationale."""
    return f"aok_{image}" if answer_type in _RATIONALE_TYPES else image


class FactBook:
    """The facts known about examples: maps of captions and of other facts, and the policy for a miss.

    Args:
        captions: image → captions; None: no map was given.
        missing: what to do with a miss.
        facts: image → facts beside captions; None: no map was given.
    """

    def __init__(
        self,
        captions: Mapping[str, tuple[str, ...]] | None,
        missing: MissingCaptions,
        facts: Mapping[str, FactList] | None = None,
    ):
        self._captions = captions or {}
        self._facts = facts or {}
        self.missing = MissingCaptions(missing)

    def find(self, record: Record, answer_type: AnswerType) -> tuple[str, ...] | None:
        """What the reward model may read of a row, in the maps' order: captions, then lines of other facts.

        Returns () for a row that has nothing to look up (no image, nothing of its own), and None for a miss:
        a row with images of which nothing is known, and nothing of its own.
        """
        found = (*self._captions_of(record, answer_type), *self._beside(record).lines())
        return found or (None if record.images else ())

    def known(self, record: Record, answer_type: AnswerType) -> FactList:
        """All facts of a row, captions first."""
        return captions_as_facts(self._captions_of(record, answer_type)).joined(self._beside(record))

    def _captions_of(self, record: Record, answer_type: AnswerType) -> tuple[str, ...]:
        """Those of all its images, else the row's own."""
        found: list[str] = []
        for image in record.images:
            found += self._captions.get(caption_key(image, answer_type), ())
        return tuple(found) or record.captions or ()

    def _beside(self, record: Record) -> FactList:
        """Facts beside captions: those of all its images, and the row's own."""
        facts = NO_FACTS
        for image in record.images:
            facts = facts.joined(self._facts.get(image, NO_FACTS))
        return facts.joined(record.facts)

    def key_like(self, key: str) -> str | None:
        """A key of the map, one that seems to mean the same image where there is one; None without a map."""
        if not self._captions:
            return None
        wanted = _bare(key)
        return next((other for other in self._captions if _bare(other) == wanted), next(iter(self._captions)))


def _bare(key: str) -> str:
    """An image without folder, ending, and COCO's prefix."""
    return re.sub(r"^COCO_(?:train|val|test)\d+_", "", PurePosixPath(key.removeprefix("aok_")).stem).lower()


@dataclass(frozen=True)
class RewardPrompt:
    """The text that asks the reward model for a score, appended after the conversation's last stop.

    `text` may hold `{factual_prompt}` once; other braces are plain text. Raises ValueError when it is empty
    or holds the placeholder twice.
    """

    text: str

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("the reward prompt is empty; the reward model needs a text to score after")
        if self.text.count(PLACEHOLDER) > 1:
            count = self.text.count(PLACEHOLDER)
            raise ValueError(f"the reward prompt holds {PLACEHOLDER} {count} times; keep one")

    @classmethod
    def from_file(cls, path: str | Path) -> RewardPrompt:
        """Read and strip a prompt file; raises ValueError naming it when it cannot be used."""
        try:
            content = Path(path).read_bytes()
            if (found := foreign_file(content[:SEEN])) is not None:
                raise ValueError(f"is {found[0]}; {found[1]}")
            return cls(content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").strip())
        except (OSError, ValueError) as error:
            raise ValueError(f"reward prompt file {path}: {error}") from error

    @property
    def uses_facts(self) -> bool:
        """Whether the prompt has a place for facts."""
        return PLACEHOLDER in self.text

    def without_facts(self) -> RewardPrompt:
        """The same criteria with no place for facts: what `render` gives without captions."""
        return RewardPrompt(self.render(None).strip())

    def render(self, captions: Sequence[str] | None) -> str:
        """One space and the text, facts in place of the placeholder.

        Without captions (None or empty) the placeholder goes, and the space in front of it with it:
        the published factual prompt then reads exactly like the plain one.
        """
        if captions:
            facts = FACTS_HEADER + "".join(FACT_LINE.format(caption) for caption in captions)
            return " " + self.text.replace(PLACEHOLDER, facts)
        return " " + self.text.replace(f" {PLACEHOLDER}", "").replace(PLACEHOLDER, "")


def shuffled_captions(captions: Sequence[str], seed: int, row: int) -> tuple[str, ...]:
    """`captions` in a random order that depends on the seed and the row's index alone."""
    order = list(captions)
    # A string seed is hashed by `random` itself: the same order in every process and Python run.
    random.Random(f"{seed}:{row}").shuffle(order)
    return tuple(order)

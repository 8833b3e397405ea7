"""CHAIR: which of the objects that a caption names are not in the image? (Rohrbach et al., arXiv 1809.02156)

What is in the image, as published: objects with an instance annotation, and objects that the human captions name.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import ClassVar

from llava_rlhf.evaluation.benchmarks.coco_truth import objects_there
from llava_rlhf.evaluation.benchmarks.items import (
    Benchmark,
    Item,
    ItemScore,
    Record,
    Scores,
    file_hash,
    match_answers,
    summed,
)
from llava_rlhf.evaluation.benchmarks.published_answers import by_image_number, have, unknown_layout
from llava_rlhf.fact_rewards.object_words import ObjectWords


class Chair(Benchmark):
    """A description of each of some COCO images.

    Args:
        files: COCO's `instances_*.json` and `captions_*.json` of the same images, in any order.
        synonyms_file: words for objects, as `ObjectWords` reads them; None for our own list.
        question: what is asked.
        images: so many, drawn from those with annotations of both kinds; 0 for all.
        seed: of the draw.
    """

    metrics: ClassVar[Mapping[str, str]] = {
        "chair_s": "share of captions that name an object which is not there",
        "chair_i": "share of false ones among all mentions of objects",
        "recall": "share of the objects that are there which are named; a short caption hallucinates less and recalls less",
        "mentions": "mentions of objects a caption",
        "words": "words a caption",
    }

    def __init__(
        self, files: Sequence[str], synonyms_file: str | None, question: str, images: int, seed: int
    ):
        self.files = list(files)
        self.words = ObjectWords(synonyms_file)
        self._question, self._images, self._seed = question, images, seed

    def items(self) -> list[Item]:
        """The images that were drawn; `truth` is the set of objects in each."""
        if len(self.files) != 2:
            raise ValueError(
                "--benchmark_files: chair wants two, COCO's instances_*.json and captions_*.json of the same images"
            )
        there = dict(objects_there(self.files, self.words).values())
        names = sorted(there)
        if self._images > len(names):
            raise ValueError(f"--images {self._images}: only {len(names)} images have annotations")
        if self._images:
            names = sorted(random.Random(self._seed).sample(names, self._images))
        return [Item(name, self._question, name, "all", truth=there[name]) for name in names]

    def own_layout(self, answers: Sequence[Record]) -> Sequence[Record]:
        """As `Benchmark.own_layout`: captions with the number of their image."""
        if have(answers, "image_id", "caption"):
            return by_image_number(self.items(), answers)
        if have(answers):
            raise unknown_layout(answers, "image_id, caption (results of COCO)")
        return answers

    def score(self, answers: Sequence[Record], leave_out_missing: bool) -> Scores:
        """Count mentions: those of things that are not there, and the things that are named."""
        items = self.items()
        matched = match_answers(items, answers, leave_out_missing)
        scored = [
            ItemScore(
                item.id, item.category, item.image, summed([self._values(text, item.truth) for text in texts])
            )
            for item, texts in matched
        ]
        conditions = {
            "files": sorted(file_hash(path) for path in self.files),
            "synonyms": file_hash(self.words.files[0]),
            "phrases": file_hash(self.words.files[1]),
            "question": self._question,
        }
        return Scores(scored, conditions, {"missing": len(items) - len(scored)})

    def _values(self, caption: str, there: frozenset[str]) -> dict[str, tuple[float, float]]:
        mentions = self.words.mentions(caption)
        false = sum(name not in there for name in mentions)
        return {
            "chair_s": (false > 0, 1),
            "chair_i": (false, len(mentions)),
            "recall": (len(there.intersection(mentions)), len(there)),
            "mentions": (len(mentions), 1),
            "words": (len(caption.split()), 1),
        }

"""Rows → scores: every row is read, checked and tokenised as `llava_rlhf.score` does, and scored as in training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from data_utils.answers import AnswerItem, AnswerRecord, ScoredIds, answer_record, scored_ids
from data_utils.facts import FactBook, MissingCaptions, RewardPrompt, shuffled_captions
from data_utils.images import Pictures, image_size
from data_utils.problems import Problem, shorten
from data_utils.row_filter import Limits
from llava_rlhf.assembly.roles import TextSide
from llava_rlhf.evaluation.reward_scoring import score_items
from llava_rlhf.functional.rewards import ensemble_scores
from llava_rlhf.reward_service.pictures import Place, RequestPictures, UnfitPictureError
from llava_rlhf.reward_service.refusals import REQUEST, refused_rows, row_problem
from models.roles import RewardModel


@dataclass(frozen=True)
class RowRules:
    """How rows are read.

    Attributes:
        text: tokenizer, image pipeline and template of the base.
        prompt: of the reward model.
        facts: what the service knows about images, and what to do with a miss.
        seed: of the caption order of rows that have a `prompt_row`.
        limits: of lengths in tokens.
    """

    text: TextSide
    prompt: RewardPrompt
    facts: FactBook
    seed: int
    limits: Limits

    def items(self, rows: Sequence[Any], pictures: Sequence[RequestPictures]) -> list[AnswerItem]:
        """Rows of a request, ready to be scored.

        Args:
            rows: as in answers files.
            pictures: of each row.

        Raises:
            RefusedError: 422 with everything that is wrong with any of them; 413 where pictures that are too large are all.
        """
        items, problems, statuses = [], [], set()
        for number, (row, known) in enumerate(zip(rows, pictures, strict=True)):
            try:
                item, wrong = self._item(row, number, known)
            except UnfitPictureError as error:
                wrong = [row_problem(number, "image", shorten(row.get("image")), str(error))]
                statuses.add(error.status)
            else:
                items += [] if item is None else [item]
                statuses |= {422} if wrong else set()
            problems += wrong
        if problems:
            raise refused_rows(problems, 413 if statuses == {413} else 422)
        return items

    def _item(
        self, row: Any, number: int, pictures: RequestPictures
    ) -> tuple[AnswerItem | None, list[Problem]]:
        record, wrong = answer_record(row, REQUEST, number)
        if record is None:
            return None, wrong
        if len(record.images) > 1 and not self.text.family.several_pictures:
            remedy = f"{self.text.family.title} reads an image beside others otherwise than alone; name one in each row"
            return None, [row_problem(number, "image", shorten(list(record.images)), remedy)]
        places = [pictures.find(name) for name in record.images]
        captions = self._captions(record)
        if captions is None:
            remedy = "nothing is known about the image: give 'captions' or 'facts' ([] where none are known)"
            return None, [row_problem(number, "captions", shorten(row.get("captions")), remedy)]
        asked = scored_ids(record, captions, self.text.encoder, self.text.template, self.prompt)
        if too_long := self._too_long(asked, places):
            return None, [row_problem(number, "answer", f"{len(asked.ids)} tokens", too_long)]
        pixels = self._pictures(places, pictures)
        return AnswerItem((asked.ids,), pixels.pixels, pixels.grids), []

    def _captions(self, record: AnswerRecord) -> tuple[str, ...] | None:
        """Facts in the order in which they are read; None for a miss that is refused."""
        if not self.prompt.uses_facts:
            return ()
        found = self.facts.find(record, record.answer_type)
        if not found and record.captions is not None:
            found = ()  # "[]": none are known
        if found is None:
            return () if self.facts.missing is MissingCaptions.NO_FACT else None
        # Without a row of a prompt file the caller's order stands: a score may not depend on the place in a request.
        return found if record.prompt_row is None else shuffled_captions(found, self.seed, record.prompt_row)

    def _too_long(self, asked: ScoredIds, places: Sequence[Place]) -> str | None:
        total = len(asked.ids)
        if not self.text.family.fixed_positions:
            sizes = [image_size(place.folder, place.name) for place in places]
            total += sum(self.text.family.positions(self.text.pipeline.processor, size) - 1 for size in sizes)
        return self.limits.exceeded(asked.query, asked.response, total)

    def _pictures(self, places: Sequence[Place], pictures: RequestPictures) -> Pictures:
        """Pixels of pictures that may lie in different folders."""
        if not places:
            return self.text.pipeline("", ())
        parts = [pictures.pixels(place, self.text.pipeline) for place in places]
        if len(parts) == 1:
            return parts[0]
        grids = None if parts[0].grids is None else tuple(grid for part in parts for grid in part.grids)
        return Pictures(torch.cat([part.pixels for part in parts]), grids)


def room_of(row: Any) -> int:
    """How many rows a row of a request counts as: one, or one for each of its pictures. What is no row counts as one."""
    image = row.get("image") if isinstance(row, dict) else None
    return max(len(image), 1) if isinstance(image, list) else 1


def room_of_item(item: AnswerItem) -> int:
    """The same of what became of it."""
    return max(len(item.images if item.grids is None else item.grids), 1)


class Scorer:
    """Reward models that score items together, as `llava_rlhf.score` puts them together.

    Args:
        reward_models: on one base, in inference.
        pad_id: fills short rows; masked by position.
        beta: weight of their disagreement.
    """

    def __init__(self, reward_models: Sequence[RewardModel], pad_id: int, beta: float = 0.0):
        self._reward_models, self._pad_id, self._beta = reward_models, pad_id, beta

    def __call__(self, items: Sequence[AnswerItem]) -> list[Mapping[str, Any]]:
        """Of each item `score`, and with several reward models `members`.

        Raises:
            FloatingPointError: a score is not finite.
        """
        members = score_items(self._reward_models, items, self._pad_id)[:, 0]
        several = len(self._reward_models) > 1
        scores = ensemble_scores(members, self._beta)[0] if several else members[:, 0]
        values = scores.tolist()
        if not all(map(math.isfinite, values)):
            raise FloatingPointError("a score is not finite")
        if not several:
            return [{"score": score} for score in values]
        return [
            {"score": score, "members": each} for score, each in zip(values, members.tolist(), strict=True)
        ]

"""What claims earn in a PPO step: each is asked of the facts, and of the picture where the facts leave it open."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_utils.items import PromptItem
from data_utils.schema import AnswerType
from llava_rlhf.assembly.image_features import ImageFeatures
from llava_rlhf.assembly.token_text import TokenText
from llava_rlhf.fact_rewards.claims import ClaimReward, about_picture
from llava_rlhf.ppo.fact_scores import FactScores
from llava_rlhf.ppo.yes_no import Asker, YesNo
from llava_rlhf.runs.run_folder import JsonLines, read_json_lines

CACHE = "claims/answers_{}.jsonl"  # in the run folder, of each process by its number


class KnownAnswers:
    """Asks each question once, whatever becomes of the run: what was answered is on disk before it is used.

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
        self._known: dict[str, float] = {}
        records = [] if file is None else read_json_lines(file)
        for number, record in enumerate(records, 1):
            try:
                self._known |= {key: float(yes) for key, yes in record["answers"].items()}
            except (AttributeError, KeyError, TypeError, ValueError):
                raise ValueError(
                    f"{file}, line {number}: no answers of a judge; move the file away"
                ) from None
        self._lines = None if file is None else JsonLines(file, len(records))

    def probabilities(self, questions: Sequence[YesNo], images: ImageFeatures) -> list[float]:
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


class ClaimScorer:
    """Pays answers by their claims.

    Args:
        reward: what is paid.
        answers: who says what is true.
        asks_picture: whether pictures are asked for what the facts leave open.
    """

    def __init__(self, reward: ClaimReward, answers: KnownAnswers, asks_picture: bool):
        self.reward, self.answers, self.asks_picture = reward, answers, asks_picture

    def scores(
        self, items: Sequence[PromptItem], texts: Sequence[TokenText], images: ImageFeatures
    ) -> FactScores:
        """What answers to prompts earn; `images` as the reward model's base sees them."""
        open_questions = [item.answer_type is AnswerType.GENERAL for item in items]
        rows = list(zip(items, texts, open_questions, strict=True))
        of_facts = self._ask(
            [
                [YesNo(text, (), row) for text in self.reward.questions(answer.text, item.facts, wide)]
                for row, (item, answer, wide) in enumerate(rows)
            ],
            images,
        )
        seen = self._seen(items, texts, of_facts, images)
        found = [
            self.reward.of(answer.text, item.facts, wide, known, shown)
            for (item, answer, wide), known, shown in zip(rows, of_facts, seen, strict=True)
        ]
        return FactScores(list(texts), found)

    def _seen(
        self,
        items: Sequence[PromptItem],
        texts: Sequence[TokenText],
        of_facts: Sequence[Mapping[str, float]],
        images: ImageFeatures,
    ) -> list[dict[str, float]]:
        """For each row claim → probability that its pictures show it, of those that its facts leave open."""
        if not self.asks_picture:
            return [{} for _ in items]
        wanted = [
            self.reward.left_open(text.text, item.facts, known) if item.image_names else []
            for item, text, known in zip(items, texts, of_facts, strict=True)
        ]
        asked = self._ask(
            [
                [YesNo(about_picture(claim), items[row].image_names, row) for claim in row_claims]
                for row, row_claims in enumerate(wanted)
            ],
            images,
        )
        return [
            {claim: known[about_picture(claim)] for claim in row_claims}
            for row_claims, known in zip(wanted, asked, strict=True)
        ]

    def _ask(self, questions: Sequence[Sequence[YesNo]], images: ImageFeatures) -> list[dict[str, float]]:
        """For each row text of a question → probability of Yes; all rows are asked together."""
        flat = iter(self.answers.probabilities([one for row in questions for one in row], images))
        return [{one.text: next(flat) for one in row} for row in questions]

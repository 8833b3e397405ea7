"""What claims earn in a PPO step: each is asked of the facts, and of the picture where the facts leave it open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from data_utils.items import PromptItem
from data_utils.schema import AnswerType
from llava_rlhf.assembly.image_features import ImageFeatures
from llava_rlhf.assembly.token_text import TokenText
from llava_rlhf.fact_rewards.claims import Answered, ClaimReward, about_picture
from llava_rlhf.ppo.fact_scores import FactScores
from llava_rlhf.ppo.known_answers import KnownAnswers
from llava_rlhf.ppo.yes_no import Chance, YesNo


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
        rows = [
            Answered(text.text, item.question, item.facts, item.answer_type is AnswerType.GENERAL)
            for item, text in zip(items, texts, strict=True)
        ]
        of_facts = self.answers.of_rows(
            [
                [YesNo(text, (), row) for text in self.reward.questions(answer)]
                for row, answer in enumerate(rows)
            ],
            images,
        )
        seen = self._seen(items, rows, of_facts, images)
        found = [
            self.reward.of(answer, said, shown)
            for answer, said, shown in zip(rows, of_facts, seen, strict=True)
        ]
        return FactScores(list(texts), found)

    def _seen(
        self,
        items: Sequence[PromptItem],
        rows: Sequence[Answered],
        of_facts: Sequence[Mapping[str, Chance]],
        images: ImageFeatures,
    ) -> list[dict[str, Chance]]:
        """For each row claim → probability that its pictures show it, of those that its facts leave open."""
        if not self.asks_picture:
            return [{} for _ in items]
        wanted = [
            {claim: about_picture(answer.question, claim) for claim in self.reward.left_open(answer, said)}
            for answer, said in zip(rows, of_facts, strict=True)
        ]
        return self.answers.about_pictures(items, wanted, images)

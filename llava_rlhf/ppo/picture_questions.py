"""Does the picture show a thing? The reward model's base is asked, without any adapter, and answers with a probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from data_utils.items import PromptItem
from llava_rlhf.assembly.image_features import ImageFeatures
from llava_rlhf.fact_rewards.arguments import FactRewardArguments
from llava_rlhf.ppo.yes_no import Asker, YesNo


class PictureQuestions:
    """Asks for yes or no, each question about a picture once.

    Args:
        asker: who is asked.
        arguments: say what is asked.
    """

    def __init__(self, asker: Asker, arguments: FactRewardArguments):
        self.asker, self.arguments = asker, arguments
        self._known: dict[tuple[tuple[str, ...], str], float] = {}

    def probabilities(
        self, items: Sequence[PromptItem], images: ImageFeatures, things: Sequence[Sequence[str]]
    ) -> list[Mapping[str, float]]:
        """p(Yes) / (p(Yes) + p(No)) of the first token in which the two answers differ.

        Args:
            items: rows.
            images: of the rows, as the base sees them.
            things: for each row, what is asked of its pictures. A row without a picture can't be asked.

        Returns:
            For each row thing → probability that it is there.
        """
        asked = {
            (item.image_names, thing): row
            for row, item in enumerate(items)
            for thing in things[row]
            if item.image_names
        }
        new = {key: row for key, row in asked.items() if key not in self._known}
        if new:
            questions = [
                YesNo(self.arguments.question(thing), names, row) for (names, thing), row in new.items()
            ]
            self._known |= zip(new, self.asker.probabilities(questions, images), strict=True)
        return [
            {thing: self._known[item.image_names, thing] for thing in wanted if item.image_names}
            for item, wanted in zip(items, things, strict=True)
        ]

"""Does the picture show a thing? The reward model's base is asked, without any adapter, and answers with a probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from data_utils.batches import right_pad
from data_utils.conversation import dialogue_segments
from data_utils.items import PromptItem
from data_utils.schema import IMAGE_MARKER, Turn
from llava_rlhf.assembly.image_features import ImageFeatures, expand_query
from llava_rlhf.assembly.roles import TextSide
from llava_rlhf.fact_rewards.arguments import FactRewardArguments
from llava_rlhf.ppo.micro_batches import MicroBatches
from models.adapters import AdapterBank


class PictureQuestions:
    """Asks a base for yes or no, each question about a picture once.

    Args:
        bank: whose base is asked.
        text: how a dialogue is written for it.
        arguments: say what is asked.
        batches: which questions it reads together.
        pad_id: fills padded columns, which are behind what is read.
    """

    def __init__(
        self,
        bank: AdapterBank,
        text: TextSide,
        arguments: FactRewardArguments,
        batches: MicroBatches,
        pad_id: int,
    ):
        self.bank, self.text, self.arguments = bank, text, arguments
        self.batches, self.pad_id = batches, pad_id
        self._known: dict[tuple[tuple[str, ...], str], float] = {}

    @torch.no_grad()
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
        new = [(key, row) for key, row in asked.items() if key not in self._known]
        if new:
            self._ask(new, images)
        return [
            {thing: self._known[item.image_names, thing] for thing in wanted if item.image_names}
            for item, wanted in zip(items, things, strict=True)
        ]

    def _ask(self, new: Sequence[tuple[tuple[tuple[str, ...], str], int]], images: ImageFeatures) -> None:
        vlm, sequences, answers = self.bank.vlm, [], []
        for (names, thing), row in new:
            begun, yes_no = self._encoded(self.arguments.question(thing), len(names))
            sequences.append(expand_query(begun, images.grids_of(row), vlm))
            answers.append(yes_no)

        def ask(places: list[int]) -> None:
            ids, mask = right_pad([sequences[place] for place in places], self.pad_id)
            features = images.select([new[place][1] for place in places])
            with self.bank.use_base() as base:
                hidden = base(ids.to(vlm.device), None, features)
                last = mask.sum(dim=1).to(vlm.device) - 1
                logits = base.project(hidden[torch.arange(len(places), device=vlm.device), last]).float()
            said = logits.gather(1, torch.tensor([answers[place] for place in places], device=vlm.device))
            for place, chance in zip(places, said.softmax(dim=1)[:, 0].tolist(), strict=True):
                self._known[new[place][0]] = chance

        self.batches.run([len(sequence) for sequence in sequences], ask)

    def _encoded(self, question: str, n_images: int) -> tuple[list[int], tuple[int, int]]:
        """Ids up to where "Yes" and "No" differ, and the ids of the two there."""
        yes, no = (
            self.text.encoder.encode(
                dialogue_segments(
                    self.text.template,
                    (Turn("human", IMAGE_MARKER * n_images + question), Turn("gpt", answer)),
                    n_images,
                )
            ).ids
            for answer in ("Yes", "No")
        )
        place = next(at for at, (one, other) in enumerate(zip(yes, no, strict=False)) if one != other)
        return list(yes[:place]), (yes[place], no[place])

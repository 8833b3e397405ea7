"""What a plain base says to a question of Yes or No: its adapter switched off, one question at a time, without padding."""

from __future__ import annotations

from itertools import takewhile

import torch

from data_utils.conversation import dialogue_segments
from data_utils.items import PromptItem
from data_utils.schema import Turn
from llava_rlhf.assembly.roles import TextSide
from tests.support.plain_models import PlainRole, seen


@torch.no_grad()
def plain_chance_of_yes(
    text: TextSide, plain: PlainRole, question: str, item: PromptItem | None = None
) -> float:
    """p(Yes) / (p(Yes) + p(No)) behind what the dialogues with these two answers have in common; with the pictures of an item."""
    names = item.image_names if item else ()
    turn = Turn("human", "<image>" * len(names) + question)
    yes, no = (
        list(
            text.encoder.encode(dialogue_segments(text.template, (turn, Turn("gpt", answer)), len(names))).ids
        )
        for answer in ("Yes", "No")
    )
    same = takewhile(lambda pair: pair[0] == pair[1], zip(yes, no, strict=False))
    begun = [one for one, _ in same]
    with plain.model.disable_adapter():
        logits = plain.run(begun, seen(item)[1] if item else torch.zeros(0, 3, 28, 28))[1][-1]
    return float(logits[[yes[len(begun)], no[len(begun)]]].softmax(dim=0)[0])

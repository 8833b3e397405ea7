"""A prompt, as a server is asked it and as the model that trains reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data_utils.items import PromptItem
from data_utils.tokens import expand_image_tokens
from llava_rlhf.assembly.roles import TextSide
from llava_rlhf.engines.pictures import ServedPictures
from models.families.base import Grid


@dataclass(frozen=True)
class ServedPrompt:
    """One prompt.

    Attributes:
        token_ids: what a server is sent, one placeholder a picture.
        pictures: data URLs.
        expanded: what it must have read.
    """

    token_ids: list[int]
    pictures: list[str]
    expanded: list[int]


@dataclass(frozen=True)
class PromptWriter:
    """Writes prompts for servers.

    Attributes:
        text: of the policy's base.
        pictures: of the images.
    """

    text: TextSide
    pictures: ServedPictures

    def write(self, item: PromptItem) -> ServedPrompt:
        """As `ServedPrompt`. Raises ValueError for a picture that can't be read."""
        grids: Sequence[Grid] = ((),) * len(item.image_names) if item.grids is None else item.grids
        family = self.text.family
        narrow = map(family.served_placeholder, grids)
        return ServedPrompt(
            expand_image_tokens(item.query_ids, family.image_token_id, narrow),
            [self.pictures.url(name, grid) for name, grid in zip(item.image_names, grids, strict=True)],
            self.text.expand(item.query_ids, grids),
        )

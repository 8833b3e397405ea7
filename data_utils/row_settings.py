"""How the rows of a data file are read: their images, their tokens, and which are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_utils.conversation import Template
from data_utils.images import QUICK_CHECKS, ImageChecks, ImagePipeline, image_size
from data_utils.problems import Problem
from data_utils.row_filter import Limits, RowFilter
from data_utils.tokens import SegmentEncoder

PICTURE = "picture"  # among the lengths of a report: the positions of each


@dataclass(frozen=True)
class RowSettings:
    """What every kind of data file is read with.

    Attributes:
        image_folder: the names of images are relative to it; None where no row may have an image.
        encoder, template: conversation → ids.
        pipeline: image files → pixels.
        query_len, response_len, model_max_length: limits in tokens, see `Limits`.
        skip_invalid: drop and count rows that cannot be used, instead of refusing the file.
        image_checks: how images are checked.
        positions: width and height of an image → positions that it takes in the model; None where all are alike, and each
            counts as one token, as in 2023.
        one_image: the family of the base, where a row may have no more than one image.
    """

    image_folder: str | Path | None
    encoder: SegmentEncoder
    template: Template
    pipeline: ImagePipeline
    query_len: int
    response_len: int
    model_max_length: int
    skip_invalid: bool
    image_checks: ImageChecks = QUICK_CHECKS
    positions: Callable[[tuple[int, int]], int] | None = None
    one_image: str | None = None

    def picture_lengths(self, images: Sequence[str]) -> dict[str, list[int]]:
        """Positions of each image of a row, for a report; nothing where all are alike."""
        if self.positions is None or not images:
            return {}
        return {PICTURE: [self.positions(image_size(self.image_folder, name)) for name in images]}

    @property
    def limits(self) -> Limits:
        """The length limits in tokens."""
        return Limits(self.query_len, self.response_len, self.model_max_length)

    def row_filter(self, path: str | Path, problems: list[Problem]) -> RowFilter:
        """What collects the rows of one file; `problems` are those that its reader found."""
        return RowFilter(str(path), problems, self.skip_invalid, self.image_checks, self.one_image)


def beyond_one(pictures: Mapping[str, Sequence[int]]) -> int:
    """What the images of a row add to its length in tokens, in which each is one already; from `picture_lengths`."""
    return sum(positions - 1 for positions in pictures.get(PICTURE, ()))

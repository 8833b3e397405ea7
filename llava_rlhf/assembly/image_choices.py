"""Which choices of how pictures become pixels a base leaves, and what they are where nothing is chosen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from data_utils.image_choices import ImageChoices
from data_utils.images import ASPECT_RATIOS
from llava_rlhf.runs.role_files import recorded_runs
from models.base_files import read_family
from models.families.base import Family
from models.families.registry import FAMILIES
from models.vlm import load_image_processor

if TYPE_CHECKING:
    from transformers.image_processing_utils import BaseImageProcessor

LIMITS = ("min_pixels", "max_pixels")


class Settings(Protocol):
    """Settings of a program with flags for these choices."""

    image_aspect_ratio: str | None

    def image_choices(self) -> ImageChoices:
        """What is chosen."""
        ...


SettingsT = TypeVar("SettingsT", bound=Settings)


def with_aspect_ratio(settings: SettingsT, base: str | Path) -> SettingsT:
    """The settings with the base's way of making pictures square where none is named, as records shall have it.

    Raises ValueError where a choice is named that the family of the base does not leave.
    """
    family = read_family(base)
    check_choices(settings.image_choices(), base, family)
    return replace(settings, image_aspect_ratio=settings.image_aspect_ratio or default_aspect_ratio(family))


def default_aspect_ratio(family: Family) -> str | None:
    """How pictures are made square where nothing is said; None: they are not made square by us."""
    return ASPECT_RATIOS[0] if family.squares_pictures else None


def check_choices(choices: ImageChoices, base: str | Path, family: Family) -> None:
    """Raise ValueError where something is chosen that a family does not leave to choose."""
    for name, value in vars(choices).items():
        if value is None or (
            family.squares_pictures if name == "image_aspect_ratio" else family.pixel_limits
        ):
            continue
        reason = (
            "its image processor alone decides how a picture is resized"
            if name == "image_aspect_ratio"
            else f"whose pictures have no such limits (those of {_titles_with_limits()} have)"
        )
        raise ValueError(f"--{name} {value}: {base} is a {family.title}, {reason}; leave the flag out")


def fit_processor(
    processor: BaseImageProcessor, choices: ImageChoices, base: str | Path, family: Family
) -> ImageChoices:
    """Give an image processor the limits that are chosen. Returns what holds now.

    Raises ValueError for a choice that the family does not leave, or limits that leave no size.
    """
    check_choices(choices, base, family)
    aspect_ratio = choices.image_aspect_ratio or default_aspect_ratio(family)
    if family.pixel_limits is None:
        return ImageChoices(aspect_ratio)
    limits = pixel_limits(processor, family)
    chosen = {name: getattr(choices, name) or limits[name] for name in LIMITS}
    if chosen["min_pixels"] > chosen["max_pixels"]:
        raise ValueError(
            f"pictures of {base} must have at least {chosen['min_pixels']} pixels (--min_pixels, or its image processor) "
            f"and at most {chosen['max_pixels']} (--max_pixels, or its image processor): name both flags"
        )
    names = dict(zip(family.pixel_limits, chosen.values(), strict=True))
    processor.size = type(processor.size)(**{**dict(processor.size), **names})
    return ImageChoices(aspect_ratio, **chosen)


def pixel_limits(processor: BaseImageProcessor, family: Family) -> dict[str, int]:
    """`min_pixels` and `max_pixels` of an image processor, of a family that has them."""
    return {name: processor.size[field] for name, field in zip(LIMITS, family.pixel_limits, strict=True)}


def check_limits(base: str | Path, adapter: Path | None, now: ImageChoices) -> None:
    """Look whether pictures have the size that they had in training; where nothing was recorded, nothing is known.

    Args:
        base: its own limits hold where the record of training names none.
        adapter: of `find_policy_adapter`.
        now: what holds, of `TextSide.image_choices`.

    Raises:
        ValueError: base or adapter was trained with other limits. Answers would be worse, without any error.
    """
    family = read_family(base)
    if family.pixel_limits is None:
        return
    own = pixel_limits(load_image_processor(base), family)
    for folder, record in recorded_runs(base, adapter):
        data = record.get("DataArguments")
        if not isinstance(data, dict):
            continue
        for name in LIMITS:
            then = data.get(name) or own[name]
            if then != getattr(now, name):
                raise ValueError(
                    f"{folder} was trained with {name} {then}, not {getattr(now, name)}: "
                    + (f"add --{name} {then}" if then != own[name] else f"leave --{name} out")
                )


def _titles_with_limits() -> str:
    return ", ".join(family.title for family in FAMILIES.values() if family.pixel_limits)

"""What a reward model was trained with: `reward_model.json`, written beside its weights and compared with whoever uses it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from data_utils.conversation import Template
from data_utils.image_choices import ImageChoices
from llava_rlhf.hub.flags import fetch_named_model
from llava_rlhf.runs.role_files import (
    REWARD,
    REWARD_CARD,
    REWARD_HEAD,
    no_folder,
    piece_differences,
    pieces_of,
)
from models.adapter_files import ADAPTER_CONFIG, refuse_original
from models.base_fingerprint import base_fingerprint

CHAT_FIELDS = ("system_message", "template_pieces")  # where the template is the base's own
REWARD_HEADS = ("linear", "mlp")
_OTHER_TYPES = {
    "facts": bool,
    "template_pieces": dict,
    "image_aspect_ratio": str | None,
    "min_pixels": int | None,
    "max_pixels": int | None,
}


@dataclass(frozen=True)
class RewardModelCard:
    """What a reward model was trained with, so that it can't be used with the wrong prompt.

    Attributes:
        base_model: its base, as given to training; a downloaded one by repository and commit.
        prompt: text of the reward prompt, stripped, with `{factual_prompt}` if it had one.
        facts: whether captions were put into the prompt.
        template: name of the conversation template.
        image_aspect_ratio: how images were made square; None: the base's image processor alone decided.
        base_fingerprint: of its base, as `models.base_fingerprint` takes it; the base may move, its weights may not change.
        system_message: that was put into the chat template of its base; None: nothing.
        template_pieces: of that template (`pieces_of`); None where it is not the base's own.
        min_pixels, max_pixels: limits of a picture's size; None: its base knows none.
        reward_head: kind of its head, linear or mlp (`models.heads`).
    """

    base_model: str
    prompt: str
    facts: bool
    template: str
    image_aspect_ratio: str | None
    base_fingerprint: str
    system_message: str | None = None
    template_pieces: dict[str, Any] | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    reward_head: str = "linear"

    @property
    def image_choices(self) -> ImageChoices:
        """How images became pixels."""
        return ImageChoices(self.image_aspect_ratio, self.min_pixels, self.max_pixels)

    def find_base(self, folder: str | Path, flag: str, configurations: bool = False) -> str:
        """Where its base lies: as recorded, or where it was downloaded to.

        Args:
            folder: of the reward model, for messages.
            flag: that names another base.
            configurations: whether the configuration of the base alone will do.

        Raises:
            ValueError: it is to be downloaded, and is not to be had.
        """
        if (
            "@" not in self.base_model
        ):  # a relative path of another time is no id: with one, its commit is recorded
            return self.base_model
        what = f"the base of the reward model, {self.base_model} (reward_model.json of {folder}; {flag} names another)"
        return fetch_named_model(what, self.base_model, configurations)

    def check_base(self, folder: str | Path, base: str | Path, flag: str) -> None:
        """Raise ValueError unless `base` has the weights that the reward model in `folder` was trained on.

        `flag` is the one that names the base.
        """
        if base_fingerprint(base) != self.base_fingerprint:
            raise ValueError(
                f"{folder} was trained on a base with other weights than {base} (on {self.base_model}, wherever that is "
                f"now); name the right one with {flag}"
            )

    def save(self, folder: str | Path) -> None:
        """Write `reward_model.json`."""
        content = {
            name: value
            for name, value in asdict(self).items()
            if name not in CHAT_FIELDS or value is not None
        }
        (Path(folder) / REWARD_CARD).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def differences(
        self, other: RewardModelCard, was: str = "trained with", is_now: str = "now"
    ) -> list[str]:
        """What differs in the conditions of scoring, one line each; neither base (`check_base`) nor head is one."""
        left_out = ("base_model", "base_fingerprint", "template_pieces", "reward_head")
        names = [item.name for item in fields(self) if item.name not in left_out]
        return [
            *(
                f"{name}: {was} {getattr(self, name)!r}, {is_now} {getattr(other, name)!r}"
                for name in names
                if getattr(self, name) != getattr(other, name)
            ),
            *piece_differences(self.template_pieces, other.template_pieces, was, is_now),
        ]

    def check_member(self, folder: str | Path, member: str | Path, card: RewardModelCard) -> None:
        """Raise ValueError unless the reward model in `member`, whose card `card` is, can score with this one, in `folder`."""
        if self.base_fingerprint != card.base_fingerprint:
            differing = [
                f"base: {folder} has {self.base_model}, {member} has {card.base_model}, with other weights"
            ]
        else:
            differing = self.differences(card, f"{folder} has", f"{member} has")
        if differing:
            raise ValueError(
                f"--more_reward_models {member} can't score with {folder}: {differing[0]}; reward models that score together "
                "stand on one base and read the same, so train them alike, with other seeds"
            )

    def check_pieces(self, folder: str | Path, base: str | Path, template: Template) -> None:
        """Raise ValueError unless the chat template of `base` is the one that the reward model in `folder` was trained with."""
        differing = piece_differences(self.template_pieces, pieces_of(template))
        if differing:
            raise ValueError(
                f"{folder} was trained with another chat template than {base} has: {'; '.join(differing)}; take the "
                "template file from the base of its training"
            )


def read_reward_card(folder: str | Path) -> RewardModelCard:
    """Read `reward_model.json`. Raises ValueError when the folder is no reward model, or one of the original."""
    refuse_original(folder, reward_model=True)
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a reward model: {no_folder(folder)}")
    missing = [
        name
        for name in (REWARD_CARD, REWARD_HEAD, f"{REWARD}/{ADAPTER_CONFIG}")
        if not (folder / name).is_file()
    ]
    if missing:
        raise ValueError(
            f"{folder} is not a reward model: it lacks {', '.join(missing)}. "
            "Name the output folder of train_reward_model.py or one of its checkpoints."
        )
    return RewardModelCard(**_card_content(folder / REWARD_CARD))


def read_card_alone(folder: str | Path) -> RewardModelCard | None:
    """Read `reward_model.json`, whatever else a folder has; None where there is none. Raises ValueError for a broken one."""
    file = Path(folder) / REWARD_CARD
    return RewardModelCard(**_card_content(file)) if file.is_file() else None


def _card_content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not JSON ({error}); take it from the run that trained the model"
        ) from error
    found = content if isinstance(content, dict) else {}
    names = [
        item.name for item in fields(RewardModelCard) if item.name not in CHAT_FIELDS or item.name in found
    ]
    expected = {name: _OTHER_TYPES.get(name, str) for name in names}
    # Those of before there were limits have none; those of before there was a choice have a linear head.
    old = {"min_pixels": None, "max_pixels": None, "reward_head": "linear"}
    found = old | content if isinstance(content, dict) else {}
    if found.keys() != expected.keys():
        raise ValueError(f"{path}: keys {sorted(found)} should be {sorted(expected)}")
    for name, kind in expected.items():
        if not isinstance(found[name], kind) or (isinstance(found[name], bool) and kind is not bool):
            raise ValueError(
                f"{path}: {name} is {found[name]!r}, must be a {getattr(kind, '__name__', kind)}"
            )
    if found["reward_head"] not in REWARD_HEADS:
        raise ValueError(
            f"{path}: reward_head is {found['reward_head']!r}, must be one of {', '.join(REWARD_HEADS)}"
        )
    return found

"""How trained roles lie on disk, and how a folder that a user names is understood.

    <folder>/lora_policy/            plain PEFT: adapter_config.json, adapter_model.safetensors
    <folder>/lora_reward/            the same
    <folder>/reward_head.safetensors weight [1, D], bias [1]
    <folder>/reward_model.json       `RewardModelCard`

`<folder>` is a run folder after its end, or one of its checkpoints.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from llava_rlhf.hub.flags import fetch_named_model
from llava_rlhf.runs.run_record import ARGUMENTS_FILE
from models.adapter_files import ADAPTER_CONFIG, refuse_original
from models.base_fingerprint import base_fingerprint
from models.base_place import why_absent

POLICY = "lora_policy"
REFERENCE = "lora_ref_policy"
VALUE = "lora_value"
REWARD = "lora_reward"
REWARD_HEAD = "reward_head.safetensors"
VALUE_HEAD = "value_head.safetensors"
REWARD_CARD = "reward_model.json"
EXPORTED_ARGUMENTS = (
    "training_arguments.json"  # in an exported folder: the `arguments.json` of the run behind it
)


@dataclass(frozen=True)
class RewardModelCard:
    """What a reward model was trained with, so that it can't be used with the wrong prompt.

    Attributes:
        base_model: its base, as given to training; a downloaded one by repository and commit.
        prompt: text of the reward prompt, stripped, with `{factual_prompt}` if it had one.
        facts: whether captions were put into the prompt.
        template: name of the conversation template.
        image_aspect_ratio: how images were made square.
        base_fingerprint: of its base, as `models.base_fingerprint` takes it; the base may move, its weights may not change.
    """

    base_model: str
    prompt: str
    facts: bool
    template: str
    image_aspect_ratio: str
    base_fingerprint: str

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
        (Path(folder) / REWARD_CARD).write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    def differences(self, other: RewardModelCard) -> list[str]:
        """What differs in the conditions of scoring, one line each; the base is no such condition (`check_base`)."""
        names = [item.name for item in fields(self) if item.name not in ("base_model", "base_fingerprint")]
        return [
            f"{name}: trained with {getattr(self, name)!r}, now {getattr(other, name)!r}"
            for name in names
            if getattr(self, name) != getattr(other, name)
        ]


def read_reward_card(folder: str | Path) -> RewardModelCard:
    """Read `reward_model.json`. Raises ValueError when the folder is no reward model, or one of the original."""
    refuse_original(folder, reward_model=True)
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a reward model: {_no_folder(folder)}")
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
    expected = {item.name: bool if item.name == "facts" else str for item in fields(RewardModelCard)}
    found = content if isinstance(content, dict) else {}
    if found.keys() != expected.keys():
        raise ValueError(f"{path}: keys {sorted(found)} should be {sorted(expected)}")
    for name, kind in expected.items():
        if not isinstance(found[name], kind):
            raise ValueError(f"{path}: {name} is {found[name]!r}, must be a {kind.__name__}")
    return found


def find_policy_adapter(folder: str | Path) -> Path:
    """The PEFT folder of a policy: `folder` itself or its `lora_policy`.

    Raises ValueError when there is none, one of the original, or one of another role.
    """
    refuse_original(folder)
    folder = Path(folder)
    if folder.resolve().name in (VALUE, REWARD):
        raise ValueError(
            f"{folder} is the adapter of a value or reward model, which writes no answers: no policy"
        )
    for candidate in (folder / POLICY, folder):
        if (candidate / ADAPTER_CONFIG).is_file():
            return candidate
    if not folder.is_dir():
        raise ValueError(f"{folder} holds no policy adapter: {_no_folder(folder)}")
    if (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} holds no policy adapter: it is a whole model; name it as the base, without an adapter"
        )
    raise ValueError(
        f"{folder} holds no policy adapter: neither {POLICY}/{ADAPTER_CONFIG} nor {ADAPTER_CONFIG} is there. "
        "Name the output folder of initialize_policy_model.py or one of its checkpoints."
    )


def _no_folder(folder: Path) -> str:
    return "it is a file, not a folder" if folder.is_file() else why_absent(folder)


def check_template(base: str | Path, adapter: Path | None, version: str) -> None:
    """Look whether dialogues are written as in training; where nothing was recorded, nothing is known.

    Args:
        base: LLaVA directory; an exported one knows how it was trained.
        adapter: of `find_policy_adapter`, in a run folder or a checkpoint of one.
        version: name of the template.

    Raises:
        ValueError: base or adapter was trained with another one. Answers would be nonsense, without any error.
    """
    records = [Path(base) / EXPORTED_ARGUMENTS]
    if adapter is not None:
        run = adapter.resolve().parent if adapter.resolve().name == POLICY else adapter.resolve()
        records += [run / EXPORTED_ARGUMENTS, run / ARGUMENTS_FILE, run.parent / ARGUMENTS_FILE]
    for record in records:
        try:
            then = json.loads(record.read_text(encoding="utf-8"))["DataArguments"]["version"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if then != version:
            raise ValueError(
                f"{record.parent} was trained with the conversation template {then}, not {version}: add --version {then}"
            )

"""How trained roles lie on disk, and how a folder that a user names is understood.

    <folder>/lora_policy/            plain PEFT: adapter_config.json, adapter_model.safetensors
    <folder>/lora_reward/            the same
    <folder>/reward_head.safetensors as `models.heads` writes it
    <folder>/reward_model.json       `reward_card.RewardModelCard`

`<folder>` is a run folder after its end, or one of its checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_utils.conversation import ChatTemplate, Template
from llava_rlhf.runs.run_record import ARGUMENTS_FILE
from models.adapter_files import ADAPTER_CONFIG, refuse_original
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
        raise ValueError(f"{folder} holds no policy adapter: {no_folder(folder)}")
    if (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} holds no policy adapter: it is a whole model; name it as the base, without an adapter"
        )
    raise ValueError(
        f"{folder} holds no policy adapter: neither {POLICY}/{ADAPTER_CONFIG} nor {ADAPTER_CONFIG} is there. "
        "Name the output folder of initialize_policy_model.py or one of its checkpoints."
    )


def no_folder(folder: Path) -> str:
    """Why a path that should be a folder is none."""
    return "it is a file, not a folder" if folder.is_file() else why_absent(folder)


def pieces_of(template: Template) -> dict[str, Any] | None:
    """What is recorded of a base's own chat template, as plain JSON values; None for one that has a name."""
    return json.loads(json.dumps(asdict(template))) if isinstance(template, ChatTemplate) else None


def piece_differences(
    then: Mapping[str, Any] | None,
    now: Mapping[str, Any] | None,
    was: str = "trained with",
    is_now: str = "now",
) -> list[str]:
    """What differs between the pieces of two chat templates, one line each; nothing where one has none."""
    if then is None or now is None:
        return []
    return [
        f"piece {name} of the chat template: {was} {then.get(name)!r}, {is_now} {value!r}"
        for name, value in now.items()
        if then.get(name) != value
    ]


def _places(base: str | Path, adapter: Path | None) -> list[Path]:
    """Where the settings of a training may be recorded: of a base that was exported, and of an adapter of `find_policy_adapter`."""
    records = [Path(base) / EXPORTED_ARGUMENTS]
    if adapter is not None:
        run = adapter.resolve().parent if adapter.resolve().name == POLICY else adapter.resolve()
        records += [run / EXPORTED_ARGUMENTS, run / ARGUMENTS_FILE, run.parent / ARGUMENTS_FILE]
    return records


def check_template(
    base: str | Path, adapter: Path | None, version: str, system_message: str | None = None
) -> None:
    """Look whether dialogues are written as in training; where nothing was recorded, nothing is known.

    Args:
        base: LLaVA directory; an exported one knows how it was trained.
        adapter: of `find_policy_adapter`, in a run folder or a checkpoint of one.
        version: name of the template.
        system_message: in it.

    Raises:
        ValueError: base or adapter was trained with another one. Answers would be nonsense, without any error.
    """
    for folder, record in recorded_runs(base, adapter):
        data = record.get("DataArguments")
        if not isinstance(data, dict):
            continue
        then, message = data.get("version", version), data.get("system_message")
        if then != version:
            raise ValueError(
                f"{folder} was trained with the conversation template {then}, not {version}: add --version {then}"
            )
        if message != system_message:
            raise ValueError(
                f"{folder} was trained with the system message {message!r}, not {system_message!r}: "
                + ("leave --system_message out" if message is None else f"add --system_message {message!r}")
            )


def check_pieces(base: str | Path, adapter: Path | None, template: Template) -> None:
    """As `check_template`, of what a chat template says: the file of a base may have changed since."""
    for folder, record in recorded_runs(base, adapter):
        differing = piece_differences(record.get(ChatTemplate.__name__), pieces_of(template))
        if differing:
            raise ValueError(
                f"{folder} was trained with another chat template than {base} has: {'; '.join(differing)}; take the "
                "template file from the base of its training"
            )


def recorded_runs(base: str | Path, adapter: Path | None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """What was recorded of the runs behind a base and an adapter, and where."""
    for record in _places(base, adapter):
        try:
            content = json.loads(record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict):
            yield record.parent, content

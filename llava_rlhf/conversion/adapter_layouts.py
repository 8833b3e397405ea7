"""Which files make up a policy, a reward model or a PPO checkpoint, in folders of the original and in ours.

| kind | original | ours |
|---|---|---|
| policy | `lora_default/` | `lora_policy/` |
| reward model | `adapter_model/lora_default/`, `reward_head` | `lora_reward/`, `reward_head.safetensors`, `reward_model.json` |
| PPO checkpoint | `adapter_model/lora_policy/`, `adapter_model/lora_value/`, `value_head.pt` | `lora_policy/`, `lora_value/`, `value_head.safetensors` |

Released copies of the original's folders are found too: adapters with or without the folders `adapter_model` and
`lora_*` around them. A head is looked for in the folder that is named and nowhere else: what lies around it may belong to
another run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llava_rlhf.runs.reward_card import read_reward_card
from llava_rlhf.runs.role_files import (
    POLICY,
    REWARD,
    REWARD_CARD,
    REWARD_HEAD,
    VALUE,
    VALUE_HEAD,
    find_policy_adapter,
)
from models.adapter_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    ORIGINAL_ADAPTER_WEIGHTS,
    ORIGINAL_PARENT,
    ORIGINAL_REWARD_HEAD,
    ORIGINAL_VALUE_HEAD,
    is_original_adapter,
    original_adapter_folders,
)

POLICY_KIND = "policy"
REWARD_KIND = "reward model"
PPO_KIND = "PPO checkpoint"
LINEAR = "linear"  # the one head that the original knows (`models.heads`, which brings torch)

# Names in the original's folders, by kind and by our name of the role.
ORIGINAL_NAMES: Mapping[str, Mapping[str, str]] = {
    POLICY_KIND: {POLICY: "lora_default"},
    REWARD_KIND: {REWARD: f"{ORIGINAL_PARENT}/lora_default"},
    PPO_KIND: {POLICY: f"{ORIGINAL_PARENT}/lora_policy", VALUE: f"{ORIGINAL_PARENT}/lora_value"},
}
ORIGINAL_HEADS = {REWARD_KIND: ORIGINAL_REWARD_HEAD, PPO_KIND: ORIGINAL_VALUE_HEAD}
HEADS = {REWARD_KIND: REWARD_HEAD, PPO_KIND: VALUE_HEAD}


@dataclass(frozen=True)
class AdapterFiles:
    """What was found in a folder.

    Attributes:
        kind: `POLICY_KIND`, `REWARD_KIND` or `PPO_KIND`.
        adapters: our name of the role → folder of its adapter.
        head: file of the scalar head, which a policy lacks.
        left_out: names in the folder that are not converted.
    """

    kind: str
    adapters: Mapping[str, Path]
    head: Path | None
    left_out: tuple[str, ...]


def find_original(source: Path, reward_head: Path | None = None) -> AdapterFiles | None:
    """The adapters of the original in a folder; None when there are none.

    Args:
        source: what the user named: a run, a checkpoint, or the folder of an adapter.
        reward_head: the head of a reward model, where it does not lie in `source`; makes a reward model of an adapter.

    Raises:
        ValueError: several candidates, a PPO checkpoint that lacks a part, or a folder of ours.
    """
    source = source.absolute()
    ours = [name for name in (REWARD, REWARD_CARD, REWARD_HEAD, VALUE_HEAD) if (source / name).exists()]
    if ours:
        raise ValueError(
            f"{source} holds {ours[0]}: it is in this repository's layout already; use it as it is"
        )
    found = [folder for folder in original_adapter_folders(source) if _is_adapter(folder)]
    values = [folder for folder in found if folder.name == "lora_value"]
    others = [folder for folder in found if folder not in values]
    for candidates in (values, others):
        if len(candidates) > 1:
            raise ValueError(
                f"{source} holds several adapters: {', '.join(map(str, candidates))}; name the folder of one"
            )
    if not found:
        return None
    value_head = source / ORIGINAL_VALUE_HEAD
    if values or value_head.is_file():
        return _original_ppo(source, others, values)
    folder, head = others[0], reward_head
    if head is None and folder.name != "lora_policy":  # only policies are called so
        head = _find_head(source, folder, ORIGINAL_REWARD_HEAD)
    kind, role = (POLICY_KIND, POLICY) if head is None else (REWARD_KIND, REWARD)
    return AdapterFiles(kind, {role: folder}, head, _left_out(source, folder, head))


def find_ours(source: Path) -> AdapterFiles:
    """The adapters of this repository in a folder: a run folder after its end, a checkpoint, or a policy's PEFT folder.

    Raises:
        ValueError: none are there, some but not all parts of a reward model or PPO checkpoint, a head that the original
            has no file for, or a folder of the original.
    """
    source = source.absolute()
    if any(map(is_original_adapter, original_adapter_folders(source))):
        raise ValueError(f"{source} is in the original layout already; use it as it is")
    if (source / REWARD_CARD).is_file() or (source / REWARD).is_dir():
        head = read_reward_card(source).reward_head
        if head != LINEAR:
            raise ValueError(
                f"{source} has a head of kind {head}, and the original code knows {LINEAR} ones alone; use the reward model here "
                f"as it is, or train one with --reward_head {LINEAR}"
            )
        return _ours(REWARD_KIND, source, {REWARD: source / REWARD})
    if (source / VALUE).is_dir() or (source / VALUE_HEAD).is_file():
        missing = [name for name in (POLICY, VALUE, VALUE_HEAD) if not (source / name).exists()]
        if missing:
            raise ValueError(f"{source} is not a whole PPO run or checkpoint: it lacks {', '.join(missing)}")
        return _ours(PPO_KIND, source, {role: source / role for role in (POLICY, VALUE)})
    return _ours(POLICY_KIND, source, {POLICY: find_policy_adapter(source)})


def _ours(kind: str, source: Path, adapters: Mapping[str, Path]) -> AdapterFiles:
    head = source / HEADS[kind] if kind in HEADS else None
    return AdapterFiles(kind, adapters, head, _left_out(source, *adapters.values(), head))


def _original_ppo(source: Path, policies: list[Path], values: list[Path]) -> AdapterFiles:
    folder = (policies + values)[0]
    head = _find_head(source, folder, ORIGINAL_VALUE_HEAD)
    if policies == [source]:
        raise ValueError(
            f"{source} holds one adapter and {ORIGINAL_VALUE_HEAD} side by side; in a PPO checkpoint there are "
            f"{ORIGINAL_PARENT}/lora_policy and {ORIGINAL_PARENT}/lora_value beside that head. To convert the adapter as a "
            f"policy, copy {ADAPTER_CONFIG} and its weights into a folder of their own and name that"
        )
    parts = {"lora_policy": policies, "lora_value": values, ORIGINAL_VALUE_HEAD: head}
    missing = [name for name, part in parts.items() if not part]
    if missing:
        raise ValueError(
            f"{source} is not a whole PPO checkpoint: it lacks {', '.join(missing)}. Name the folder that holds "
            f"{ORIGINAL_PARENT} and {ORIGINAL_VALUE_HEAD}; to convert its policy alone, name the folder of that adapter."
        )
    adapters = {POLICY: policies[0], VALUE: values[0]}
    return AdapterFiles(PPO_KIND, adapters, head, _left_out(source, *adapters.values(), head))


def _is_adapter(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (ADAPTER_CONFIG, ORIGINAL_ADAPTER_WEIGHTS))


def _find_head(source: Path, folder: Path, name: str) -> Path | None:
    """A head lies in `source`, or between it and the adapter's folder. Raises ValueError for two of them."""
    places = [place for place in (folder, *folder.parents) if place == source or source in place.parents]
    heads = [place / name for place in places if (place / name).is_file()]
    if len(heads) > 1:
        raise ValueError(
            f"two heads for one adapter, {' and '.join(map(str, heads))}; move one away"
            + (", or name it with --reward_head" if name == ORIGINAL_REWARD_HEAD else "")
        )
    return heads[0] if heads else None


def _left_out(source: Path, *used: Path | None) -> tuple[str, ...]:
    """Names in `source` that hold nothing of what is converted."""
    paths = [path for path in used if path is not None]
    if source in paths:  # a flat folder: its adapter's files lie among the others
        paths += [source / name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, ORIGINAL_ADAPTER_WEIGHTS)]
    kept = {entry for path in paths for entry in (path, *path.parents)}
    return tuple(sorted(entry.name for entry in source.iterdir() if entry not in kept))

"""Adapters of the original LLaVA-RLHF code → ours, and back: policies, reward models and PPO checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llava_rlhf.conversion.adapter_layouts import (
    HEADS,
    ORIGINAL_HEADS,
    ORIGINAL_NAMES,
    PPO_KIND,
    AdapterFiles,
)
from llava_rlhf.conversion.adapter_settings import read_base_sizes, recorded_base
from llava_rlhf.conversion.adapter_weights import (
    check_numbers,
    check_tensors,
    convert_to_original,
    convert_to_ours,
    read_weights,
    save_pickle,
    weights_file,
)
from llava_rlhf.conversion.critic_units import CriticUnits, critic_units
from llava_rlhf.conversion.original_files import open_weights
from llava_rlhf.runs.checkpoints import new_folder
from llava_rlhf.runs.reward_card import RewardModelCard
from llava_rlhf.runs.role_files import REWARD, VALUE
from models.adapter_files import ORIGINAL_LAYERS, save_safetensors
from models.adapter_names import HF_LAYERS
from models.adapter_shapes import LayerSizes


@dataclass(frozen=True)
class AdapterConversion:
    """A checked conversion; nothing of it is in memory.

    Attributes:
        files: where everything is read from.
        names: role → name of its adapter's folder in the result.
        bases: role → base that the result records; None records none.
        head: name of the head's file in the result, if there is a head.
        to_original: the direction.
        card: written beside a reward model in our layout.
        units: of a value head that is written for the original.
    """

    files: AdapterFiles
    names: Mapping[str, str]
    bases: Mapping[str, str | None]
    head: str | None
    to_original: bool
    card: RewardModelCard | None = None
    units: CriticUnits | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all files that are read, which those that are written come near to."""
        files = [weights_file(folder) for folder in self.files.adapters.values()]
        return sum(file.stat().st_size for file in [*files, *filter(None, [self.files.head])])

    def write(self, output: Path) -> None:
        """Write the folder `output`, which must not exist, whole or not at all."""
        convert: Callable[[Path, Path, str | None], None]
        convert = convert_to_original if self.to_original else convert_to_ours
        save = save_pickle if self.to_original else save_safetensors
        with new_folder(output) as staged:
            for role, folder in self.files.adapters.items():
                convert(folder, staged / self.names[role], self.bases[role])
            if self.head is not None:
                head = read_weights(self.files.head)
                save(head if self.units is None else self.units.folded(head), staged / self.head)
            if self.card is not None:
                self.card.save(staged)


def plan_to_ours(
    files: AdapterFiles, bases: Mapping[str, str], card: RewardModelCard | None = None
) -> AdapterConversion:
    """Check adapters of the original against the bases that they are to run on.

    Args:
        files: what `find_original` found.
        bases: role → base directory in Hugging Face format, recorded in place of the private path of the author.
        card: what a reward model was trained with.

    Raises:
        ValueError: an adapter or head is incomplete, or does not fit its base.
    """
    sizes = {role: read_base_sizes(bases[role]) for role in files.adapters}
    _check(files, ORIGINAL_LAYERS, sizes)
    names = {role: role for role in files.adapters}
    return AdapterConversion(files, names, dict(bases), HEADS.get(files.kind), False, card)


def plan_to_original(files: AdapterFiles, bases: Mapping[str, str | None]) -> AdapterConversion:
    """Check adapters of ours, to be written for the original code.

    Args:
        files: what `find_ours` found.
        bases: role → base directory in either format, to be recorded; None keeps the recorded one, and then widths are
            not checked.

    Raises:
        ValueError: an adapter or head is incomplete, or does not fit its base; the units of a value head are not known.
    """
    sizes = {
        role: read_base_sizes(base, allow_original=True) if base is not None else None
        for role, base in bases.items()
    }
    _check(files, HF_LAYERS, sizes)
    kept = {role: bases[role] or recorded_base(folder) for role, folder in files.adapters.items()}
    units = critic_units(files.head.parent) if files.kind == PPO_KIND else None
    return AdapterConversion(
        files, ORIGINAL_NAMES[files.kind], kept, ORIGINAL_HEADS.get(files.kind), True, units=units
    )


def _check(files: AdapterFiles, layers_at: str, sizes: Mapping[str, LayerSizes | None]) -> None:
    for role, folder in files.adapters.items():
        check_tensors(folder, layers_at, sizes[role])
    if files.head is not None:
        _check_head(files.head, sizes[VALUE if files.kind == PPO_KIND else REWARD])


def _check_head(path: Path, sizes: LayerSizes | None) -> None:
    """A head is `weight` [1, D] and `bias` [1], finite."""
    weights = open_weights(path)
    shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
    width = sizes.hidden_size if sizes else (shapes.get("weight") or [0])[-1]
    expected = {"weight": [1, width], "bias": [1]}
    if shapes != expected:
        raise ValueError(
            f"{path} is not a head for {sizes or 'a base'}: it holds {shapes}, should hold {expected}"
        )
    check_numbers(path, weights)

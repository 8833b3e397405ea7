"""Which stored tensor becomes which weight of the converted model. Works on names and shapes: no weights are read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration

from llava_rlhf.conversion.original_files import StoredTensor, read_headers
from llava_rlhf.conversion.published_names import published_name

# The same weights in an original checkpoint. Projector names depend on its kind; towers are files of their own.
PROJECTOR_LAYERS = {
    "linear": {"linear_1": "model.mm_projector."},
    "mlp2x_gelu": {"linear_1": "model.mm_projector.0.", "linear_2": "model.mm_projector.2."},
}
TOWER = "model.vision_tower.vision_tower.vision_model."
# Follow from the configuration, so newer files leave them out.
DERIVED = re.compile(r".*\.rotary_emb\.inv_freq|.*\.embeddings\.position_ids")
# The other half of a whole CLIP model: LLaVA has no use for it.
CLIP_REST = re.compile(r"text_model\..*|logit_scale|(visual|text)_projection\.weight")
ROWS_AT_A_TIME = 4096
SHOWN_NAMES = 20


@dataclass(frozen=True)
class TargetWeight:
    """A weight of the converted model.

    Attributes:
        name: in the files of the converted model.
        dtype, shape: of what is written.
        stored: the original tensor. None: there is none, the weight is the identity (two axes) or zero (one axis).
            With fewer rows than `shape`, the rest are copies of the mean of its rows.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    stored: StoredTensor | None

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def pieces(self, tensor: Tensor | None) -> Iterator[Tensor]:
        """The weight's values as contiguous tensors to be joined along the first axis; `tensor` holds what is stored."""
        if tensor is None:
            rows = self.shape[0]
            yield (torch.eye if len(self.shape) == 2 else torch.zeros)(rows, dtype=self.dtype)
            return
        yield tensor.contiguous()
        if self.shape[0] > tensor.shape[0]:
            # In blocks, since a float32 copy of a whole embedding would be twice its size.
            blocks = tensor.split(ROWS_AT_A_TIME)
            mean = sum(block.float().sum(dim=0) for block in blocks) / tensor.shape[0]
            yield mean.to(self.dtype).expand(self.shape[0] - tensor.shape[0], -1).contiguous()


def plan_weights(
    config: LlavaConfig, projector_type: str, vocab_size: int, source: Path, tower: Path
) -> list[TargetWeight]:
    """Every weight of the converted model, wider number formats first and then by the file that holds it.

    Args:
        config: of the converted model.
        projector_type: `linear` or `mlp2x_gelu`.
        vocab_size: rows of the original's embeddings.
        source: the original model; its own tower weights, if it has any, go before those of `tower`.
        tower: the CLIP directory.

    Raises:
        ValueError: a weight is missing, is not expected, or has another shape or number format than it must have.
    """
    stored = {name: item for name, item in read_headers(source).items() if not DERIVED.fullmatch(name)}
    if not any(name.startswith(TOWER) for name in stored):
        stored |= _tower_weights(tower)
    targets, used, missing, wrong = [], set(), [], []
    for name, shape in _shapes(config).items():
        origin = _original_name(name, projector_type)
        item = stored.get(origin) if origin else None
        if origin and item is None:
            missing.append(origin)
            continue
        kept = (vocab_size, *shape[1:]) if name in _VOCABULARY else shape
        if item and (item.shape != kept or item.dtype not in _FORMATS):
            wrong.append(f"{origin}: {item.dtype} {list(item.shape)}, expected {list(kept)}")
        used.add(origin)
        targets.append((name, shape, item))
    unexpected = sorted(stored.keys() - used)
    _refuse(source, tower, {"missing": missing, "not expected": unexpected, "not as configured": wrong})
    identity = stored[_original_name("model.multi_modal_projector.linear_1.weight", projector_type)].dtype
    weights = [
        TargetWeight(published_name(name), item.dtype if item else identity, shape, item)
        for name, shape, item in targets
    ]
    return sorted(weights, key=lambda w: (-w.dtype.itemsize, str(w.stored.file) if w.stored else ""))


_VOCABULARY = ("model.language_model.embed_tokens.weight", "lm_head.weight")
_FORMATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _shapes(config: LlavaConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the model that this configuration describes; nothing is allocated."""
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _original_name(name: str, projector_type: str) -> str | None:
    """Name of a weight of the Hugging Face model in the original, or None where the original has no such layer."""
    if name.startswith("model.multi_modal_projector."):
        layer, kind = name.split(".")[-2:]
        prefix = PROJECTOR_LAYERS[projector_type].get(layer)
        return None if prefix is None else prefix + kind
    if name.startswith("model.vision_tower."):
        return TOWER + name.removeprefix("model.vision_tower.")
    return name.replace("model.language_model.", "model.")


def _tower_weights(tower: Path) -> dict[str, StoredTensor]:
    """Vision weights of a CLIP directory, named as an original checkpoint names those that it holds itself."""
    return {
        TOWER + name.removeprefix("vision_model."): item
        for name, item in read_headers(tower).items()
        if not DERIVED.fullmatch(name) and not CLIP_REST.fullmatch(name)
    }


def _refuse(source: Path, tower: Path, problems: dict[str, list[str]]) -> None:
    found = []
    for what, names in problems.items():
        if names:
            more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
            found.append(f"{len(names)} {what}: {', '.join(names[:SHOWN_NAMES])}{more}")
    if found:
        raise ValueError(f"weights of {source} (vision tower: {tower}): {'; '.join(found)}")

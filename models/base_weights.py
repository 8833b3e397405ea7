"""The weight files of a base: which they are, and whether they hold every weight. Reads headers only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from models.families.registry import family_of
from models.json_objects import read_object
from models.safetensors_headers import FLOATING, StoredShape, read_header

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

INDEX = "model.safetensors.index.json"
_ATTENTION = ("q_proj", "k_proj", "v_proj")
_TEXT_LAYER = (
    *(f"self_attn.{name}" for name in (*_ATTENTION, "o_proj")),
    *(f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")),
    "input_layernorm",
    "post_attention_layernorm",
)
_SHOWN = 3


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a base. Raises ValueError when it has none."""
    whole, index = directory / "model.safetensors", directory / INDEX
    if whole.is_file():
        return [whole]
    if not index.is_file():
        raise ValueError(
            f"{directory} holds no model.safetensors (nor shards of it with their index), by which a base is known "
            f"again; {_what_to_do(directory)}"
        )
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return [directory / name for name in sorted(set(weight_map.values()))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is not an index of shards: it has no readable weight_map") from error


def check_weights(directory: Path, config: PreTrainedConfig) -> None:
    """Refuse weight files that are not whole, or lack a weight: it would be drawn at random, with a warning at most.

    Args:
        directory: the base.
        config: its configuration.

    Raises:
        ValueError: no safetensors, a file that is missing or cut off, an index that does not fit its files, a weight that is
            missing or no floating-point numbers, embeddings of another size than the configuration says.
    """
    stored: dict[str, StoredShape] = {}
    for file in weight_files(directory):
        stored |= read_header(file)
    _check_index(directory, stored)
    family = family_of(config)
    found = {family.present_name(name): entry for name, entry in stored.items()}
    missing = sorted(name for name in _needed(config) if name not in found)
    if missing:
        raise ValueError(
            f"the weights of {directory} lack {_listed(missing)}: it is no whole {family.title} base"
        )
    if getattr(config, "quantization_config", None):
        return
    others = sorted(
        f"{name} in {entry.dtype}"
        for name, entry in stored.items()
        if name.endswith("weight") and entry.dtype not in FLOATING
    )
    if others:
        raise ValueError(
            f"the weights of {directory} are stored in a format that is not read here ({_listed(others)}), and its "
            "config.json says nothing of it; name the unquantised model"
        )
    text = config.get_text_config()
    expected = (text.vocab_size, text.hidden_size)
    embeddings = found[f"{family.language_part}.embed_tokens.weight"].shape
    if embeddings != expected:
        raise ValueError(
            f"{directory}: the weights hold embeddings of {list(embeddings)}, config.json says "
            f"{list(expected)} (vocab_size, hidden_size); fetch both from the same place"
        )


def _what_to_do(directory: Path) -> str:
    if list(directory.glob("pytorch_model*.bin")):
        return "load and save it with Hugging Face's from_pretrained and save_pretrained"
    if shards := sorted(directory.glob("*.safetensors")):
        return f"it holds {shards[0].name}, but no {INDEX}; fetch that too"
    return "fetch its weights, or load and save it with Hugging Face's from_pretrained and save_pretrained"


def _check_index(directory: Path, stored: dict[str, StoredShape]) -> None:
    if (directory / "model.safetensors").is_file():
        return
    wrong = sorted(read_object(directory / INDEX)["weight_map"].keys() - stored.keys())
    if wrong:
        raise ValueError(
            f"{directory / INDEX} names {_listed(wrong)}, which its files don't hold; fetch it again"
        )


def _needed(config: PreTrainedConfig) -> Iterator[str]:
    """Present names of what every model of the family has."""
    family, text = family_of(config), config.get_text_config()
    yield from (f"{family.language_part}.{name}.weight" for name in ("embed_tokens", "norm"))
    yield from (
        f"{family.language_part}.layers.{layer}.{name}.weight"
        for layer in range(text.num_hidden_layers)
        for name in _TEXT_LAYER
    )
    if not (config.tie_word_embeddings or getattr(text, "tie_word_embeddings", False)):
        yield "lm_head.weight"
    yield from family.weight_names()


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

"""`config.json` of an original LLaVA model and of its CLIP tower → one `LlavaConfig`; what cannot be converted is refused.

Left out on purpose: image start and end tokens, projectors other than LLaVA's two, tiled images (`anyres`), towers other
than CLIP.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from data_utils.images import ASPECT_RATIOS
from llava_rlhf.conversion.config_values import (
    check_activation,
    check_counts,
    check_multiple,
    check_numbers,
    rope_parameters,
)
from llava_rlhf.conversion.original_files import check_whole
from models.json_objects import read_object

ORIGINAL_MODEL_TYPES = ("llava", "llava_llama")
# mm_projector_type → activation between two linear layers; the one linear layer gets an identity behind it.
PROJECTOR_ACTIVATIONS = {"linear": "linear", "mlp2x_gelu": "gelu"}
SELECT_STRATEGIES = {"patch": "default", "cls_patch": "full"}
SIZE_FIELDS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
TEXT_FIELDS = (
    *SIZE_FIELDS,
    *("num_key_value_heads", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps"),
    "attention_bias",
)
VISION_FIELDS = (
    *("hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers", "num_attention_heads"),
    *("num_channels", "image_size", "patch_size", "hidden_act", "layer_norm_eps", "attention_dropout"),
    *("initializer_range", "initializer_factor"),
)
# Rows of the embeddings are padded to a multiple of this, as other LLaVA models in Hugging Face format have them.
VOCABULARY_MULTIPLE = 64

T = TypeVar("T")


@dataclass(frozen=True)
class OriginalConfig:
    """Checked contents of an original model's `config.json`.

    Attributes:
        file: where it stands, for messages.
        fields: the file as it is.
        projector_type: `linear` or `mlp2x_gelu`.
        select_strategy: `default` (the class token is dropped) or `full`.
    """

    file: Path
    fields: dict[str, Any]
    projector_type: str
    select_strategy: str


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ValueError when the file is missing, a git-LFS pointer or no JSON object."""
    check_whole(path)
    return read_object(path)


def read_original_config(source: Path) -> OriginalConfig:
    """Read and check `config.json` of an original model. Raises ValueError for anything that cannot be converted."""
    file = source / "config.json"
    if not file.is_file():
        raise ValueError(f"{source} is not a model directory: it has no config.json")
    fields = read_json(file)
    if fields.get("model_type") not in ORIGINAL_MODEL_TYPES:
        raise ValueError(
            f"{file}: model_type {fields.get('model_type')!r} is not an original LLaVA model "
            f"({' or '.join(ORIGINAL_MODEL_TYPES)})"
        )
    if "vision_config" in fields or "text_config" in fields:
        raise ValueError(f"{file} is in Hugging Face format already: use the directory as it is")
    if not fields.get("mm_vision_tower"):
        raise ValueError(f"{file} names no mm_vision_tower: it is a language model without image input")
    if not isinstance(fields["mm_vision_tower"], str):
        raise ValueError(f"{file}: mm_vision_tower is {fields['mm_vision_tower']!r}, must be a name")
    if fields.get("mm_use_im_start_end"):
        raise ValueError(f"{file}: mm_use_im_start_end is true; image start and end tokens are not supported")
    _require(file, fields, (*SIZE_FIELDS, "mm_vision_select_layer"))
    _check_language_model(file, fields)
    _one_of(file, "image_aspect_ratio", fields.get("image_aspect_ratio"), (None, *ASPECT_RATIOS))
    projector = fields.get("mm_projector_type") or "linear"
    _one_of(file, "mm_projector_type", projector, tuple(PROJECTOR_ACTIVATIONS))
    feature = fields.get("mm_vision_select_feature") or "patch"
    _one_of(file, "mm_vision_select_feature", feature, tuple(SELECT_STRATEGIES))
    return OriginalConfig(file, fields, projector, SELECT_STRATEGIES[feature])


def find_tower(original: OriginalConfig, vision_tower: Path | None) -> Path:
    """The directory of the CLIP tower: the one given, else what `mm_vision_tower` names, here or beside the model.

    Raises ValueError when there is none.
    """
    name = original.fields["mm_vision_tower"]
    candidates = [vision_tower] if vision_tower else [Path(name), original.file.parent.parent / name]
    for folder in candidates:
        if (folder / "config.json").is_file():
            return folder
    tried = " or ".join(str(folder) for folder in candidates)
    raise ValueError(
        f"{original.file} needs the vision tower {name} (mm_vision_tower), and there is no config.json in {tried}; "
        "download that CLIP model and pass its directory: --vision_tower DIR"
    )


def read_vision_config(tower: Path, original: OriginalConfig) -> CLIPVisionConfig:
    """The configuration of a CLIP vision model, or of the vision half of a whole CLIP model.

    Raises ValueError for another kind of model, and when the tower does not fit `original`.
    """
    file = tower / "config.json"
    fields = read_json(file)
    if fields.get("model_type") == "clip":
        halves = [fields.get(name) or {} for name in ("vision_config", "vision_config_dict")]
        if not all(isinstance(half, dict) for half in halves):
            raise ValueError(f"{file}: vision_config must be a JSON object")
        fields = {**halves[0], **halves[1]}
    elif fields.get("model_type") != "clip_vision_model":
        raise ValueError(
            f"{file}: model_type {fields.get('model_type')!r} is no CLIP model (clip, clip_vision_model)"
        )
    config = _clip_config(file, {name: fields[name] for name in VISION_FIELDS if name in fields})
    wanted = original.fields.get("mm_hidden_size", config.hidden_size)
    if config.hidden_size != wanted:
        raise ValueError(
            f"{file}: hidden_size {config.hidden_size}, but {original.file} was trained with mm_hidden_size {wanted} "
            f"({original.fields['mm_vision_tower']}); pass that tower: --vision_tower DIR"
        )
    named = named_image_size(original.fields["mm_vision_tower"])
    if named not in (None, config.image_size):
        raise ValueError(
            f"{file}: image_size {config.image_size}, but {original.file} was trained with the tower "
            f"{original.fields['mm_vision_tower']} (mm_vision_tower), of {named} pixels; pass that tower: --vision_tower DIR"
        )
    layer, states = original.fields["mm_vision_select_layer"], config.num_hidden_layers + 1
    if not (isinstance(layer, int) and -states <= layer < states):
        raise ValueError(
            f"{original.file}: mm_vision_select_layer {layer!r}; {tower} has {states} hidden states"
        )
    return config


def named_image_size(tower: str) -> int | None:
    """Pixels that the name of a CLIP tower tells, as in `clip-vit-large-patch14-336`; None: it tells none.

    OpenAI's names tell none where it is 224.
    """
    name = tower.rstrip("/")
    if told := re.search(r"patch\d+-(\d+)$", name):
        return int(told[1])
    return 224 if re.search(r"openai/clip-vit-(base|large)-patch\d+$", name) else None


def llava_config(
    original: OriginalConfig, vision: CLIPVisionConfig, special_ids: dict[str, int], image_token_id: int
) -> LlavaConfig:
    """The configuration of the converted model.

    Args:
        original: the checked original.
        vision: its tower.
        special_ids: `bos_token_id`, `eos_token_id` and `pad_token_id` of the tokenizer.
        image_token_id: id of the image placeholder, which the vocabulary is extended to hold.
    """
    fields = original.fields
    rows = max(fields["vocab_size"], image_token_id + 1)
    text = {name: fields[name] for name in TEXT_FIELDS if fields.get(name) is not None}
    text["vocab_size"] = -(-rows // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    rope = rope_parameters(original.file, fields)
    config = LlavaConfig(
        text_config=_built(original.file, LlamaConfig, **text, **special_ids, rope_parameters=rope),
        vision_config=vision,
        image_token_index=image_token_id,
        image_seq_length=_positions(vision, original.select_strategy),
        projector_hidden_act=PROJECTOR_ACTIVATIONS[original.projector_type],
        vision_feature_select_strategy=original.select_strategy,
        vision_feature_layer=fields["mm_vision_select_layer"],
    )
    config.architectures = ["LlavaForConditionalGeneration"]
    if fields.get("image_aspect_ratio") is not None:
        config.image_aspect_ratio = fields["image_aspect_ratio"]
    return config


def _positions(vision: CLIPVisionConfig, select_strategy: str) -> int:
    patches = (vision.image_size // vision.patch_size) ** 2
    return patches + 1 if select_strategy == "full" else patches


def _check_language_model(file: Path, fields: dict[str, Any]) -> None:
    check_counts(file, fields, (*SIZE_FIELDS, "num_key_value_heads", "max_position_embeddings"))
    check_multiple(file, fields, "hidden_size", "num_attention_heads")
    check_multiple(file, fields, "num_attention_heads", "num_key_value_heads")
    check_numbers(file, fields, ("initializer_range", "rms_norm_eps"))
    check_activation(file, fields)
    rope_parameters(file, fields)


def _clip_config(file: Path, fields: dict[str, Any]) -> CLIPVisionConfig:
    counts = (
        "hidden_size",
        "intermediate_size",
        "projection_dim",
        "num_hidden_layers",
        "num_attention_heads",
    )
    check_counts(file, fields, (*counts, "num_channels", "image_size", "patch_size"))
    check_multiple(file, fields, "hidden_size", "num_attention_heads")
    check_numbers(file, fields, ("layer_norm_eps", "attention_dropout"))
    check_activation(file, fields)
    return _built(file, CLIPVisionConfig, **fields)


def _built(file: Path, config_class: type[T], **fields: Any) -> T:
    """A configuration; what its class complains of is said with the file's name."""
    try:
        return config_class(**fields)
    except Exception as error:  # of many types, most of them no ValueError
        raise ValueError(f"{file}: {error}") from error


def _require(file: Path, fields: dict[str, Any], names: tuple[str, ...]) -> None:
    missing = [name for name in names if fields.get(name) is None]
    if missing:
        raise ValueError(f"{file} lacks {', '.join(missing)}")


def _one_of(file: Path, name: str, value: Any, known: tuple[Any, ...]) -> None:
    if value not in known:
        raise ValueError(f"{file}: {name} {value!r} is not supported; known: {', '.join(map(str, known))}")

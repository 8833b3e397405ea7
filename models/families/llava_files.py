"""What the files of a LLaVA must say, and the names that its weights have had; reads no weights."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.image_settings import read_image_settings

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

TOWER = "clip_vision_model"
# Their linear layers have the names that LoRA goes on, and positions and features mean the same in all of them.
LANGUAGE_MODELS = ("llama", "mistral", "qwen2")
ORIGINAL_KINDS = (None, "llava", "llava_llama")  # what scripts/convert_checkpoint.sh reads
SELECT_STRATEGIES = ("default", "full")
_CLIP_SIDE = 224  # what CLIP's processor takes where its file says nothing
# Both make pixels alike; the padding of the second is done before it, see `data_utils.images`.
_PROCESSORS = ("CLIP", "Llava")
_VISION_LAYER = (
    *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")),
    *("mlp.fc1", "mlp.fc2", "layer_norm1", "layer_norm2"),
)
# Name in the Hugging Face model → name in published files.
PUBLISHED_PREFIXES = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.vision_tower.": "vision_tower.vision_model.",
}


def refuse_original(folder: Path, fields: dict[str, Any]) -> None:
    """Refuse the format of the LLaVA code itself: `mm_vision_tower` names a tower that is a folder of its own.

    Raises ValueError.
    """
    kind = fields.get("model_type")
    by_type = isinstance(kind, str) and kind.startswith("llava_") and fields.get("architectures") is not None
    named = any("LlavaLlama" in str(name) for name in fields.get("architectures") or ())
    if "vision_config" in fields or not (fields.get("mm_vision_tower") is not None or (by_type and named)):
        return
    file = folder / "config.json"
    if kind not in ORIGINAL_KINDS:
        raise ValueError(
            f"{file} is an original LLaVA checkpoint of a kind that can't be converted: model_type {kind!r} (only "
            f"{', '.join(filter(None, ORIGINAL_KINDS))})"
        )
    what = "it names mm_vision_tower" if fields.get("mm_vision_tower") else f"model_type {kind!r}"
    if (folder / "adapter_config.json").is_file() or (folder / "non_lora_trainables.bin").is_file():
        raise ValueError(
            f"{folder} is a LoRA of an original LLaVA ({what}; its weights are an adapter's), not a whole model: merge it "
            "into its base with the code that trained it, then convert the result with scripts/convert_checkpoint.sh"
        )
    raise ValueError(
        f"{file} is an original LLaVA checkpoint ({what}); convert it to the Hugging Face format first: "
        f"bash scripts/convert_checkpoint.sh --input {shlex.quote(str(folder))} --vision_tower DIR --output DIR"
    )


def check_parts(file: Path, fields: dict[str, Any]) -> None:
    """Refuse another tower, language model or choice of features, by the fields of `config.json`. Raises ValueError."""
    vision, text = fields["vision_config"], fields.get("text_config", {})
    tower, language = vision.get("model_type", TOWER), text.get("model_type", LANGUAGE_MODELS[0])
    if tower != TOWER:
        raise ValueError(f"{file}: the vision tower {tower!r} is not supported (CLIP only: {TOWER!r})")
    if language not in LANGUAGE_MODELS:
        raise ValueError(
            f"{file}: the language model {language!r} is not supported (only {', '.join(LANGUAGE_MODELS)})"
        )
    strategy = fields.get("vision_feature_select_strategy", SELECT_STRATEGIES[0])
    if strategy not in SELECT_STRATEGIES:
        raise ValueError(
            f"{file}: vision_feature_select_strategy {strategy!r} is not one of {', '.join(SELECT_STRATEGIES)}"
        )


def check_sizes(file: Path, config: PreTrainedConfig) -> None:
    """Refuse a patch larger than the image, and features of a layer that the tower lacks. Raises ValueError."""
    vision, layers = config.vision_config, config.vision_feature_layer
    if vision.patch_size > vision.image_size:
        raise ValueError(
            f"{file}: a patch of {vision.patch_size} pixels is larger than the image of {vision.image_size}"
        )
    states = vision.num_hidden_layers + 1
    for layer in layers if isinstance(layers, (list, tuple)) else [layers]:
        if not isinstance(layer, int) or not -states <= layer < states:
            raise ValueError(
                f"{file}: vision_feature_layer {layer!r}; the vision tower has {states} hidden states"
            )


def check_image_processor(folder: Path, side: int) -> None:
    """Images must be made by CLIP's processor, in the size that the tower takes. Raises ValueError."""
    file, settings = read_image_settings(folder)
    name = settings.get("image_processor_type") or settings.get("feature_extractor_type") or _PROCESSORS[0]
    known = [f"{start}{end}" for start in _PROCESSORS for end in ("ImageProcessor", "FeatureExtractor", "")]
    if str(name).removesuffix("Fast").removesuffix("Pil") not in known:
        raise ValueError(
            f"{file}: the image processor {name!r} is not supported; a CLIP tower is trained with CLIPImageProcessor"
        )
    check_crop(folder, side)


def check_crop(folder: Path, side: int) -> None:
    """Images must come out in the size that the tower takes. Raises ValueError."""
    file, settings = read_image_settings(folder)
    made = _made_size(settings)
    if made != (side, side):
        shown = " x ".join(map(str, made))
        raise ValueError(
            f"{file} makes images of {shown} pixels, the vision tower takes {side} x {side} (image_size in "
            f"{folder / 'config.json'}); fetch both from the same place"
        )


def _made_size(settings: Mapping[str, Any]) -> tuple[Any, Any]:
    """Height and width of what comes out; whatever stands there where that is no size."""
    crops = settings.get("do_center_crop")
    key = "size" if crops is False else "crop_size"
    size = settings.get(key, _CLIP_SIDE)
    if not isinstance(size, dict):
        return size, size
    short = size.get("shortest_edge") if key == "crop_size" else None
    return size.get("height", short), size.get("width", short)


def present_name(stored: str) -> str:
    """The name that a weight has today.

    Files of different age say `language_model.model.x` or `model.language_model.x`, `vision_tower.vision_model.x`, and
    `language_model.lm_head.x`.
    """
    name = stored.removeprefix("model.")
    name = re.sub(r"^(language_model|vision_tower)\.(model|vision_model)\.", r"\1.", name)
    return name.removeprefix("language_model.") if name.startswith("language_model.lm_head.") else name


def tower_weights(config: PreTrainedConfig) -> Iterator[str]:
    """Present names of what every LLaVA has besides its language model, down to the layer that features are taken from."""
    yield from (f"multi_modal_projector.linear_{number}.weight" for number in (1, 2))
    yield from (f"vision_tower.embeddings.{name}" for name in ("class_embedding", "patch_embedding.weight"))
    yield from (
        f"vision_tower.encoder.layers.{layer}.{name}.weight"
        for layer in range(_vision_depth(config))
        for name in _VISION_LAYER
    )


def _vision_depth(config: PreTrainedConfig) -> int:
    states = config.vision_config.num_hidden_layers + 1
    layers = config.vision_feature_layer
    return max(layer % states for layer in (layers if isinstance(layers, (list, tuple)) else [layers]))


def published_name(name: str) -> str:
    """The published name of a weight that a model, or a file of any age, calls `name`."""
    if name.startswith("language_model.lm_head."):
        return name
    present = present_name(name)
    for in_model, published in PUBLISHED_PREFIXES.items():
        prefix = in_model.removeprefix("model.")
        if present.startswith(prefix):
            return published + present.removeprefix(prefix)
    return name

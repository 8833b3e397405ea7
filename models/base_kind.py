"""What a base is, told by its `config.json` alone: kind of model, vision tower, language model, stored number format.

Every program decides this first (`models.base_check.check_base`), so that an error names its own cause.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from models.base_place import check_place
from models.json_objects import read_object

TOWER = "clip_vision_model"
# Their linear layers have the names that LoRA goes on, and positions and features mean the same in all of them.
LANGUAGE_MODELS = ("llama", "mistral", "qwen2")
ORIGINAL_KINDS = (None, "llava", "llava_llama")  # what scripts/convert_checkpoint.sh reads
STORED_FORMAT = "bitsandbytes"
SELECT_STRATEGIES = ("default", "full")
_NO_LANGUAGE = ("clip", "siglip", "siglip2", "chinese_clip", "dinov2", "vit")
# Files beside `config.json` that say of a model without `quantization_config` how it is stored.
_FORMAT_FILES = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "quantization_config.json": "quantised",
}


def check_kind(path: str | Path) -> dict[str, Any]:
    """Refuse whatever is no LLaVA that can be loaded; reads no file but `config.json`, whose fields it returns.

    Raises:
        ValueError: in this order: no model directory, an unreadable file, another kind of model, tower or language model,
            weights stored in a format that is not read.
    """
    check_place(path)
    file = Path(path) / "config.json"
    fields = read_object(file)
    _refuse_original(Path(path), fields)
    _refuse_other_models(file, fields)
    _refuse_other_parts(file, fields)
    _refuse_other_formats(file, fields)
    if (Path(path) / "adapter_config.json").is_file():
        raise ValueError(
            f"{path} holds a model and an adapter (adapter_config.json), and transformers would load the adapter's base "
            "instead of the model; move the adapter to a folder of its own"
        )
    return fields


def _refuse_original(folder: Path, fields: dict[str, Any]) -> None:
    """The format of the LLaVA code itself: `mm_vision_tower` names a tower that is a folder of its own."""
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


def _refuse_other_models(file: Path, fields: dict[str, Any]) -> None:
    kind = fields.get("model_type")
    if kind == "llava" and "vision_config" in fields:
        return
    if kind == "llava":
        why = "it names no vision tower (neither vision_config nor mm_vision_tower)"
    elif kind is None:
        why = "it names no model_type"
    elif str(kind).removesuffix("_vision_model") in _NO_LANGUAGE:
        why = "that is a vision model alone, without a language model; name a LLaVA"
    elif "vision_config" in fields or "vl" in str(kind) or "llava" in str(kind):
        why = "only models of type llava are supported; name a LLaVA"
    else:
        why = "that is a language model, which has no vision tower; name a LLaVA"
    raise ValueError(
        f"{file}: model_type {kind!r} is not a LLaVA model in Hugging Face format (LlavaForConditionalGeneration): {why}"
    )


def _refuse_other_parts(file: Path, fields: dict[str, Any]) -> None:
    vision, text = fields["vision_config"], fields.get("text_config", {})
    for name, part in (("vision_config", vision), ("text_config", text)):
        if not isinstance(part, dict):
            raise ValueError(
                f"{file} can't be read ({name} is {part!r}, not an object); fetch the base again"
            )
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


def _refuse_other_formats(file: Path, fields: dict[str, Any]) -> None:
    places = (fields, fields.get("text_config", {}))
    names = ("quantization_config", "compression_config")
    found = [(place[name], name) for place in places for name in names if place.get(name)]
    for settings, name in found:
        settings = settings if isinstance(settings, dict) else {}
        bits = settings.get("load_in_4bit") or settings.get("load_in_8bit")
        method = settings.get("quant_method") or (STORED_FORMAT if bits else "an unnamed format")
        if method != STORED_FORMAT:
            raise ValueError(f"{file}: {_stored(method, name)}")
    for beside, method in _FORMAT_FILES.items():
        if not found and (file.parent / beside).is_file():
            raise ValueError(f"{file.parent}: {_stored(method, beside)}")


def _stored(method: str, place: str) -> str:
    return (
        f"the weights are stored as {method} ({place}), which is not read here (in 4 or 8 bits only {STORED_FORMAT}); name "
        "the unquantised model that they were made from"
    )

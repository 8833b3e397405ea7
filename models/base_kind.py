"""What a base is, told by its `config.json` alone: kind of model, vision tower, language model, stored number format.

Every program decides this first (`models.base_check.check_base`), so that an error names its own cause.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.base_place import check_place
from models.families.registry import FAMILIES, REFUSED
from models.json_objects import read_object

STORED_FORMAT = "bitsandbytes"
_NO_LANGUAGE = ("clip", "siglip", "siglip2", "chinese_clip", "dinov2", "vit")
# Files beside `config.json` that say of a model without `quantization_config` how it is stored.
_FORMAT_FILES = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "quantization_config.json": "quantised",
}


def check_kind(path: str | Path) -> dict[str, Any]:
    """Refuse whatever is no model that can be loaded; reads no file but `config.json`, whose fields it returns.

    Raises:
        ValueError: in this order: no model directory, an unreadable file, another kind of model, tower or language model,
            weights stored in a format that is not read.
    """
    check_place(path)
    file = Path(path) / "config.json"
    fields = read_object(file)
    for family in FAMILIES.values():
        family.check_age(Path(path), fields)
    _refuse_other_models(file, fields)
    _check_parts(file, fields)
    _refuse_other_formats(file, fields)
    if (Path(path) / "adapter_config.json").is_file():
        raise ValueError(
            f"{path} holds a model and an adapter (adapter_config.json), and transformers would load the adapter's base "
            "instead of the model; move the adapter to a folder of its own"
        )
    return fields


def _refuse_other_models(file: Path, fields: dict[str, Any]) -> None:
    kind = fields.get("model_type")
    if kind in FAMILIES and "vision_config" in fields:
        return
    known = FAMILIES.values()
    titles = " or ".join(family.title for family in known)
    if kind in FAMILIES:
        why = FAMILIES[kind].no_tower
    elif kind in REFUSED:
        why = f"{REFUSED[kind]}; name a {titles}"
    elif kind is None:
        why = "it names no model_type"
    elif str(kind).removesuffix("_vision_model") in _NO_LANGUAGE:
        why = f"that is a vision model alone, without a language model; name a {titles}"
    elif "vision_config" in fields or "vl" in str(kind) or "llava" in str(kind):
        why = f"only models of type {', '.join(family.model_type for family in known)} are supported; name a {titles}"
    else:
        why = f"that is a language model, which has no vision tower; name a {titles}"
    architectures = ", ".join(family.architecture for family in known)
    raise ValueError(
        f"{file}: model_type {kind!r} is not a {titles} model in Hugging Face format ({architectures}): {why}"
    )


def _check_parts(file: Path, fields: dict[str, Any]) -> None:
    for name in ("vision_config", "text_config"):
        part = fields.get(name, {})
        if not isinstance(part, dict):
            raise ValueError(
                f"{file} can't be read ({name} is {part!r}, not an object); fetch the base again"
            )
    FAMILIES[fields["model_type"]].check_fields(file, fields)


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

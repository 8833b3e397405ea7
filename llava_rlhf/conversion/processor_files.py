"""Tokenizer and image processor of an original model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from tokenizers import AddedToken
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, PreTrainedTokenizerFast

from data_utils.llama_tokenizer import load_sentencepiece_tokenizer
from data_utils.schema import IMAGE_MARKER
from llava_rlhf.conversion.original_config import read_json
from llava_rlhf.conversion.original_files import check_whole
from llava_rlhf.conversion.plain_files import plain_tokenizer


def build_tokenizer(source: Path) -> PreTrainedTokenizerFast:
    """The original's tokenizer with an image token as the next id, a begin-of-text in front and `unk` as padding.

    Reads `tokenizer.model` (what the original used), else `tokenizer.json`, and the tokens of `added_tokens.json`.

    Raises:
        ValueError: neither file is there, one is broken, the added tokens leave a gap, or there is no bos, eos or unk.
    """
    if (source / "tokenizer.model").is_file():
        check_whole(source / "tokenizer.model")
        try:
            tokenizer = load_sentencepiece_tokenizer(source / "tokenizer.model")
        except RuntimeError as error:
            raise ValueError(
                f"{source / 'tokenizer.model'} is no sentencepiece model; copy it again"
            ) from error
    elif (source / "tokenizer.json").is_file():
        check_whole(source / "tokenizer.json")
        tokenizer = PreTrainedTokenizerFast.from_pretrained(source)
    else:
        raise ValueError(f"{source} has no tokenizer.model and no tokenizer.json")
    _add_tokens(tokenizer, source / "added_tokens.json")
    missing = [name for name in ("bos_token", "eos_token", "unk_token") if getattr(tokenizer, name) is None]
    if missing:
        raise ValueError(f"the tokenizer of {source} has no {', '.join(missing)}")
    tokenizer.add_tokens([AddedToken(IMAGE_MARKER, special=True, normalized=False)], special_tokens=True)
    return plain_tokenizer(tokenizer)


def build_image_processor(tower: Path, vision: CLIPVisionConfig) -> CLIPImageProcessorPil:
    """How a tower's pixels are made.

    Raises ValueError when its `preprocessor_config.json` is missing or makes images of another size.
    """
    file = tower / "preprocessor_config.json"
    _check_image_settings(file, read_json(file))
    try:
        images = CLIPImageProcessorPil.from_pretrained(tower)
        size = images.crop_size if images.do_center_crop else images.size
        size = dict(size)
        images(images=Image.new("RGB", (8, 8)))  # settings of a wrong type are noticed in use only
    except Exception as error:  # of many types
        raise ValueError(f"{file} can't be used as image processor settings: {error!r}") from error
    if (size.get("height"), size.get("width")) != (vision.image_size, vision.image_size):
        raise ValueError(
            f"{file} makes images of {size}, the tower takes {vision.image_size} x {vision.image_size} pixels"
        )
    return images


def _check_image_settings(file: Path, fields: dict[str, Any]) -> None:
    resample = fields.get("resample", 3)
    if type(resample) is not int or resample not in range(6):
        raise ValueError(f"{file}: resample is {resample!r}, must be an integer from 0 to 5")
    for name in ("image_mean", "image_std"):
        value = fields.get(name, [1.0] * 3)
        numbers = isinstance(value, list) and all(type(item) in (int, float) for item in value)
        if not (numbers and len(value) == 3 and (name == "image_mean" or min(value) > 0)):
            above = " above 0" if name == "image_std" else ""
            raise ValueError(f"{file}: {name} is {value!r}, must be three numbers{above}")


def _add_tokens(tokenizer: PreTrainedTokenizerFast, file: Path) -> None:
    added = read_json(file) if file.is_file() else {}
    unfit = {token: index for token, index in added.items() if type(index) is not int}
    if unfit:
        raise ValueError(f"{file}: ids must be integers, not so {unfit}")
    for token, index in sorted(added.items(), key=lambda item: item[1]):
        tokenizer.add_tokens([AddedToken(token, special=True, normalized=False)], special_tokens=True)
        if tokenizer.convert_tokens_to_ids(token) != index:
            raise ValueError(
                f"{file}: {token!r} has id {index}, the tokenizer gives it "
                f"{tokenizer.convert_tokens_to_ids(token)}; ids must follow the vocabulary without a gap"
            )

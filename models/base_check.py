"""Is a folder a base that can be worked with: the one check that every program makes first.

In this order, so that an error names its own cause and never a neighbour's: the folder and its `config.json`; the kind of
model, vision tower and stored number format (`base_kind`); sizes, vocabulary and image processor, which must agree; the
weights (`base_weights`). Reads configuration files and the headers of weight files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.base_files import read_base_config
from models.base_weights import check_weights
from models.json_objects import read_object

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

IMAGE_TOKEN = "<image>"
PROCESSOR_FILE, NESTED_PROCESSOR_FILE = "preprocessor_config.json", "processor_config.json"
_CLIP_SIDE = 224  # what CLIP's processor takes where its file says nothing
# Both make pixels alike; the padding of the second is done before it, see `data_utils.images`.
_PROCESSORS = ("CLIP", "Llava")
_COUNTS = {
    "vision_config": ("image_size", "patch_size", "hidden_size", "num_hidden_layers"),
    "text_config": (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
        *("num_attention_heads", "num_key_value_heads"),
    ),
}


def check_base(path: str | Path, weights: bool = True) -> None:
    """Refuse a directory that is no whole base, in the order above. Raises ValueError.

    Args:
        path: the directory.
        weights: False where nothing will be loaded; configuration, tokenizer and image processor suffice then.
    """
    folder = Path(path)
    config = read_base_config(folder)
    _check_sizes(folder / "config.json", config)
    _check_image_processor(folder, config.vision_config.image_size)
    _check_vocabulary(folder, config)
    if weights:
        check_weights(folder, config)


def _check_sizes(file: Path, config: PreTrainedConfig) -> None:
    for part, names in _COUNTS.items():
        for name in names:
            value = getattr(getattr(config, part), name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{file}: {name} of {part} is {value!r}, must be a positive integer")
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


def _check_image_processor(folder: Path, side: int) -> None:
    """Images must be made by CLIP's processor, in the size that the tower takes."""
    file, settings = _image_settings(folder)
    name = settings.get("image_processor_type") or settings.get("feature_extractor_type") or _PROCESSORS[0]
    known = [f"{start}{end}" for start in _PROCESSORS for end in ("ImageProcessor", "FeatureExtractor", "")]
    if str(name).removesuffix("Fast").removesuffix("Pil") not in known:
        raise ValueError(
            f"{file}: the image processor {name!r} is not supported; a CLIP tower is trained with CLIPImageProcessor"
        )
    made = _made_size(settings)
    if made != (side, side):
        shown = " x ".join(map(str, made))
        raise ValueError(
            f"{file} makes images of {shown} pixels, the vision tower takes {side} x {side} (image_size in "
            f"{folder / 'config.json'}); fetch both from the same place"
        )


def _image_settings(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file that transformers reads, and what it says of images."""
    nested, own = folder / NESTED_PROCESSOR_FILE, folder / PROCESSOR_FILE
    if nested.is_file():
        settings = read_object(nested).get("image_processor")
        if isinstance(settings, dict):
            return nested, settings
    if own.is_file():
        return own, read_object(own)
    raise ValueError(
        f"{folder} has no {PROCESSOR_FILE} (nor an image_processor in {NESTED_PROCESSOR_FILE}): how its images become "
        "pixels is not known; fetch it"
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


def _check_vocabulary(folder: Path, config: PreTrainedConfig) -> None:
    """Every id of the tokenizer has its embedding, and the image token is the one of the configuration."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ValueError(
            f"{folder} has no tokenizer.json: a fast tokenizer with the model's exact ids is needed"
        )
    ids = _token_ids(folder)
    rows, image = config.get_text_config().vocab_size, config.image_token_id
    if not isinstance(image, int) or not 0 <= image < rows:
        raise ValueError(
            f"{folder / 'config.json'}: image_token_index {image!r} is none of the {rows} rows of the embeddings (vocab_size)"
        )
    if ids.get(IMAGE_TOKEN, image) != image:
        raise ValueError(
            f"{file}: {IMAGE_TOKEN} is token {ids[IMAGE_TOKEN]}, image_token_index in {folder / 'config.json'} is {image}; "
            "fetch both from the same place"
        )
    token, last = max(ids.items(), key=lambda item: item[1], default=("", -1))
    if last >= rows:
        raise ValueError(
            f"{file} has tokens up to {last} ({token!r}), the embeddings have {rows} rows (vocab_size in "
            f"{folder / 'config.json'}); fetch both from the same place"
        )


def _token_ids(folder: Path) -> dict[str, int]:
    """Token → id, of the vocabulary and of what was added to it."""
    file = folder / "tokenizer.json"
    try:
        fields = read_object(file)
        vocabulary = fields["model"]["vocab"]
        if not isinstance(vocabulary, dict):  # unigram: pieces with their scores
            vocabulary = {piece: index for index, (piece, _) in enumerate(vocabulary)}
        ids = vocabulary | {token["content"]: token["id"] for token in fields.get("added_tokens") or ()}
        if not all(isinstance(index, int) for index in ids.values()):
            raise TypeError("an id is no integer")
        return ids
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).removeprefix(f"{file} ")
        raise ValueError(
            f"the tokenizer.json of {folder} can't be read ({reason}); fetch the base again"
        ) from error

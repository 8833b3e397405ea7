"""Is a folder a base that can be worked with: the one check that every program makes first.

In this order, so that an error names its own cause and never a neighbour's: the folder and its `config.json`; the kind of
model, vision tower and stored number format (`base_kind`); sizes, vocabulary and image processor, which must agree; the
weights (`base_weights`). Reads configuration files and the headers of weight files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from models.base_files import read_base_config
from models.base_weights import check_weights
from models.families.registry import family_of
from models.json_objects import read_object

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

IMAGE_TOKEN = "<image>"
_TEXT_COUNTS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads"),
)


def check_base(path: str | Path, weights: bool = True) -> None:
    """Refuse a directory that is no whole base, in the order above.

    Args:
        path: the directory.
        weights: False where nothing will be loaded; configuration, tokenizer and image processor suffice then.

    Raises:
        ValueError: as said.
    """
    folder = Path(path)
    config = read_base_config(folder)
    family = family_of(config)
    _check_sizes(folder / "config.json", config, family.vision_counts)
    family.check_folder(folder)
    _check_vocabulary(folder, config)
    if weights:
        check_weights(folder, config)


def _check_sizes(file: Path, config: PreTrainedConfig, vision: tuple[str, ...]) -> None:
    for part, names in {"vision_config": vision, "text_config": _TEXT_COUNTS}.items():
        for name in names:
            value = getattr(getattr(config, part), name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{file}: {name} of {part} is {value!r}, must be a positive integer")


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

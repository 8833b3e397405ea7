"""Pictures that a row has, but not where they are read: under another key, within messages, or as data instead of a name.

Such a row would be taken for one of text alone, and nobody would notice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from data_utils.row_fields import BadField

_PICTURES = frozenset(
    "image images img imgs picture pictures photo photos pic pics video videos audio audios".split()
)
# Words that may stand beside those; others make it something about the picture, such as image_size or image_caption.
_BESIDE = frozenset(
    "id ids path paths file files name names filename filenames url urls uri src local rel relative abs absolute full "
    "base64 b64 bytes data raw list link location input pil coco flickr main".split()
)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_FILE_NAME = re.compile(
    r"[^\s<>]{1,300}\.(?:jpe?g|png|webp|gif|bmp|tiff?|ppm|avif|heic)(?:\?\S*)?", re.IGNORECASE
)
_NO_PICTURES = frozenset("image id question_id captions".split())
_BASE64 = re.compile(r"(?:data:image/|/9j/|iVBORw0KGgo|R0lGOD|UklGR)[\w+/=:;,.-]{40,}")
_URL = re.compile(r"(?:https?|s3|gs|hf|file)://", re.IGNORECASE)
# Other spellings of <image>; not <img …>, which stands in texts about web pages.
_MARKER = re.compile(
    r"<\|?(?!(?-i:image>))(?:image|video)(?:[ _-]?(?:\d+|pad|placeholder|here|token|start))?\|?>|<\|vision_start\|>",
    re.IGNORECASE,
)
REMEDY = "only `image` is read: name the picture there, relative to --image_folder, or leave the key out"


def refuse_pictures_elsewhere(row: Mapping[str, Any]) -> None:
    """Raise BadField for a picture that would not be read."""
    image = row.get("image")
    for key, value in row.items():
        if key == "image" or not value or isinstance(value, bool):
            continue
        if image:
            if key.lower() in ("image", "images") and _as_list(value) != _as_list(image):
                raise BadField(key, value, f"says something else than `image`; {REMEDY}", f"key {key}")
        elif key not in _NO_PICTURES and (_is_picture_key(key) or _is_picture(value)):
            raise BadField(key, value, f"names a picture, but {REMEDY}", f"key {key}")
    messages = row.get("conversations")
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        if isinstance(message, Mapping):
            _refuse_in_message(f"conversations[{index}]", message, bool(image))


def _refuse_in_message(where: str, message: Mapping[str, Any], has_image: bool) -> None:
    for key, value in message.items():
        named = key not in ("from", "value", "role", "content") and (
            _is_picture_key(key) or _is_picture(value)
        )
        if named and value and not isinstance(value, bool) and not has_image:
            remedy = "names a picture within a message, but only `image` of the row is read: name it there"
            raise BadField(f"{where}.{key}", value, remedy, f"message key {key}")
    text = message.get("value")
    if isinstance(text, str) and message.get("from") == "human":
        refuse_other_markers(f"{where}.value", text)


def refuse_other_markers(field: str, text: str) -> None:
    """Raise BadField for a question that marks its images in another way than `<image>`."""
    if (found := _MARKER.search(text)) is not None:
        remedy = (
            f"an image is marked by <image>, not by {found[0]}; write it so, and name the picture in `image`"
        )
        raise BadField(field, text, remedy, f"marker {found[0]}")


def refuse_no_name(value: Any) -> None:
    """Raise BadField for an `image` that is the picture itself, or lies on the net."""
    for item in _as_list(value):
        if isinstance(item, Mapping):
            remedy = "must be a file name, and is an object; write the picture to a file in --image_folder and name it"
            raise BadField("image", item, remedy, "image as object")
        if isinstance(item, str) and _BASE64.match(item):
            remedy = (
                "is the picture itself as base64 text; write it to a file in --image_folder and name that"
            )
            raise BadField("image", item, remedy, "image as base64")
        if isinstance(item, str) and _URL.match(item):
            remedy = "is an address; fetch the picture into --image_folder and name the file"
            raise BadField("image", item, remedy, "image as address")


def is_base64_picture(value: Any) -> bool:
    """Whether a value is a picture itself, written as text."""
    return isinstance(value, str) and _BASE64.match(value) is not None


def _is_picture_key(key: str) -> bool:
    words = {word.lower() for word in _WORD.findall(key)}
    rest = {word for word in words - _PICTURES if not word.isdigit()}
    return bool(words & _PICTURES) and rest <= _BESIDE


def _is_picture(value: Any) -> bool:
    """Whether a value is evidently a picture's name or data, under whatever key."""
    if isinstance(value, Mapping):
        return bool(value.keys() & {"bytes", "path"}) and value.keys() <= {"bytes", "path", "url"}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return bool(value) and all(_is_picture(item) for item in value)
    return isinstance(value, str) and bool(_FILE_NAME.fullmatch(value) or _BASE64.match(value))


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]

"""Caption maps: one JSON object, image name → list of captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_utils.json_files import RepeatedKeys, read_object
from data_utils.json_hints import is_coco
from data_utils.problems import Problem, shorten, unreadable
from data_utils.row_fields import BadField, caption_texts, checked_text

_MAP = "a readable JSON object in UTF-8, gzip or not: image name → list of captions"
_FROM_COCO = (
    "names = {i['id']: i['file_name'] for i in coco['images']}; captions = {n: [] for n in names.values()}; "
    "[captions[names[a['image_id']]].append(a['caption']) for a in coco['annotations']]"
)


def read_captions(path: str | Path) -> tuple[dict[str, tuple[str, ...]], list[Problem]]:
    """Read a caption map, where one string stands for a list of one; wrong entries become problems."""
    try:
        data = read_object(path)
    except ValueError as error:
        return {}, [unreadable(path, error, _MAP)]
    if is_coco(data):
        return {}, [_coco_problem(path, data)]
    repeated = data.repeated if isinstance(data, RepeatedKeys) else set()
    captions: dict[str, tuple[str, ...]] = {}
    problems: list[Problem] = []
    for name, value in data.items():
        try:
            if name in repeated:
                raise BadField(name, value, "stands there more than once; keep one")
            captions[checked_text(name, name)] = caption_texts(
                [value] if isinstance(value, str) else value, name
            )
        except BadField as bad:
            problems.append(Problem(str(path), None, bad.field, shorten(bad.value), bad.remedy))
    return captions, problems


def _coco_problem(path: str | Path, data: dict[str, Any]) -> Problem:
    value = "is an annotation file of COCO (images, annotations)"
    first = data["annotations"][0] if data["annotations"] else None
    if isinstance(first, dict) and "caption" not in first:
        return Problem(str(path), None, "file", f"{value}, without captions", f"must be {_MAP}")
    remedy = f"must be a JSON object: image name → list of captions. In Python, of coco = json.load(FILE): {_FROM_COCO}"
    return Problem(str(path), None, "file", value, remedy)

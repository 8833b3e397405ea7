"""What is in an image of COCO, as CHAIR counts it: objects with an instance annotation, and objects that its captions name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data_utils.json_files import read_object
from llava_rlhf.evaluation.benchmarks.items import file_hash
from llava_rlhf.fact_rewards.object_words import ObjectWords


class Shown(NamedTuple):
    """The file name of an image, and the objects that are in it."""

    image: str
    objects: frozenset[str]


def objects_there(files: Sequence[str], words: ObjectWords) -> dict[int, Shown]:
    """Number of an image → what it shows, for images with instances and captions.

    Args:
        files: one or more of COCO's `instances_*.json`, and the `captions_*.json` of the same images, in any order.
        words: the objects' names.

    Raises:
        ValueError: other files, or files without an image in common.
    """
    read = {path: _read(path) for path in files}
    instances = [path for path, content in read.items() if "categories" in content]
    captions = [path for path in read if path not in instances]
    for what, found in (("instance", instances), ("caption", captions)):
        if not found:
            raise ValueError(f"--benchmark_files: no {what} annotations of COCO among {', '.join(files)}")
    objects: defaultdict[int, set[str]] = defaultdict(set)
    shown: set[int] = set()
    for path in instances:
        shown |= _add_instances(path, read[path], words, objects)
    told: defaultdict[int, set[str]] = defaultdict(set)
    names: dict[int, str] = {}
    for path in captions:
        names |= _add_captions(path, read[path], words, told)
    both = names.keys() & shown & told.keys()
    if not both:
        raise ValueError(f"{' and '.join((*instances, *captions))} speak of no image in common")
    return {image: Shown(names[image], frozenset(objects[image] | told[image])) for image in both}


def _add_instances(
    path: str, content: Mapping[str, Any], words: ObjectWords, objects: defaultdict[int, set[str]]
) -> set[int]:
    """Numbers of the images of the file."""
    try:
        categories = {row["id"]: _text(row, "name") for row in content["categories"]}
        for row in content["annotations"]:
            objects[row["image_id"]].add(categories[row["category_id"]])
        shown = {row["id"] for row in content["images"]}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: no instance annotations of COCO (lacks {error})") from None
    unknown = sorted(set(categories.values()) - words.names)
    if unknown:
        raise ValueError(f"--synonyms_file: no line begins with {', '.join(unknown)}, which COCO annotates")
    return shown


def _add_captions(
    path: str, content: Mapping[str, Any], words: ObjectWords, told: defaultdict[int, set[str]]
) -> dict[int, str]:
    """Number → file name of the images of the file."""
    try:
        for row in content["annotations"]:
            told[row["image_id"]].update(words.mentions(_text(row, "caption")))
        return {row["id"]: _text(row, "file_name") for row in content["images"]}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: no caption annotations of COCO (lacks {error})") from None


def _text(row: Mapping[str, Any], field: str) -> str:
    """Raises KeyError where there is no text."""
    if not isinstance(row[field], str):
        raise KeyError(f"a text as {field}")
    return row[field]


def _read(path: str) -> Mapping[str, Any]:
    file_hash(path)
    try:
        content = read_object(path)
    except ValueError as error:
        raise ValueError(f"{path}: must be a JSON file of COCO ({error})") from None
    if "annotations" not in content:
        raise ValueError(f"{path}: no annotations of COCO")
    return content

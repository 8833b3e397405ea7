"""An import: rows of another format in, a new folder out, whole or not at all; one that was interrupted goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_utils.problems import DataError, Problem, shorten, unreadable
from data_utils.row_fields import BadField
from data_utils.schema import ROWS, bad_row, refuse_no_row
from llava_rlhf.importing.arguments import ImportArguments
from llava_rlhf.importing.formats import CAPTIONS, FACTS, FORMATS, PREFERENCES, PROMPTS
from llava_rlhf.importing.outcomes import Captions, Context, Objects, Outcome, Pair, Picture, Question, Tie
from llava_rlhf.importing.part_folder import PartFolder, read_place
from llava_rlhf.importing.pictures import WRITTEN, Pictures
from llava_rlhf.importing.rows import preference_row, prompt_row
from llava_rlhf.importing.sources import find_files, guess_format, is_annotation_file, source_rows
from llava_rlhf.runs.run_folder import write_text_whole

LEFT_OUT, RECORD, IMAGES = "left_out.jsonl", "import.json", "images"
MAX_PROBLEMS = 1000  # of a file in which everything is wrong, so many are collected
_ENTRIES = {CAPTIONS: "caption_entries.jsonl", FACTS: "fact_entries.jsonl"}  # maps, while they grow


@dataclass(frozen=True)
class ImportRun:
    """A checked import: where the rows are, what they are, and how far an earlier process came."""

    arguments: ImportArguments
    files: list[Path]
    format: str
    context: Context
    identity: dict[str, Any]
    place: dict[str, Any] | None


def prepare_import(arguments: ImportArguments) -> ImportRun:
    """Find files and format, and read what rows refer to. Raises ValueError."""
    files = find_files(arguments.source)
    name = arguments.format or guess_format(files)
    read = FORMATS[name].tables
    try:
        context = Context(arguments.system_messages, {} if read is None else read(_objects(files)))
    except ValueError as error:
        raise ValueError(f"--source {' '.join(arguments.source)}: {error}") from None
    identity = {
        "format": name,
        "files": [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files],
        "image_folder": arguments.image_folder,
        "copy_images": arguments.copy_images,
        "system_messages": arguments.system_messages,
    }
    place = read_place(Path(arguments.output_dir), identity)
    return ImportRun(arguments, files, name, context, identity, place)


def _objects(files: Sequence[Path]) -> list[Path]:
    """The files that are annotation files; what rows refer to stands in those alone."""
    return [path for path in files if is_annotation_file(path)]


def run_import(prepared: ImportRun) -> None:
    """Convert all rows and write the folder.

    Raises DataError for rows that can't be converted and files that can't be read on, ValueError where nothing is left.
    What was written stays in `<output_dir>.part`.
    """
    arguments, output = prepared.arguments, Path(prepared.arguments.output_dir)
    with PartFolder(output, prepared.identity, prepared.place) as part:
        if prepared.place is not None:
            print(f"going on at row {part.row} of {prepared.files[min(part.file, len(prepared.files) - 1)]}")
        pictures = Pictures(
            arguments.image_folder, part.folder / IMAGES, arguments.copy_images, part.pictures
        )
        problems = _convert_files(prepared, part, pictures)
        if problems:
            raise DataError(problems)
        made = [name for name in (PREFERENCES, PROMPTS, *_ENTRIES) if part.counts[_ENTRIES.get(name, name)]]
        if not made:
            raise DataError([_nothing_left(prepared, part)])
        for name in _ENTRIES.keys() & set(made):
            _write_map(part, name)
        kind = part.pictures
    folder = "" if not kind else f"{output / IMAGES}" if kind == WRITTEN else str(arguments.image_folder)
    record = {**prepared.identity, "rows": dict(sorted(part.counts.items())), "image_folder": folder}
    part.publish(record, RECORD, leaving=list(_ENTRIES.values()))
    _report(part, output, made, folder)


def _convert_files(prepared: ImportRun, part: PartFolder, pictures: Pictures) -> list[Problem]:
    """Convert what is left; the problems, after the first of which nothing more is written."""
    problems: list[Problem] = []
    skip = prepared.arguments.skip_invalid
    for index in range(part.file, len(prepared.files)):
        path, start = prepared.files[index], part.row if index == part.file else 0
        rows = iter(tqdm(source_rows(path, prepared.format, start), desc=path.name, unit="row", disable=None))
        while len(problems) < MAX_PROBLEMS:
            try:
                number, row = next(rows)
                records = list(_records(prepared, pictures, path, number, row))
            except StopIteration:
                break
            except BadField as bad:
                problem = bad_row(path, number, bad)
                problems += [] if skip else [problem]
                records = [(LEFT_OUT, _left_out("skipped", path, number, bad))]
            except ValueError as error:  # a file is of no use behind such a place
                return [*problems, unreadable(path, error, ROWS)]
            if not problems:
                for name, record in records:
                    part.append(name, record)
                    part.counts[record["why"] if name == LEFT_OUT else name] += 1
                part.counts["read"] += 1
                part.advance(index, number + 1, pictures.kind)
        if not problems:
            part.advance(index + 1, 0, pictures.kind)
    return problems


def _records(
    prepared: ImportRun, pictures: Pictures, path: Path, number: int, row: Any
) -> Iterator[tuple[str, Any]]:
    """(file, line) of all that becomes of a row. Raises BadField."""
    if (wrong := refuse_no_row(row)) is not None:
        raise BadField(*wrong)
    outcomes = list(FORMATS[prepared.format].convert(row, prepared.context))
    names: dict[str, str] = {}

    def name(picture: Picture) -> str:
        if picture.field not in names:
            names[picture.field] = pictures.name(picture)
        return names[picture.field]

    for outcome in outcomes:
        yield _record(outcome, name, path, number, row)


def _record(
    outcome: Outcome, name: Callable[[Picture], str], path: Path, number: int, row: Mapping[str, Any]
) -> tuple[str, Any]:
    match outcome:
        case Pair():
            images = [name(picture) for picture in outcome.pictures]
            return PREFERENCES, preference_row(outcome, images, row, path, number)
        case Question():
            return PROMPTS, prompt_row(outcome, name(outcome.picture), row, path, number)
        case Captions(image=image):
            image = name(image) if isinstance(image, Picture) else image
            return _ENTRIES[CAPTIONS], [outcome.prefix + image, list(outcome.texts)]
        case Objects():
            return _ENTRIES[FACTS], [outcome.image, [dict(outcome.fact)]]
        case Tie():
            return LEFT_OUT, _left_out("tie", path, number, BadField(outcome.field, outcome.value, ""))


def _left_out(why: str, path: Path, number: int, bad: BadField) -> dict[str, Any]:
    line = {"why": why, "file": str(path), "row": number, "field": bad.field, "value": shorten(bad.value)}
    return line | ({"remedy": bad.remedy} if bad.remedy else {})


def _write_map(part: PartFolder, name: str) -> None:
    """Join the entries of each picture, each kept once."""
    joined: dict[str, list[Any]] = {}
    for image, values in part.lines(_ENTRIES[name]):
        known = joined.setdefault(image, [])
        for value in values:
            known += [] if value in known else [value]
    write_text_whole(part.folder / name, json.dumps(joined, indent=1, ensure_ascii=False) + "\n")
    part.counts[name] = len(joined)


def _nothing_left(prepared: ImportRun, part: PartFolder) -> Problem:
    counts = ", ".join(f"{name}: {count}" for name, count in part.counts.items()) or "0 rows read"
    remedy = f"no row is left that becomes one of ours; is it {FORMATS[prepared.format].title}?"
    return Problem(str(prepared.files[0]), None, "rows", counts, remedy)


def _report(part: PartFolder, output: Path, made: Sequence[str], folder: str) -> None:
    counts = part.counts
    print(f"wrote {output}: {', '.join(f'{name}: {counts[name]} rows' for name in made if counts[name])}")
    for why, words in (("tie", "ties"), ("skipped", "rows that can't be converted")):
        if counts[why]:
            print(f"left out, and listed in {output / LEFT_OUT}: {counts[why]} {words}")
    if folder:
        print(f"the pictures: --image_folder {folder}")

"""Every preference format: what becomes of a row, and which format a row is told to be."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from data_utils.problems import DataError
from data_utils.schema import read_preferences
from llava_rlhf import make_dataset
from llava_rlhf.importing.formats import FORMATS, guess
from tests.llava_rlhf.importing.cases import Case, Made, png, write_pictures
from tests.llava_rlhf.importing.trainer_cases import PREFERENCE_CASES
from tests.support.tiny_data import command_line

ALL = [(name, one) for name, cases in PREFERENCE_CASES.items() for one in cases]
DIGEST = hashlib.sha256(png(4)).hexdigest()


def run(**flags) -> None:
    make_dataset.run(make_dataset.prepare(["import", *command_line(**flags)]))


def made(path: Path) -> list[Made]:
    """The pairs of a preference file."""
    records, problems = read_preferences(path)
    assert not problems
    return [
        Made(
            tuple(turn.text for turn in record.turns),
            record.images,
            record.outputs[record.preference - 1],
            record.outputs[2 - record.preference],
            record.preference,
        )
        for record in records
    ]


def expected(case: Case) -> list[Made]:
    """Of a picture that was written the name is that of its content."""
    name = f"{DIGEST[:2]}/{DIGEST[:32]}.png"
    return [Made(**{**vars(one), "images": (name,)}) if "33/33" in one.images else one for one in case.made]


@pytest.mark.parametrize(("format_name", "name"), ALL)
def test_what_becomes_of_a_row(format_name, name, tmp_path):
    case = PREFERENCE_CASES[format_name][name]
    source, output = tmp_path / "rows.json", tmp_path / "out"
    # A second good row, so that a row which only ties is no empty import.
    extra = next(one for one in PREFERENCE_CASES[format_name].values() if one.made)
    source.write_text(json.dumps([extra.row, case.row]))
    flags = {"source": source, "output_dir": output, "format": format_name}
    flags |= {"image_folder": write_pictures(tmp_path / "pictures")}
    if "data:" in str(case.row):
        flags["copy_images"] = True
        (tmp_path / "pictures" / "a.png").write_bytes(png(4))
    if case.refused is not None:
        with pytest.raises(DataError) as error:
            run(**flags)
        (problem,) = error.value.problems
        assert (problem.file, problem.row) == (str(source), 1)
        assert problem.field == case.refused.field and case.refused.words in problem.remedy
        assert not output.exists()
        return
    run(**flags)
    assert made(output / "preferences.jsonl")[len(extra.made) :] == expected(case)
    left = output / "left_out.jsonl"
    lines = [json.loads(line) for line in left.read_text().splitlines()] if left.exists() else []
    assert [(line["why"], line["row"]) for line in lines if line["row"] == 1] == [("tie", 1)] * case.ties


def test_there_are_six_cases_of_every_format():
    assert {name: len(cases) for name, cases in PREFERENCE_CASES.items() if len(cases) < 6} == {}
    preferences = {name for name, one in FORMATS.items() if one.tables is None and name != "a_okvqa"}
    assert preferences == set(PREFERENCE_CASES)


@pytest.mark.parametrize(
    ("format_name", "name"), [pair for pair in ALL if PREFERENCE_CASES[pair[0]][pair[1]].made]
)
def test_the_format_of_a_good_row_is_told(format_name, name):
    assert guess(PREFERENCE_CASES[format_name][name].row, "here") == format_name


@pytest.mark.parametrize(
    ("row", "one", "other"),
    [
        ({"prompt": "p", "question": "q", "chosen": "c", "rejected": "r"}, "trl", "rlaif_v"),
        (
            {"messages": [], "chosen": "c", "rejected": "r", "rejected_response": "r"},
            "llama_factory",
            "ms_swift",
        ),
        (
            {"prompt": "p", "chosen": "c", "rejected": "r", "is_tie": False, "question": "q"},
            "rlaif_v",
            "mm_rlhf",
        ),
    ],
)
def test_a_row_that_may_be_of_two_formats_is_refused_with_both(row, one, other):
    with pytest.raises(
        ValueError, match=rf"here: .*--format {one}\).*--format {other}\).*say which with --format"
    ):
        guess(row, "here")


def test_a_row_of_no_format_is_refused_with_its_fields():
    with pytest.raises(ValueError, match=r"no format has the fields 'foo, bar'; read are trl, "):
        guess({"foo": 1, "bar": 2}, "here")


def test_a_system_message_is_dropped_where_that_is_asked_for(tmp_path):
    source, output = tmp_path / "rows.jsonl", tmp_path / "out"
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "What?"}]
    source.write_text(json.dumps({"prompt": messages, "chosen": "a", "rejected": "b"}))
    run(source=source, output_dir=output, system_messages="drop")
    assert made(output / "preferences.jsonl") == [Made(("What?",), (), "a", "b")]

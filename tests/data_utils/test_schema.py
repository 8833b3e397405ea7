"""Rows that mean something become records, every other row becomes a problem that says what to do."""

from __future__ import annotations

import json

import pytest

from data_utils.problems import DataError, Problem
from data_utils.schema import AnswerType, Turn, read_captions, read_dialogues, read_preferences, read_prompts


def human(text: str) -> dict:
    return {"from": "human", "value": text}


def gpt(text: str) -> dict:
    return {"from": "gpt", "value": text}


def dialogue(**changes) -> dict:
    return {"id": "d", "image": "a.png", "conversations": [human("<image>\nWhat?"), gpt("A cat.")], **changes}


def preference(**changes) -> dict:
    outputs = {"output_1": gpt("A cat."), "output_2": gpt("A dog."), "preference": 1}
    return {**dialogue(conversations=[human("<image>\nWhat?"), gpt("")]), **outputs, **changes}


def prompt(**changes) -> dict:
    return {"id": "p", "image": "a.png", "conversations": [human("<image>\nWhat?")], **changes}


def test_answer_types_have_the_published_numbers():
    names = "GENERAL A_IN_ABCD B_IN_ABCD C_IN_ABCD D_IN_ABCD NO_IN_YESNO YES_IN_YESNO".split()
    assert {name: AnswerType[name].value for name in names} == {name: i + 1 for i, name in enumerate(names)}


def test_a_dialogue_keeps_its_text_its_place_and_its_unknown_keys(write):
    path = write("d.json", [dialogue(), dialogue(id=7, source="coco", captions=["A cat sits."])])
    records, problems = read_dialogues(path)
    assert problems == []
    second = records[1]
    assert (second.file, second.row, second.id) == (str(path), 1, "7")
    assert second.images == ("a.png",)
    assert second.turns == (Turn("human", "<image>\nWhat?"), Turn("gpt", "A cat."))
    assert second.captions == ("A cat sits.",)
    assert dict(second.extra) == {"source": "coco"}
    assert records[0].captions is None


def test_a_leading_gpt_message_is_dropped_like_the_reference_does(write):
    rows = [dialogue(conversations=[gpt("hi"), human("<image>"), gpt("A cat.")])]
    records, problems = read_dialogues(write("d.json", rows))
    assert problems == []
    assert [turn.text for turn in records[0].turns] == ["<image>", "A cat."]


def test_a_preference_ends_with_the_question_and_carries_both_outputs(write):
    turns = [human("<image>\nWhat?"), gpt("A cat."), human("Colour?"), gpt("placeholder")]
    records, problems = read_preferences(write("p.json", [preference(conversations=turns, preference=2)]))
    assert problems == []
    assert [turn.text for turn in records[0].turns] == ["<image>\nWhat?", "A cat.", "Colour?"]
    assert records[0].outputs == ("A cat.", "A dog.")
    assert records[0].preference == 2


def test_a_prompt_keeps_the_first_human_message_and_has_defaults(write):
    turns = [human("What?"), gpt(""), human("dropped <image>")]
    rows = [prompt(conversations=turns), prompt(caption_type=6, length_bonus=0)]
    records, problems = read_prompts(write("r.json", rows))
    assert problems == []
    assert records[0].turns == (Turn("human", "What?"),)
    assert (records[0].answer_type, records[0].length_bonus) == (AnswerType.GENERAL, 1.0)
    assert (records[1].answer_type, records[1].length_bonus) == (AnswerType.NO_IN_YESNO, 0.0)
    assert isinstance(records[1].length_bonus, float)


@pytest.mark.parametrize(
    ("images", "text", "kept"),
    [
        (None, "What?", ()),
        ([], "What?", ()),
        ("a.png", "What?", ("a.png",)),
        ("a.png", "<image> What?", ("a.png",)),
        ("a.png", "", ("a.png",)),
        (["a.png", "b.png"], "<image> or <image>?", ("a.png", "b.png")),
    ],
)
def test_markers_that_fit_the_images(write, images, text, kept):
    records, problems = read_prompts(write("r.json", [prompt(image=images, conversations=[human(text)])]))
    assert problems == []
    assert records[0].images == kept


def test_image_names_stay_text(write):
    records, _ = read_prompts(write("r.json", [prompt(image="000000000042.jpg")]))
    assert records[0].images == ("000000000042.jpg",)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ("text", "row"),
        (dialogue(conversations=None), "conversations"),
        (dialogue(conversations=[]), "conversations"),
        (dialogue(conversations=["hi"]), "conversations[0]"),
        (dialogue(conversations=[{"from": "user", "value": "x"}]), "conversations[0].from"),
        (dialogue(conversations=[{"from": ["human"], "value": "x"}]), "conversations[0].from"),
        (dialogue(conversations=[human(3)]), "conversations[0].value"),
        (dialogue(conversations=[human("<image>")]), "conversations"),
        (dialogue(conversations=[gpt("hello")]), "conversations"),
        (dialogue(conversations=[human("<image>"), human("x"), gpt("y")]), "conversations"),
        (dialogue(conversations=[human("<image>"), gpt("y"), human("x")]), "conversations"),
        (dialogue(conversations=[human("<image>"), gpt(" \n")]), "conversations[1].value"),
        (dialogue(conversations=[human("<image> <image>"), gpt("y")]), "conversations"),
        (dialogue(image=None), "conversations"),
        (dialogue(image=["a.png", "b.png"]), "conversations"),
        (dialogue(image=None, conversations=[human(" "), gpt("y")]), "conversations[0].value"),
        (dialogue(image=5), "image"),
        (dialogue(image=["a.png", 5]), "image"),
        (dialogue(image=""), "image"),
        (dialogue(id=[1]), "id"),
        (dialogue(id=True), "id"),
        (dialogue(captions="A cat."), "captions"),
        (dialogue(captions=[1]), "captions"),
        (dialogue(conversations=[human("<image>\ud800"), gpt("y")]), "conversations[0].value"),
    ],
)
def test_a_bad_dialogue_gives_a_problem_and_no_record(write, row, field):
    records, problems = read_dialogues(write("d.json", [dialogue(), row]))
    assert len(records) == 1
    assert [(problem.row, problem.field) for problem in problems] == [(1, field)]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"preference": 0}, "preference"),
        ({"preference": 3}, "preference"),
        ({"preference": "1"}, "preference"),
        ({"preference": True}, "preference"),
        ({"preference": 1.0}, "preference"),
        ({"preference": None}, "preference"),
        ({"output_1": None}, "output_1"),
        ({"output_2": "A cat."}, "output_2"),
        ({"output_2": gpt("")}, "output_2.value"),
        ({"output_1": {"from": "llava"}}, "output_1.value"),
        ({"conversations": [human("<image>"), human("x")]}, "conversations"),
        ({"conversations": [gpt("y")]}, "conversations"),
        ({"conversations": [human("<image>"), gpt(""), human("x"), gpt("y")]}, "conversations[1].value"),
    ],
)
def test_a_bad_preference(write, changes, field):
    records, problems = read_preferences(write("p.json", [preference(**changes), preference()]))
    assert len(records) == 1
    assert [(problem.row, problem.field) for problem in problems] == [(0, field)]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"caption_type": 0}, "caption_type"),
        ({"caption_type": 8}, "caption_type"),
        ({"caption_type": "1"}, "caption_type"),
        ({"caption_type": True}, "caption_type"),
        ({"caption_type": None}, "caption_type"),
        ({"length_bonus": float("nan")}, "length_bonus"),
        ({"length_bonus": float("-inf")}, "length_bonus"),
        ({"length_bonus": 10**400}, "length_bonus"),
        ({"length_bonus": "1"}, "length_bonus"),
        ({"length_bonus": False}, "length_bonus"),
        ({"conversations": [gpt("x")]}, "conversations"),
    ],
)
def test_a_bad_prompt(write, changes, field):
    records, problems = read_prompts(write("r.json", [prompt(**changes), prompt()]))
    assert len(records) == 1
    assert [(problem.row, problem.field) for problem in problems] == [(0, field)]


@pytest.mark.parametrize("content", ["{", "{\n}", "3", "null", "", b"\xff\xfe"])
def test_a_file_that_is_no_list_is_one_problem_of_the_file(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    records, problems = read_dialogues(path)
    assert records == []
    assert [(problem.file, problem.row, problem.field) for problem in problems] == [(str(path), None, "file")]


def test_a_missing_file_is_a_problem(tmp_path):
    assert read_captions(tmp_path / "none.json")[1][0].field == "file"


def test_a_byte_order_mark_is_read_over(tmp_path):
    path = tmp_path / "bom.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps([prompt()]).encode())
    assert len(read_prompts(path)[0]) == 1


def test_captions_are_read_and_wrong_entries_named(write):
    captions, problems = read_captions(
        write("c.json", {"a.png": ["x", "y"], "b.png": "x", "c.png": [None], "d.png": 3})
    )
    assert captions == {"a.png": ("x", "y"), "b.png": ("x",)}
    assert [problem.field for problem in problems] == ["c.png", "d.png"]


def test_the_error_lists_twenty_problems_and_the_total():
    problems = [Problem("f.json", row, "preference", "3", "must be 1 or 2") for row in range(25)]
    text = str(DataError(problems))
    assert "f.json, row 12, field 'preference': value 3 — must be 1 or 2" in text
    assert text.count("must be 1 or 2") == 20
    assert "25 problems" in text and "5 more" in text
    assert isinstance(DataError(problems), ValueError)
    assert str(DataError(problems[:1])).startswith("1 problem in the data:")


def test_a_long_value_is_shortened_in_the_message(write):
    _, problems = read_dialogues(write("d.json", ["x" * 10_000]))
    assert len(problems[0].value) <= 80


def test_golden_files_are_read_without_problems(golden):
    for read, name, count in [
        (read_dialogues, "sft.json", 8),
        (read_preferences, "preference.json", 12),
        (read_prompts, "rl.json", 10),
        (read_prompts, "rl16.json", 16),
        (read_captions, "image_to_caption.json", 24),
    ]:
        records, problems = read(golden / "data" / name)
        assert (len(records), problems) == (count, [])


@pytest.mark.parametrize("name", ["kitchen.jpg", "COCO_val2014_000000000042.jpg", "a/b c/été 猫.png", "42"])
def test_an_image_may_have_any_name(write, name):
    for read, row in ((read_dialogues, dialogue), (read_preferences, preference), (read_prompts, prompt)):
        records, problems = read(write("rows.json", [row(image=name)]))
        assert problems == [] and records[0].images == (name,)
    captions, problems = read_captions(write("captions.json", {name: ["A kitchen."]}))
    assert problems == [] and captions == {name: ("A kitchen.",)}

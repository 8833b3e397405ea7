"""Answers files: what a row may hold, what is refused, and that an answer is the sequence PPO would score."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from data_utils.answers import build_answers, file_kind, read_answers
from data_utils.facts import FactBook, MissingCaptions
from data_utils.problems import DataError
from data_utils.schema import AnswerType
from tests.data_utils.rows import CAPTIONS, FACTS, PROMPT, preference, prompt_row, prompts

STOP = 2


def answer(question="what ?", text="a cat", **more) -> dict:
    return {"image": "a.png", "question": question, "answer": text, **more}


def answers(path, common, prompt=PROMPT, missing="error", seed=0, **changes):
    facts = FactBook(CAPTIONS, MissingCaptions(missing))
    return build_answers(path, replace(common, **changes), facts=facts, prompt=prompt, seed=seed)


def test_answers_by_hand(write, common):
    rows = [answer(), answer(stopped=False), answer(text=""), answer(image=None), answer("<image> what ?")]
    data = answers(write("a.json", rows), common)
    # <s> USER: <image> what ? ASSISTANT: | a cat </s> | score
    query = [1, 5, 4, 7, 10, 6]
    assert data[0].input_ids == ([*query, 11, 12, STOP, 23],)
    assert data[1].input_ids == ([*query, 11, 12, 23],)
    assert data[2].input_ids == ([*query, STOP, 23],)
    assert data[3].input_ids == ([1, 5, 7, 10, 6, 11, 12, STOP, 23],)
    assert data[4].input_ids == data[0].input_ids  # a marker in the question may stay, or go
    assert [len(item.images) for item in data] == [1, 1, 1, 0, 1]
    assert data[0].images[0].mean((1, 2)).argmax() == 0  # a.png is red
    assert data.column("row") == [0, 1, 2, 3, 4]


def test_an_answer_is_the_sequence_that_ppo_scores(write, common, word_encoder):
    """Also when the file has the prompts in another order, twice, and only some of them."""
    source = [
        prompt_row(),
        prompt_row(caption_type=2),
        prompt_row(image=None, question=" what  is this ? "),
        prompt_row(image=["a.png", "c.png"], question="<image>\n<image>\nred ?", caption_type=7),
        prompt_row(image="d.png", captions=["yes", "no", "blue"]),
    ]
    (common.image_folder / "d.png").write_bytes((common.image_folder / "a.png").read_bytes())
    source = source * 8  # each order of the captions occurs
    scored = prompts(write("p.json", source), common, prompt=FACTS, seed=5)
    asked = prompts(write("p.json", source), common, prompt=None)
    assert asked[2].question == " what  is this ? "  # a question without image is read as it stands
    rows, expected = [], []
    for position in [*range(39, 3, -2), 4, 4]:
        item = asked[position]
        text, stopped = ("a cat", True) if position % 3 else ("a dog .", False)
        rows.append(
            {
                "prompt_row": item.row,
                "image": list(item.image_names),
                "captions": list(item.captions),
                "question": item.question,
                "answer_type": item.answer_type.name,
                "answer": text,
                "stopped": stopped,
            }
        )
        response = word_encoder.encode_response(text) + [STOP] * stopped
        expected.append(scored[position].query_ids + response + scored[position].reward_prompt_ids)
    data = answers(write("a.json", rows), common, prompt=FACTS, seed=5)
    assert [item.input_ids[0] for item in data] == expected
    without_row = [{**row, "prompt_row": None} for row in rows]
    moved = answers(write("a.json", without_row), common, prompt=FACTS, seed=5)
    assert [item.input_ids[0] for item in moved] != expected  # its own row orders the captions


def test_a_list_and_lines_say_the_same(write, common, tmp_path):
    rows = [answer(id=3), answer(text="no", sample=1), answer(caption_type=2)]
    lines = tmp_path / "a.jsonl"
    lines.write_text("\ufeff" + "\n\n".join(map(json.dumps, rows)) + "\n")
    as_list = write("a.json", rows)
    assert file_kind(lines) == file_kind(as_list) == "answers"
    both = [read_answers(path)[0] for path in (lines, as_list)]
    for one, other in zip(*both, strict=True):
        assert {**vars(one), "file": ""} == {**vars(other), "file": ""}
    first, second, third = both[0]
    assert (first.id, first.stopped, first.prompt_row) == ("3", True, None)
    assert second.extra == {"sample": 1} and third.answer_type is AnswerType.A_IN_ABCD
    # "one line" is a file of one answer, too
    lines.write_text(json.dumps(rows[0]))
    assert len(read_answers(lines)[0]) == 1


BAD_ROWS = [
    ({"answer": None}, r"field 'answer': value None — must be a string"),
    ({"question": 3}, r"field 'question': value 3"),
    ({"answer": "\ud83d"}, r"field 'answer'"),
    ({"image": [""]}, r"field 'image'"),
    ({"image": "absent.png"}, r"field 'image': value 'absent.png'.*no such file"),
    ({"captions": "a cat"}, r"field 'captions'.*must be a list of strings"),
    ({"stopped": 0}, r"field 'stopped': value 0 — must be true or false"),
    ({"prompt_row": -1}, r"field 'prompt_row'"),
    ({"id": 1.5}, r"field 'id'"),
    ({"answer_type": "YES"}, r"field 'answer_type': value 'YES' — must be one of GENERAL"),
    ({"caption_type": 8}, r"field 'caption_type': value 8 — must be an integer from 1 to 7"),
    ({"answer_type": "GENERAL", "caption_type": 7}, r"field 'caption_type'.*answer_type is GENERAL"),
    ({"question": "<image> <image> what ?"}, r"2 marker\(s\) for 1 image\(s\)"),
    ({"image": None, "question": " "}, "a question without image needs a text"),
]


@pytest.mark.parametrize(("fields", "message"), BAD_ROWS)
def test_a_bad_row_is_refused_with_its_place(fields, message, write, common):
    path = write("a.json", [answer(), answer(**fields), answer()])
    with pytest.raises(DataError, match=f"row 1, {message}" if message.startswith("field") else message):
        answers(path, common)
    data = answers(path, common, skip_invalid=True)
    assert data.column("row") == [0, 2] and sum(data.report.dropped.values()) == 1


def test_missing_captions_are_refused_dropped_or_no_fact(write, common):
    path = write("a.json", [answer(answer_type="B_IN_ABCD"), answer(image="b.png", answer_type="B_IN_ABCD")])
    with pytest.raises(DataError, match=r"row 1.*no captions under 'aok_b.png'"):
        answers(path, common, prompt=FACTS)
    assert answers(path, common, prompt=FACTS, missing="skip").column("row") == [0]
    assert answers(path, common, prompt=FACTS, missing="no_fact").column("row") == [0, 1]


def test_over_long_answers_are_dropped_and_counted(write, common):
    # "a cat" is 2 tokens and its stop 1; the query has 6, the reward prompt 1.
    rows = [answer(), answer(stopped=False), answer(question="what is this ?")]
    path = write("a.json", rows)
    assert answers(path, common, response_len=2).report.dropped == {"response longer than response_len 2": 2}
    assert answers(path, common, query_len=6).column("row") == [0, 1]
    assert answers(path, common, model_max_length=9).column("row") == [1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"text": "hello", "label": 1}],
            r"fields of the first row: \['label', 'text'\].*neither preferences",
        ),
        ([answer(), preference()], "row 1 is a preference pair, row 0 an answer"),
        ([preference(answer="a cat")], "row 0 is a preference pair, row 0 an answer"),
        ([], "neither preferences"),
        ([[1, 2]], "neither preferences"),
        ({"question": "what ?"}, "neither preferences"),
    ],
)
def test_a_kind_that_cannot_be_told_is_refused(rows, message, write):
    path = write("x.json", rows)
    with pytest.raises(DataError, match=message) as refused:
        file_kind(path)
    assert str(path) in str(refused.value)


def test_pairs_are_told_by_any_of_their_fields(write):
    broken = preference()
    del broken["output_1"]
    assert file_kind(write("p.json", [broken])) == "pairs"


def test_unreadable_files_and_lines_are_refused(tmp_path):
    with pytest.raises(DataError, match="must be a readable JSON list"):
        file_kind(tmp_path / "none.jsonl")
    path = tmp_path / "cut.jsonl"
    path.write_text(json.dumps(answer()) + '\n{"question": "wha')
    assert file_kind(path) == "answers"
    records, (problem,) = read_answers(path)
    assert len(records) == 1 and (problem.row, problem.field) == (1, "line 2")
    assert "one JSON object a line" in problem.remedy
    path.write_text("[" + json.dumps(answer()))
    with pytest.raises(DataError, match="must be a readable JSON list"):
        file_kind(path)

"""POPE by hand: what counts as yes, and the numbers of a few answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava_rlhf.evaluation.benchmarks.pope import Pope, is_unclear, says_yes
from llava_rlhf.evaluation.score_files import summarise


@pytest.mark.parametrize(
    ("answer", "yes"),
    [
        # What stands before the first full stop, split at spaces; No, no and not are the only words that matter.
        ("Yes", True),
        ("Yes, there is a dog.", True),
        ("No", False),
        ("No,", False),
        ("No, there is none", False),
        ("no.", False),
        ("not sure", False),
        ("I am not sure. Yes.", False),
        ("Yes. No.", True),
        ("No. Yes.", False),
        ("Yes, but not a red one", False),
        ("There is no dog in the image.", False),
        ("", True),
        ("maybe", True),
        ("NO", True),  # the published rule knows three spellings
        ("Nothing. No.", True),
        (". No", True),
        ("No!", True),
        ("There isn't one", True),
        ("Yes\nNo", True),  # split at spaces only: "Yes\nNo" is one word
        ("none", True),
        ("1. No", True),
    ],
)
def test_what_counts_as_yes(answer, yes):
    assert says_yes(answer) is yes


@pytest.mark.parametrize(
    ("answer", "unclear"),
    [
        ("", True),
        ("maybe", True),
        ("nothing", True),
        ("NO", False),
        ("No,", False),
        ("not sure", False),
        ("ok. yes", False),
    ],
)
def test_answers_without_yes_or_no(answer, unclear):
    assert is_unclear(answer) is unclear


def write_pope(path: Path, labels: str, **changes) -> str:
    """One question a letter, y or n; three questions an image."""
    rows = [
        {
            "question_id": number,
            "image": f"{number // 3}.jpg",
            "text": f"Is there a thing {number} in the image?",
            "label": {"y": "yes", "n": "no"}[label],
        }
        | changes
        for number, label in enumerate(labels, 1)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def answers_to(pope: Pope, texts: list[str]) -> list[dict]:
    return [
        {"id": item.id, "image": [item.image], "question": item.question, "answer": text}
        for item, text in zip(pope.items(), texts, strict=True)
    ]


def table(pope: Pope, texts: list[str]) -> dict[str, dict[str, float | None]]:
    scores = pope.score(answers_to(pope, texts), leave_out_missing=False)
    found = summarise(scores.items, list(pope.metrics), 100, 0)
    return {
        part: {name: entry["value"] for name, entry in metrics.items()} for part, metrics in found.items()
    }


def test_numbers_by_hand(tmp_path):
    pope = Pope(
        [
            write_pope(tmp_path / "coco_pope_random.json", "yyyn"),
            write_pope(tmp_path / "coco_pope_adversarial.json", "ynnn"),
        ]
    )
    # random: said y y n y -> tp 2, fn 1, fp 1, tn 0; adversarial: y y n n -> tp 1, fp 1, tn 2
    found = table(pope, ["Yes", "", "No,", "Yes. No.", "yes", "Yes", "not sure", "no"])
    assert found["random"] == pytest.approx(
        {
            "accuracy": 2 / 4,
            "precision": 2 / 3,
            "recall": 2 / 3,
            "f1": 2 / 3,
            "yes_ratio": 3 / 4,
            "unclear": 1 / 4,
        }
    )
    assert found["adversarial"] == pytest.approx(
        {"accuracy": 3 / 4, "precision": 1 / 2, "recall": 1, "f1": 2 / 3, "yes_ratio": 2 / 4, "unclear": 0}
    )
    # together: tp 3, fp 2, fn 1, tn 2: P 3/5, R 3/4, F1 = 2 · 0.45 / 1.35 = 2/3
    assert found["all"] == pytest.approx(
        {
            "accuracy": 5 / 8,
            "precision": 3 / 5,
            "recall": 3 / 4,
            "f1": 2 / 3,
            "yes_ratio": 5 / 8,
            "unclear": 1 / 8,
        }
    )


def test_an_empty_class_gives_no_number_instead_of_an_error(tmp_path):
    nothing_there = Pope([write_pope(tmp_path / "a.json", "nn")])
    found = table(nothing_there, ["no", "no"])["all"]
    assert (found["accuracy"], found["precision"], found["recall"], found["f1"]) == (1, None, None, None)
    found = table(nothing_there, ["yes", "no"])["all"]
    assert (found["precision"], found["recall"], found["f1"]) == (0, None, 0)
    always_no = table(Pope([write_pope(tmp_path / "b.json", "yy")]), ["no", "no"])["all"]
    assert (always_no["precision"], always_no["recall"], always_no["f1"]) == (None, 0, 0)


def test_questions_of_one_image_stand_together(tmp_path):
    pope = Pope([write_pope(tmp_path / "a.json", "yyyy")])
    scores = pope.score(answers_to(pope, ["yes"] * 4), False)
    assert [score.cluster for score in scores.items] == ["0.jpg", "0.jpg", "1.jpg", "1.jpg"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"label": "Yes"}, r"line 1: field 'label': 'Yes' must be 'yes' or 'no'"),
        ({"image": None}, r"line 1: field 'image' is missing"),
        ({"question_id": 1}, r"line 2: question_id 1 comes twice"),
    ],
)
def test_other_files_are_refused(change, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        Pope([write_pope(tmp_path / "a.json", "yn", **change)]).items()


def test_a_file_that_holds_no_questions_is_refused(tmp_path):
    path = tmp_path / "a.json"
    for text, says in [
        ("[\n{}]\n", r"a.json, row 0: field 'image' is missing or no text; its fields are \[\]"),
        ("[3]", "a.json, row 0: must be a JSON object"),
        ('{"question_id": 1}\n{"quest', r"a.json, line 2: must be a JSON object a line \(is no JSON"),
        ("[]", "a.json: no questions"),
        ("PAR1", "a.json: is a Parquet file"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=says):
            Pope([str(path)]).items()
    with pytest.raises(ValueError, match="each with another name"):
        Pope([str(path), str(path)])
    with pytest.raises(ValueError, match=r"--benchmark_files .*nowhere.json: no such file"):
        Pope([str(tmp_path / "nowhere.json")]).items()


def test_answers_to_something_else_are_refused(tmp_path):
    pope = Pope([write_pope(tmp_path / "a.json", "yn")])
    good = answers_to(pope, ["yes", "no"])
    for change, says in [
        ({"id": "a/9"}, "id 'a/9' is no item"),
        ({"image": ["9.jpg"]}, r"shows 0.jpg, not \['9.jpg'\]"),
        ({"question": "Is it?"}, "asks 'Is there a thing 1 in the image.', not 'Is it.'"),
        ({"answer": None}, "field 'answer' is None, no text"),
    ]:
        with pytest.raises(ValueError, match=f"line 1: .*{says}"):
            pope.score([good[0] | change, good[1]], False)
    with pytest.raises(ValueError, match="1 of 2 items have no answer, the first: a/2"):
        pope.score(good[:1], False)
    assert pope.score(good[:1], True).counts == {"missing": 1}


def test_several_answers_to_a_question_all_count(tmp_path):
    pope = Pope([write_pope(tmp_path / "a.json", "yn")])
    answers = [answer for texts in (["yes", "no"], ["no", "no"]) for answer in answers_to(pope, texts)]
    scores = pope.score(answers, False)
    assert summarise(scores.items, ["accuracy"], 100, 0)["all"]["accuracy"]["value"] == 3 / 4

"""Rows of all kinds of data: a bad one is refused with file, row, field, value and remedy, or dropped and counted."""

from __future__ import annotations

import json

import pytest

from data_utils.problems import DataError
from data_utils.summary import format_report
from tests.errors.conftest import good_rows
from tests.errors.documented import documented

HALF = "a \ud800 cat"
LONG = "a cat " * 50_000  # 100 001 tokens


def human(text) -> dict:
    return {"from": "human", "value": text}


def gpt(text) -> dict:
    return {"from": "gpt", "value": text}


def told(*messages) -> dict:
    return {"conversations": list(messages)}


ASKED = human("<image>\nwhat?")
# case → kind of data, and the fields that a good row gets (or the row itself)
CASES = {
    "no-object": ("reward", ["a cat"]),
    "repeated-key": ("reward", '{"preference": 1, "preference": 2}'),
    "no-conversations": ("policy", {"conversations": None}),
    "empty-conversations": ("policy", {"conversations": []}),
    "message-no-object": ("policy", told("what?", "a cat.")),
    "unknown-role": ("policy", told({"from": "user", "value": "what?"}, gpt("a cat."))),
    "text-no-string": ("policy", told(human(["what?"]), gpt("a cat."))),
    "no-human": ("ppo", told(gpt("a cat."))),
    "no-answer": ("policy", told(ASKED)),
    "not-alternating": ("policy", told(ASKED, human("what?"), gpt("a cat."))),
    "empty-answer": ("policy", told(ASKED, gpt(" \n"))),
    "empty-question": ("policy", {"image": None, **told(human(" "), gpt("a cat."))}),
    "preference-3": ("reward", {"preference": 3}),
    "preference-text": ("reward", {"preference": "1"}),
    "preference-true": ("reward", {"preference": True}),
    "no-output": ("reward", {"output_2": None}),
    "empty-output": ("reward", {"output_1": gpt("")}),
    "output-text": ("reward", {"output_1": "a cat."}),
    "id-float": ("ppo", {"id": 1.5}),
    "id-surrogate": ("ppo", {"id": HALF}),
    "question-surrogate": ("ppo", told(human(f"<image>{HALF}"))),
    "output-surrogate": ("reward", {"output_2": gpt(HALF)}),
    "image-surrogate": ("ppo", {"image": HALF}),
    "image-number": ("ppo", {"image": 42}),
    "image-empty": ("ppo", {"image": " "}),
    "too-few-markers": ("ppo", {"image": ["000000000000.jpg", "000000000001.jpg"]}),
    "marker-without-image": ("ppo", {"image": None}),
    "type-9": ("ppo", {"caption_type": 9}),
    "type-text": ("ppo", {"caption_type": "GENERAL"}),
    "bonus-nan": ("ppo", {"length_bonus": float("nan")}),
    "bonus-infinite": ("ppo", {"length_bonus": float("-inf")}),
    "bonus-huge": ("ppo", {"length_bonus": 10**400}),
    "bonus-text": ("ppo", {"length_bonus": "1.0"}),
    "bonus-true": ("ppo", {"length_bonus": True}),
    "captions-text": ("ppo", {"captions": "a cat"}),
    "captions-null": ("ppo", {"captions": ["a cat", None]}),
    "captions-surrogate": ("ppo", {"captions": [HALF]}),
    "nested-value": ("reward", '{"preference": ' + "[" * 900 + "]" * 900 + "}"),
    "no-answer-text": ("answers", {"answer": None}),
    "long-question": ("ppo", told(human(f"<image>\n{LONG}"))),
    "long-output": ("reward", {"output_2": gpt(LONG)}),
    "long-row": ("policy", told(*[ASKED, *[gpt("a cat. " * 10), human("what? " * 5)] * 7, gpt("a cat.")])),
    "repeated-id": ("reward", {"id": "row 0"}),
}


def file_with(kind: str, change) -> str:
    """A JSON list of three good rows, and as row 2 one with the change."""
    rows = [json.dumps(row) for row in good_rows(kind)]
    changed = change
    if not isinstance(change, str):
        changed = json.dumps(
            {**good_rows(kind)[0], "id": "bad", **change} if isinstance(change, dict) else change
        )
    if isinstance(change, str):
        changed = json.dumps(good_rows(kind)[0])[:-1].replace('"preference": 1', '"x": 1') + ", " + change[1:]
    return f"[{','.join([*rows[:2], changed, rows[2]])}]"


@pytest.mark.parametrize("case", CASES)
def test_documented(case, world, tmp_path):
    row, (kind, change) = documented(__file__, case), CASES[case]
    path = tmp_path / "rows.json"
    path.write_text(file_with(kind, change))
    if row.accepted:
        dataset = world.build(kind, path)
        assert len(dataset) == 4
        assert row.message.split("`")[1] in format_report(dataset.report)
        return
    if row.skipped == "always dropped":
        dataset = world.build(kind, path)
        assert len(dataset) == 3
        assert row.message.strip("`") in format_report(dataset.report)
        return
    with pytest.raises(DataError, match=rf"rows\.json, row 2, field {row.pattern.removeprefix('(?s)')}"):
        world.build(kind, path)
    dataset = world.build(kind, path, skip_invalid=True)
    assert row.skipped == "drops it"
    assert len(dataset) == 3 and sum(dataset.report.dropped.values()) == 1


def test_nothing_is_left_when_every_row_is_dropped(world, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{**row, "preference": 0} for row in good_rows("reward")]))
    with pytest.raises(DataError):
        world.build("reward", path, skip_invalid=True)

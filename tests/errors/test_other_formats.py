"""Rows that other frameworks write, and pictures where nobody reads them: named once for all rows, never read as text alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_utils.problems import DataError
from data_utils.schema import read_dialogues, read_preferences
from data_utils.summary import format_report
from tests.errors.conftest import MAKE_ROW, good_rows
from tests.errors.documented import documented

PICTURE = "000000000000.jpg"
PARTS = [{"type": "image"}, {"type": "text", "text": "what?"}]
ASKED = {"role": "user", "content": "what?"}
TOLD = {"role": "assistant", "content": "a cat."}
GONE = object()  # takes a field away


def said(text) -> list[dict]:
    return [{"from": "human", "value": text}, {"from": "gpt", "value": "a cat."}]


def moved(**fields) -> dict:
    """A row whose picture stands elsewhere than in `image`, and is marked nowhere."""
    return {"image": GONE, "conversations": said("what?"), **fields}


# case → kind of data, and either the whole row or, in a tuple, what changes in good ones
CASES = {
    "trl": ("reward", {"prompt": [ASKED], "chosen": [TOLD], "rejected": [TOLD], "images": [PICTURE]}),
    "trl-text": ("reward", {"image": PICTURE, "prompt": "what?", "chosen": "a cat.", "rejected": "a dog."}),
    "rlaif-v": ("reward", {"image": PICTURE, "question": "what?", "chosen": "a cat.", "rejected": "a dog."}),
    "rlhf-v": ("reward", {"ds_name": "x", "image_path": PICTURE, "text": '{"question": "what?"}'}),
    "llama-factory": (
        "reward",
        {"conversations": said("<image>what?")[:1], "chosen": {}, "rejected": {}, "images": [PICTURE]},
    ),
    "ms-swift": ("reward", {"messages": [ASKED, TOLD], "rejected_response": "a dog.", "images": [PICTURE]}),
    "vlfeedback": ("reward", {"prompt": "what?", "completions": [{"response": "a cat."}], "image": PICTURE}),
    "dialogues": ("reward", {"image": PICTURE, "conversations": said("<image>what?")}),
    "answers": ("reward", {"image": PICTURE, "question": "what?", "answer": "a cat."}),
    "messages": ("policy", {"messages": [ASKED, TOLD], "images": [PICTURE]}),
    "alpaca": ("policy", {"instruction": "what?", "input": "", "output": "a cat."}),
    "roles": ("policy", {"conversations": [ASKED, TOLD], "image": PICTURE}),
    "parts": ("policy", {"conversations": said(PARTS), "image": PICTURE}),
    "prompts": ("ppo", {"prompt": "what?", "image": PICTURE}),
    "llava-answers": ("answers", {"question_id": 1, "prompt": "what?", "text": "a cat.", "model_id": "x"}),
    "preferences": ("answers", good_rows("reward")[0]),
    "images": ("policy", (moved(images=[PICTURE]),)),
    "image-path": ("reward", (moved(image_path=PICTURE),)),
    "capital": ("ppo", (moved(Image=PICTURE),)),
    "camel": ("policy", (moved(imageFile=PICTURE),)),
    "picture": ("policy", (moved(picture=[PICTURE]),)),
    "file-name": ("policy", (moved(file_name=PICTURE),)),
    "bytes": ("policy", (moved(data={"bytes": "/9j/", "path": None}),)),
    "video": ("policy", (moved(videos=["a.mp4"]),)),
    "image-id": ("answers", ({"image": GONE, "image_id": 9},)),
    "images-answer": ("answers", ({"image": GONE, "images": [PICTURE]},)),
    "in-message": (
        "policy",
        (moved(conversations=[{**said("what?")[0], "image": PICTURE}, *said("")[1:]]),),
    ),
    "both": ("policy", ({"images": ["other.jpg"]},)),
    "image-object": ("policy", ({"image": {"bytes": "/9j/", "path": None}},)),
    "image-base64": ("ppo", ({"image": "iVBORw0KGgo" + "A" * 400},)),
    "image-data-url": ("answers", ({"image": "data:image/png;base64,iVBORw0KGgo" + "A" * 400},)),
    "image-address": ("ppo", ({"image": "https://example.org/a.jpg"},)),
    "other-marker": ("ppo", ({"conversations": said("<Image>\nwhat?")},)),
    "numbered-marker": ("answers", ({"question": "<image_1> what?"},)),
    "capital-key": ("ppo", ({"Caption_type": 6},)),
    "answer-type": ("ppo", ({"answer_type": "NO_IN_YESNO"},)),
}


def written(kind: str, change, path: Path) -> Path:
    """Three rows of the case."""
    rows = [change] * 3
    if isinstance(change, tuple):
        rows = [{**MAKE_ROW[kind](index), **change[0]} for index in (0, 1, 4)]
        rows = [{name: value for name, value in row.items() if value is not GONE} for row in rows]
    path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("case", CASES)
def test_documented(case, world, tmp_path):
    row, (kind, change) = documented(__file__, case), CASES[case]
    path = written(kind, change, tmp_path / "rows.json")
    place = r"3 problems in the data:\n.*rows\.json, row 0 and 2 more like it, field "
    with pytest.raises(DataError, match=place + row.pattern.removeprefix("(?s)")) as refused:
        world.build(kind, path)
    assert len(str(refused.value).splitlines()) == 2  # one sentence for the whole file
    assert row.skipped == "drops it"
    with pytest.raises(DataError, match=row.pattern):  # nothing is left, and why
        world.build(kind, path, skip_invalid=True)
    rows = [*json.loads(path.read_text()), *good_rows(kind)]
    path.write_text(json.dumps(rows))
    dataset = world.build(kind, path, skip_invalid=True)
    assert len(dataset) == 3 and dataset.report.dropped == {"invalid record": 3}


def test_different_faults_are_told_apart(tmp_path, world):
    rows = [
        moved(images=[PICTURE]),
        moved(img=PICTURE),
        moved(images=[PICTURE]),
        {**moved(), "image": 3},
    ]
    rows = [{name: value for name, value in row.items() if value is not GONE} for row in rows]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    with pytest.raises(DataError) as refused:
        world.build("policy", tmp_path / "rows.json")
    lines = str(refused.value).splitlines()
    assert lines[0] == "4 problems in the data:" and len(lines) == 4
    assert "row 0 and 1 more like it, field 'images'" in lines[1]
    assert "row 1, field 'img'" in lines[2] and "row 3, field 'image': value 3" in lines[3]


TEXT_ONLY = [
    moved(images=[]),
    moved(images=None, image_path=""),
    moved(image=None, image_size=[0, 0], has_image=False),
    moved(image=[], image_caption="a cat on a mat", source="ShareGPT", tags=["a", "b"]),
    moved(conversations=said('Why does <img src="a.png"> not show?')),
    moved(conversations=said("Is <b>image</b> an HTML tag? What of a file called a.png?")),
    moved(id="000000000000.jpg"),
]


def test_rows_of_text_alone_stay_allowed_and_are_counted(world, tmp_path):
    rows = [{name: value for name, value in row.items() if value is not GONE} for row in TEXT_ONLY]
    rows += [
        {**MAKE_ROW["policy"](0), "image_path": "/home/a.jpg", "images": [MAKE_ROW["policy"](0)["image"]]}
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    dataset = world.build("policy", tmp_path / "rows.json")
    assert dataset.report.images == (1, len(TEXT_ONLY))
    assert f"  images: 1 rows with, {len(TEXT_ONLY)} without" in format_report(dataset.report)


def test_a_preference_may_end_with_its_question(tmp_path):
    """The last gpt message is a placeholder that each output replaces."""
    whole = good_rows("reward")
    cut = [{**row, "conversations": row["conversations"][:-1]} for row in whole]
    for name, rows in (("whole.json", whole), ("cut.json", cut)):
        (tmp_path / name).write_text(json.dumps(rows))
    (one, problems), (other, more) = (
        read_preferences(tmp_path / name) for name in ("whole.json", "cut.json")
    )
    assert not problems and not more
    assert [row.turns for row in one] == [row.turns for row in other]
    assert {len(row.turns) for row in one} >= {1, 3}
    records, problems = read_dialogues(tmp_path / "cut.json")
    assert not records and len(problems) == 3  # there the answer is what is learnt

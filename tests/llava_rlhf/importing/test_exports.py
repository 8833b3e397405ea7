"""Preferences for other trainers, and back again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_utils.problems import DataError
from data_utils.schema import read_preferences
from llava_rlhf import make_dataset
from llava_rlhf.importing.exports import EXPORTS
from tests.llava_rlhf.importing.cases import gpt, human, write_pictures
from tests.llava_rlhf.importing.test_formats import run
from tests.support.tiny_data import command_line


def ours(name: str, question: str, preference: int, **fields) -> dict:
    return {
        "id": name,
        "conversations": [*fields.pop("before", []), human(question), gpt("placeholder")],
        "output_1": {"from": "llava", "value": "one"},
        "output_2": {"from": "llava", "value": "two"},
        "preference": preference,
        **fields,
    }


FACTS = [{"source": "coco", "object": "cat", "confidence": 1.0}]
ROWS = [
    ours("a", "<image>\nWhat is it?", 1, image="a.png"),
    ours("b", "What is it?", 2, image="a.png"),  # one picture may go unmarked
    ours("c", "Who was first?", 2),
    ours("d", "Compare <image> and <image>.", 1, image=["a.png", "b.png"], captions=["A cat.", "A dog."]),
    ours("e", "And now?", 2, image="b.png", before=[human("<image>\nHello?"), gpt("Hello.")], caption_type=6),
    ours("f", "<image>\n<image>\nWhich?\n", 1, image=["b.png", "a.png"], facts=FACTS),
    ours("g", "What is it?\n<image>", 1, image="a.png"),
]


def export(**flags) -> None:
    make_dataset.run(make_dataset.prepare(["export", *command_line(**flags)]))


@pytest.fixture
def preferences(tmp_path) -> Path:
    path = tmp_path / "preferences.json"
    path.write_text(json.dumps(ROWS))
    return path


def meaning(path: Path) -> list[tuple]:
    """What every reader takes from a preference file, but for which output stands first."""
    records, problems = read_preferences(path)
    assert not problems
    found = []
    for one in records:
        better, worse = one.outputs[one.preference - 1], one.outputs[2 - one.preference]
        texts = [turn.text for turn in one.turns]
        if one.images and not any("<image>" in text for text in texts):
            texts[0] = f"<image>\n{texts[0]}"  # what a single picture without a marker means
        beside = {key: one.extra.get(key) for key in ("caption_type", "facts")}
        beside["facts"] = beside["facts"] or str(getattr(one, "facts", None))
        found.append((one.id, one.images, texts, better, worse, one.captions, beside))
    return found


@pytest.mark.parametrize("format_name", EXPORTS)
def test_there_and_back_again(format_name, preferences, tmp_path):
    there, back = tmp_path / "there.jsonl", tmp_path / "back"
    export(preferences_file=preferences, format=format_name, output_file=there)
    run(
        source=there, output_dir=back, image_folder=write_pictures(tmp_path / "pictures")
    )  # the format is told
    assert meaning(back / "preferences.jsonl") == meaning(preferences)
    # And again: what came of it once stays as it is.
    export(
        preferences_file=back / "preferences.jsonl", format=format_name, output_file=tmp_path / "again.jsonl"
    )
    assert (tmp_path / "again.jsonl").read_text() == there.read_text()


def test_the_rows_are_those_that_the_trainers_read(preferences, tmp_path, capsys):
    rows = {}
    for name in EXPORTS:
        export(
            preferences_file=preferences,
            format=name,
            output_file=tmp_path / f"{name}.jsonl",
            image_folder=tmp_path,
        )
        rows[name] = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
    picture = str(tmp_path / "a.png")
    parts = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    assert rows["trl"][1] == {
        "id": "b",
        "prompt": [{"role": "user", "content": parts}],
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "two"}]}],
        "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "one"}]}],
        "images": [picture],
    }
    assert rows["llama_factory"][1] == {
        "id": "b",
        "conversations": [{"from": "human", "value": "<image>\nWhat is it?"}],
        "chosen": {"from": "gpt", "value": "two"},
        "rejected": {"from": "gpt", "value": "one"},
        "images": [picture],
    }
    assert rows["ms_swift"][1] == {
        "id": "b",
        "messages": [
            {"role": "user", "content": "<image>\nWhat is it?"},
            {"role": "assistant", "content": "two"},
        ],
        "rejected_response": "one",
        "images": [picture],
    }
    entry = json.loads(capsys.readouterr().out.partition("for its dataset_info.json: ")[2].partition("\n")[0])
    assert (
        entry["llama_factory"]["ranking"] is True
        and entry["llama_factory"]["file_name"] == "llama_factory.jsonl"
    )


@pytest.mark.parametrize(
    ("text", "changes", "words"),
    [
        ("[]", {}, "holds no preferences yet"),
        ('[{"preference": 3}]', {}, "row 0, field 'conversations'"),
        ('{"annotations": []}', {}, "holds a JSON object, not a list of rows"),
        (None, {"format": "dpo"}, "--format dpo: must be one of trl, llama_factory, ms_swift"),
        (None, {"image_folder": "/none"}, "--image_folder /none: no such folder"),
        (None, {"output_file": "."}, "is a directory; name a file"),
    ],
)
def test_what_cannot_be_exported_is_refused(text, changes, words, preferences, tmp_path):
    if text is not None:
        preferences.write_text(text)
    output = tmp_path / "there.jsonl"
    flags = {"preferences_file": preferences, "format": "trl", "output_file": output, **changes}
    with pytest.raises((ValueError, DataError), match=words):
        export(**flags)
    assert not output.exists()
    with pytest.raises(ValueError, match="is the preference file"):
        export(preferences_file=preferences, format="trl", output_file=preferences)

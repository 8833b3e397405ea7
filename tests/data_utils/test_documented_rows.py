"""The rows that docs/formats.md shows are read as it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from data_utils.facts import FactBook, MissingCaptions
from data_utils.schema import AnswerType, read_captions, read_dialogues, read_preferences, read_prompts

TEXT = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
EXAMPLES = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)]


@pytest.fixture
def read(tmp_path):
    """read(reader, content): what it makes of a file that it finds no problem in."""

    def _read(reader, content):
        file = tmp_path / "file.json"
        file.write_text(json.dumps(content))
        found, problems = reader(file)
        assert problems == []
        return found

    return _read


def test_every_example_is_valid_and_the_prompt_finds_its_rationale(read):
    preference, dialogue, prompt, captions = EXAMPLES
    assert read(read_preferences, [preference])[0].preference == 1
    assert len(read(read_dialogues, [dialogue])[0].turns) == 2
    (record,) = read(read_prompts, [prompt])
    assert (record.answer_type, record.length_bonus) == (AnswerType.B_IN_ABCD, 1.0) and record.extra == {}
    book = FactBook(read(read_captions, captions), MissingCaptions.ERROR)
    assert book.find(record, record.answer_type) == tuple(captions["aok_000000000009.jpg"])

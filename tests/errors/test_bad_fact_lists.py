"""Facts beside captions, on rows and in a map."""

from __future__ import annotations

import json

import pytest

from data_utils.fact_lists import Fact, FactList
from data_utils.problems import DataError
from llava_rlhf.assembly.roles import load_facts
from llava_rlhf.runs.arguments import FactArguments
from tests.errors.conftest import good_rows
from tests.errors.documented import documented
from tests.support.tiny_data import FACT_PROMPT, PLAIN_PROMPT

DOG = {"source": "boxes", "object": "dog"}
# case → what a row has besides
ROWS = {
    "text": {"facts": "a dog"},
    "fact-text": {"facts": ["a dog"]},
    "no-source": {"facts": [{"object": "dog"}]},
    "nothing-said": {"facts": [{"source": "boxes"}]},
    "two-said": {"facts": [{**DOG, "text": "a dog"}]},
    "percent": {"facts": [{**DOG, "confidence": 90}]},
    "complete-word": {"facts": {"facts": [DOG], "complete": "yes"}},
    "surrogate": {"facts": [{"source": "ocr", "text": "\ud800"}]},
    "other-spelling": {"Facts": [DOG]},
}
COCO = {
    "images": [{"id": 1, "file_name": "a.png"}],
    "annotations": [{"image_id": 1, "category_id": 18}],
    "categories": [{"id": 18, "name": "dog"}],
}
# case → content of the map
MAPS = {
    "map-is-a-list": [DOG],
    "map-of-captions": {"b.png": [DOG], "a.png": ["a dog"]},
    "map-of-coco-captions": {"images": COCO["images"], "annotations": [{"image_id": 1, "caption": "a dog"}]},
    "map-of-coco": COCO,
    "no-placeholder": {"a.png": [DOG]},
}


CASES = (*ROWS, *MAPS)


@pytest.mark.parametrize("kind", ["ppo", "reward", "answers"])
@pytest.mark.parametrize("case", [pytest.param(case, id=case) for case in ROWS])
def test_rows(case, kind, world, tmp_path):
    row = documented(__file__, case)
    rows = good_rows(kind)
    rows[1] |= ROWS[case]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=row.pattern):
        world.build(kind, path)
    assert row.skipped == "drops it" and len(world.build(kind, path, skip_invalid=True)) == 2


@pytest.mark.parametrize("case", CASES)
def test_documented(case, world, tmp_path):
    if case in ROWS:
        test_rows(case, "ppo", world, tmp_path)
        return
    row = documented(__file__, case)
    (tmp_path / "facts.json").write_text(json.dumps(MAPS[case]))
    (tmp_path / "prompt.txt").write_text(PLAIN_PROMPT if case == "no-placeholder" else FACT_PROMPT)
    arguments = FactArguments(
        str(tmp_path / "prompt.txt"),
        image_to_facts_file=str(tmp_path / "facts.json"),
        missing_captions="no_fact",
    )
    if row.accepted:
        facts = load_facts(arguments, False)[0]._facts
        assert facts == {"a.png": FactList((Fact("coco", "object", "dog"),))}
        return
    with pytest.raises(ValueError, match=row.pattern):
        load_facts(arguments, False)
    if row.skipped == "drops it":
        assert list(load_facts(arguments, True)[0]._facts) == ["b.png"]

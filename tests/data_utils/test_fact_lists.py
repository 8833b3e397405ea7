"""Facts beside captions: how they are written, found, shown to the reward model and counted."""

from __future__ import annotations

import json

import pytest

from data_utils.fact_lists import NO_FACTS, Fact, FactList, fact_list, read_facts
from data_utils.facts import FactBook, MissingCaptions
from data_utils.row_fields import BadField
from data_utils.schema import AnswerType, PromptRecord
from data_utils.summary import DataReport, format_report

DOG = {"source": "boxes", "object": "dog", "confidence": 0.9}
ON = {"source": "graph", "relation": ["dog", "on", "couch"]}
SIGN = {"source": "ocr", "text": "EXIT"}


def record(images=("a.png",), captions=None, facts=NO_FACTS):
    return PromptRecord("f", 0, "id", images, (), captions, {}, AnswerType.GENERAL, 1.0, facts=facts)


def test_lists_are_read():
    found = fact_list({"facts": [DOG, ON, SIGN], "complete": True}, "facts")
    assert found.facts == (
        Fact("boxes", "object", "dog", 0.9),
        Fact("graph", "relation", "dog on couch"),
        Fact("ocr", "text", "EXIT"),
    )
    assert found.complete and not fact_list([DOG], "facts").complete
    assert fact_list([], "facts") == FactList()
    assert found.joined(FactList()).complete and FactList().joined(found).facts == found.facts


@pytest.mark.parametrize("value", [[DOG, ON, SIGN], {"facts": [DOG], "complete": True}, []])
def test_what_is_written_is_read_again(value):
    found = fact_list(value, "facts")
    written = found.written()
    assert (written == {}) == (value == [])
    assert fact_list(written.get("facts", []), "facts") == found


@pytest.mark.parametrize(
    ("value", "field", "says"),
    [
        ("a dog", "facts", 'must be a list of {"source"'),
        ({"complete": True}, "facts", "must be a list"),
        ({"facts": [], "complete": 1}, "facts.complete", "must be true or false"),
        (["dog"], "facts[0]", "must be an object"),
        ([{"object": "dog"}], "facts[0].source", "must be a string"),
        ([DOG | {"source": " "}], "facts[0].source", "must name who says it"),
        ([{"source": "boxes"}], "facts[0]", "must say one thing, under text, object or relation; here: none"),
        ([DOG | {"text": "a dog"}], "facts[0]", r"here: \['text', 'object'\]"),
        ([DOG, DOG | {"object": 3}], "facts[1].object", "must be a string"),
        ([DOG | {"object": ""}], "facts[0].object", "must not be empty"),
        ([DOG | {"confidence": 1.5}], "facts[0].confidence", "must be a number from 0 to 1"),
        ([DOG | {"confidence": True}], "facts[0].confidence", "must be a number from 0 to 1"),
        ([DOG | {"Confidence": 0.2}], "Confidence", "spell it confidence"),
        ([ON | {"relation": ["dog", None]}], "facts[0].relation", "must be a string"),
    ],
)
def test_other_values_are_refused(value, field, says):
    with pytest.raises(BadField, match=says) as refused:
        fact_list(value, "facts")
    assert refused.value.field == field


def test_lines_stand_beside_the_captions():
    facts = {"a.png": fact_list([DOG, DOG | {"object": "cat", "confidence": 0.3}], "facts")}
    book = FactBook({"a.png": ("a street",)}, MissingCaptions.ERROR, facts)
    own = fact_list([SIGN], "facts")
    assert book.find(record(facts=own), AnswerType.GENERAL) == ("a street", "boxes: dog", "ocr: EXIT")
    known = book.known(record(facts=own), AnswerType.GENERAL)
    assert [(fact.source, fact.text) for fact in known.facts] == [
        ("caption", "a street"),
        ("boxes", "dog"),
        ("boxes", "cat"),
        ("ocr", "EXIT"),
    ]


def test_a_row_with_other_facts_alone_is_no_miss():
    book = FactBook(None, MissingCaptions.ERROR)
    assert book.find(record(), AnswerType.GENERAL) is None
    assert book.find(record(facts=fact_list([SIGN], "facts")), AnswerType.GENERAL) == ("ocr: EXIT",)


def test_a_map_is_read(tmp_path):
    path = tmp_path / "facts.json"
    path.write_text(json.dumps({"a.png": [DOG], "b.png": "no list"}))
    found, problems = read_facts(path)
    assert found == {"a.png": fact_list([DOG], "")}
    assert [problem.field for problem in problems] == ["b.png"]


def test_instances_of_coco_are_read(tmp_path):
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "categories": [{"id": 18, "name": "dog"}],
        "annotations": [{"image_id": 1, "category_id": 18}, {"image_id": 1, "category_id": 18}],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(coco))
    found, problems = read_facts(path)
    assert problems == [] and found == {
        "a.jpg": FactList((Fact("coco", "object", "dog"),)),
        "b.jpg": FactList(),
    }
    del coco["categories"]
    path.write_text(json.dumps(coco))
    found, (problem,) = read_facts(path)
    assert found == {} and "without instances" in problem.value


def test_the_summary_counts_by_source():
    report = DataReport("f", fact_sources={"caption": (4, 9)})
    assert "by source" not in format_report(report)
    report.fact_sources["boxes"] = (2, 5)
    assert "  facts by source: boxes 5 in 2 rows; caption 9 in 4 rows\n" in format_report(report) + "\n"

"""CHAIR by hand on three images, and which words stand for which object."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava_rlhf.evaluation.benchmarks.chair import Chair
from llava_rlhf.evaluation.score_files import summarise
from llava_rlhf.fact_rewards.object_words import OWN_WORDS, ObjectWords

CATEGORIES = {1: "person", 17: "cat", 18: "dog", 58: "hot dog", 62: "chair", 67: "dining table"}
INSTANCES = {1: [17, 17, 62], 2: [18, 1], 3: []}
CAPTIONS = {
    1: ["A cat sleeps on a chair.", "two kittens at a table"],
    2: ["A man walks his dog."],
    3: ["An empty street.", "A street with a hot dog."],
}


def write_coco(folder: Path) -> list[str]:
    images = [{"id": number, "file_name": f"{number:012d}.jpg"} for number in INSTANCES]
    instances = {
        "images": images,
        "categories": [{"id": number, "name": name} for number, name in CATEGORIES.items()],
        "annotations": [
            {"image_id": image, "category_id": kind} for image, kinds in INSTANCES.items() for kind in kinds
        ],
    }
    captions = {
        "images": images,
        "annotations": [
            {"image_id": image, "caption": text} for image, texts in CAPTIONS.items() for text in texts
        ],
    }
    paths = [folder / "instances.json", folder / "captions.json"]
    for path, content in zip(paths, (instances, captions), strict=True):
        path.write_text(json.dumps(content))
    return [str(path) for path in paths]


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("A man and two women with dogs", ["person", "person", "dog"]),
        ("a hot dog, not a dog", ["hot dog", "dog"]),
        ("Hot dogs on the dining table's edge", ["hot dog", "dining table"]),
        ("a teddy bear and bears", ["teddy bear", "bear"]),
        ("knives, glasses, wine glasses and ponies", ["knife", "wine glass", "horse"]),
        ("couches, benches, buses, a bus; skis", ["couch", "bench", "bus", "bus", "skis"]),
        (
            "a traffic light over a baseball bat and a baseball",
            ["traffic light", "baseball bat", "sports ball"],
        ),
        ("a scarf, a catalogue, the carpet", []),  # parts of words are no words
        ("the dog's bed", ["dog", "bed"]),
        ("", []),
    ],
)
def test_words_and_their_objects(text, objects):
    assert ObjectWords(OWN_WORDS).mentions(text) == objects


def test_our_own_list_has_the_80_objects_of_coco():
    words = ObjectWords(OWN_WORDS)
    assert len(words.names) == 80
    assert all(words.mentions(name) == [name] for name in words.names)


def chair(folder: Path, images: int = 0, **changes) -> Chair:
    settings = {"synonyms_file": None, "question": "Describe.", "seed": 0} | changes
    return Chair(write_coco(folder), images=images, **settings)


def test_numbers_by_hand(tmp_path):
    benchmark = chair(tmp_path)
    items = benchmark.items()
    # Instances and captions together; the kittens are a cat, and "table" comes from a caption.
    assert [item.truth for item in items] == [
        {"cat", "chair", "dining table"},
        {"dog", "person"},
        {"hot dog"},
    ]
    texts = [
        "A cat and a dog on a chair. The dog looks at the cat.",  # cat dog* chair dog* cat: 2 of 5 false
        "A woman with a puppy.",  # person dog: 0 of 2
        "A quiet street at night.",  # nothing is named
    ]
    answers = [{"id": item.id, "answer": text} for item, text in zip(items, texts, strict=True)]
    scores = benchmark.score(answers, False)
    found = summarise(scores.items, list(benchmark.metrics), 100, 0)["all"]
    assert {name: entry["value"] for name, entry in found.items()} == pytest.approx(
        {
            "chair_s": 1 / 3,
            "chair_i": 2 / 7,
            "recall": (2 + 2 + 0) / (3 + 2 + 1),
            "mentions": 7 / 3,
            "words": (14 + 5 + 5) / 3,
        }
    )


def test_without_any_mention_there_is_no_chair_i(tmp_path):
    benchmark = chair(tmp_path)
    answers = [{"id": item.id, "answer": "A street."} for item in benchmark.items()]
    found = summarise(benchmark.score(answers, False).items, list(benchmark.metrics), 100, 0)["all"]
    assert (found["chair_i"]["value"], found["chair_s"]["value"], found["recall"]["value"]) == (None, 0, 0)


def test_images_are_drawn_by_seed(tmp_path):
    assert [item.id for item in chair(tmp_path, 2).items()] == [
        item.id for item in chair(tmp_path, 2).items()
    ]
    drawn = {tuple(item.id for item in chair(tmp_path, 2, seed=seed).items()) for seed in range(20)}
    assert len(drawn) == 3  # all pairs of three images
    with pytest.raises(ValueError, match="--images 4: only 3 images"):
        chair(tmp_path, 4).items()


def test_a_synonyms_file_in_the_published_format(tmp_path):
    path = tmp_path / "synonyms.txt"
    path.write_text("person, man\ncat, kitten, pussycat\ndog\nhot dog\nchair\ndining table, table\n")
    words = ObjectWords(path)
    assert words.mentions("pussycats and women") == ["cat"]
    path.write_text("person, man\ncat, man\n")
    with pytest.raises(ValueError, match="line 2: 'man' stands for 'person' too"):
        ObjectWords(path)
    path.write_text("person\ncat\n")
    with pytest.raises(ValueError, match="no line begins with chair, dining table, dog, hot dog"):
        chair(tmp_path, synonyms_file=str(path)).items()


def test_files_of_another_kind_are_refused(tmp_path):
    instances, captions = write_coco(tmp_path)
    (tmp_path / "other.json").write_text('{"annotations": [{"image_id": 1}]}')
    other = str(tmp_path / "other.json")
    for files, says in [
        ([instances, other], "no caption annotations of COCO .lacks 'caption'"),
        ([other, captions], "no instance annotations"),
        ([instances, str(tmp_path / "none.json")], "no such file"),
    ]:
        with pytest.raises(ValueError, match=says):
            Chair(files, None, "Describe.", 0, 0).items()
    swapped = Chair([captions, instances], None, "Describe.", 0, 0)
    assert swapped.items() == chair(tmp_path).items()

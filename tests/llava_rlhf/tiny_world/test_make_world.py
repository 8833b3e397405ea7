"""The tiny world on disk: valid in the published formats, true, disjoint, reproducible."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_utils import shapes_text
from data_utils.schema import read_captions, read_dialogues, read_preferences, read_prompts
from data_utils.shapes_files import ask, parse_question, preference_row, read_scenes
from data_utils.shapes_world import render, sample_scene
from llava_rlhf.tiny_world import lessons, make_world

SMALL = {"train_images": 6, "init_images": 5, "preference_images": 4, "ppo_images": 60, "eval_images": 8}


def flags(folder: Path, **settings: object) -> list[str]:
    return [
        part for key, value in {"output_dir": folder, **settings}.items() for part in (f"--{key}", str(value))
    ]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("a world")
    make_world.make_world(make_world.prepare(flags(folder, seed=3, **SMALL)))
    return folder


def test_every_file_is_valid_in_the_published_schema(world):
    files = {"sft.json": read_dialogues, "policy_init.json": read_dialogues}
    files |= dict.fromkeys(
        ("preference_prompts.json", "prompts.json", "eval.json", "describe.json"), read_prompts
    )
    scenes = read_scenes(world / "scenes.json")
    captions, problems = read_captions(world / "image_to_caption.json")
    assert problems == [] and set(captions) == {key for name in scenes for key in (name, f"aok_{name}")}
    for name, read in files.items():
        records, problems = read(world / name)
        assert problems == [] and len(records) == len(json.loads((world / name).read_text()))
        assert all((world / "images" / image).is_file() for record in records for image in record.images)
        assert all(image in scenes for record in records for image in record.images)


def test_a_preference_row_is_valid_in_the_published_schema(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    while len(rows) < 20:
        scene = sample_scene(rng)
        question = ask(lessons.KINDS[len(rows) % 3], scene.names, rng)
        pair = tuple(lessons.flawed_answer(question, scene.names, rng) for _ in range(2))
        row = preference_row(str(len(rows)), "1.png", scene, question, pair, rng)
        rows += [row] if row else []
    (tmp_path / "preferences.json").write_text(json.dumps(rows))
    records, problems = read_preferences(tmp_path / "preferences.json")
    assert problems == [] and [record.preference for record in records] == [row["preference"] for row in rows]


def test_all_seven_answer_types_occur_and_each_says_the_truth(world):
    scenes = read_scenes(world / "scenes.json")
    rows = json.loads((world / "prompts.json").read_text())
    assert set(Counter(row["caption_type"] for row in rows)) == set(range(1, 8))
    for row in rows:
        question = parse_question(
            row["conversations"][0]["value"], row["caption_type"], scenes[row["image"]].names
        )
        assert question.truth == row["conversations"][1]["value"]
        assert shapes_text.answer_quality(question, scenes[row["image"]].names, question.truth) == 1.0


def test_splits_are_disjoint_and_do_not_depend_on_each_others_size():
    splits = {split: make_world.split_scenes(0, split, 300) for split in make_world.SPLITS}
    numbers = [number for scenes in splits.values() for number in scenes]
    scenes = [scene for part in splits.values() for scene in part.values()]
    assert len(set(numbers)) == len(numbers) == 1500
    assert len(set(scenes)) == 1500
    shorter = make_world.split_scenes(0, "ppo", 20)
    assert list(splits["ppo"].items())[:20] == list(shorter.items())
    assert set(make_world.split_scenes(1, "ppo", 300).values()).isdisjoint(splits["ppo"].values())


def test_a_world_is_the_same_for_the_same_seed_and_pictures_match_their_scenes(world, tmp_path):
    make_world.make_world(make_world.prepare(flags(tmp_path, seed=3, **SMALL)))
    files = sorted(path.relative_to(world) for path in world.rglob("*.*") if path.name != "world.json")
    digests = [
        [hashlib.sha256((folder / f).read_bytes()).digest() for f in files] for folder in (world, tmp_path)
    ]
    assert len(files) > 80 and digests[0] == digests[1]
    for name, scene in list(read_scenes(world / "scenes.json").items())[:5]:
        with Image.open(world / "images" / name) as picture:
            assert np.array_equal(np.asarray(picture), np.asarray(render(scene, 0.4)))


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("describe_share", 0.95, "at most 1"),
        ("noise", -1, "at least 0"),
        ("clean", 2, "from 0 to 1"),
        ("eval_images", 0, "1 to"),
    ],
)
def test_settings_that_make_no_world_are_refused(tmp_path, setting, value, message):
    with pytest.raises(ValueError, match=message):
        make_world.prepare(flags(tmp_path, **{setting: value}))


def test_an_unknown_flag_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="unknown flag --nois; the closest flag is --noise"):
        make_world.prepare([*flags(tmp_path), "--nois", "0.2"])

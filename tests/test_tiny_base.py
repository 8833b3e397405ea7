"""The tiny world on disk, its tokenizer, and what the shipped base can do."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from data_utils import shapes_text
from data_utils.conversation import TEMPLATES, dialogue_segments
from data_utils.facts import RewardPrompt
from data_utils.schema import Turn, read_captions, read_dialogues, read_preferences, read_prompts
from data_utils.shapes_files import ask, parse_question, preference_row, read_scenes
from data_utils.shapes_world import NAMES, render, sample_scene
from data_utils.tokens import SegmentEncoder
from llava_rlhf.tiny_world import curriculum, lessons, make_world
from llava_rlhf.tiny_world.measure import measure
from llava_rlhf.tiny_world.tokenizer import build_tokenizer, vocabulary

ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / "scripts" / "tiny" / "base"
PROMPTS = tuple(
    RewardPrompt.from_file(ROOT / "prompts" / f"tiny_{kind}reward_prompt.txt") for kind in ("", "fact_")
)
SMALL = {"train_images": 6, "init_images": 5, "preference_images": 4, "ppo_images": 60, "eval_images": 8}


def flags(folder: Path, **settings: object) -> list[str]:
    return [
        part for key, value in {"output_dir": folder, **settings}.items() for part in (f"--{key}", str(value))
    ]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("a world")
    make_world.main(flags(folder, seed=3, **SMALL))
    return folder


@pytest.fixture(scope="module")
def teacher() -> lessons.Teacher:
    return lessons.Teacher(build_tokenizer(), *PROMPTS)


# --- the world's files


def test_every_file_is_valid_in_the_published_schema(world):
    files = {"sft.json": read_dialogues, "policy_init.json": read_dialogues}
    files |= dict.fromkeys(("preference_prompts.json", "prompts.json", "eval.json"), read_prompts)
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
    make_world.main(flags(tmp_path, seed=3, **SMALL))
    files = sorted(path.relative_to(world) for path in world.rglob("*.*") if path.name != "world.json")
    digests = [
        [hashlib.sha256((folder / f).read_bytes()).digest() for f in files] for folder in (world, tmp_path)
    ]
    assert len(files) > 80 and digests[0] == digests[1]
    from PIL import Image

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
        make_world.main(flags(tmp_path, **{setting: value}))


def test_an_unknown_flag_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="unknown flag --nois; the closest flag is --noise"):
        make_world.main([*flags(tmp_path), "--nois", "0.2"])


# --- the tokenizer


def world_texts() -> list[str]:
    rng = np.random.default_rng(1)
    texts = []
    for _ in range(150):
        names = sample_scene(rng).names
        for kind in lessons.KINDS:
            question = ask(kind, names, rng)
            texts += [question.text, question.truth, lessons.flawed_answer(question, names, rng)]
        texts += [*shapes_text.captions(names, rng), shapes_text.rationale(names[0])]
        texts += [prompt.render(shapes_text.captions(names, rng)).strip() for prompt in PROMPTS]
    return [*texts, shapes_text.description([]), *(shapes_text.description([name]) for name in NAMES)]


def test_every_sentence_survives_text_to_ids_to_text():
    tokenizer = build_tokenizer()
    encoder = SegmentEncoder(tokenizer, tokenizer.convert_tokens_to_ids("<image>"))
    texts = world_texts()
    assert len(texts) > 1000
    for text in texts:
        for ids in (encoder.encode_reward_prompt(f" {text}"), encoder.encode_response(text)):
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text


def test_a_whole_conversation_has_no_unknown_token_and_reads_as_specified():
    tokenizer = build_tokenizer()
    encoder = SegmentEncoder(tokenizer, 3)
    turns = [Turn("human", "what is in the image?"), Turn("gpt", "the image shows a red-circle.")] * 2
    ids = encoder.encode(dialogue_segments(TEMPLATES["tiny"], turns, 1)).ids
    assert 0 not in ids
    # Only after a control token does decoding show the space that a sentencepiece text starts with.
    assert encoder.decode(ids) == (
        "<s> USER: <image>\nwhat is in the image? ASSISTANT: the image shows a red-circle.</s>"
        "USER: what is in the image? ASSISTANT: the image shows a red-circle.</s>"
    )


def test_control_tokens_have_the_published_ids_and_a_name_is_one_token():
    tokenizer = build_tokenizer()
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id) == (0, 0)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    assert len(tokenizer) == len(vocabulary()) == len(set(vocabulary()))
    assert all(len(tokenizer(name, add_special_tokens=False).input_ids) == 1 for name in NAMES)


def test_without_facts_the_factual_prompt_reads_like_the_plain_one():
    assert PROMPTS[1].uses_facts and not PROMPTS[0].uses_facts
    assert (
        PROMPTS[1].render(None) == PROMPTS[0].render(None) == " USER: is the answer right?\nASSISTANT: score"
    )


# --- the lessons of the base


def test_a_check_list_says_what_is_in_the_picture(teacher):
    tokenizer, rng = build_tokenizer(), np.random.default_rng(2)
    for _ in range(20):
        scene = sample_scene(rng)
        lesson = teacher.check_list(scene, rng)
        words = tokenizer.convert_ids_to_tokens(lesson.ids)
        assert words[:4] == ["<s>", "▁USER", ":", "▁"] and words[4:8] == ["<image>"] * 4
        for name, verdict in zip(words[8::2], words[9::2], strict=True):
            assert (verdict == "▁Yes") == (name[1:] in scene.names)
        assert lesson.weights == [0.0] * 8 + [0.0, 1.0] * 10


def test_only_answers_are_learned_and_the_deciding_words_weigh_most(teacher):
    tokenizer, rng = build_tokenizer(), np.random.default_rng(3)
    scene = sample_scene(rng)
    lesson = teacher.dialogue(scene, [shapes_text.yes_no_question(scene.names, False, rng)])
    words = tokenizer.convert_ids_to_tokens(lesson.ids)
    weighed = [(word, weight) for word, weight in zip(words, lesson.weights, strict=True) if weight]
    asked = words[words.index("▁a") + 1]
    assert weighed == [
        ("▁No", 1.0), (",", 1.0), ("▁there", 0.1), ("▁is", 0.1), ("▁no", 0.1), (asked, 1.0), (".", 1.0), ("</s>", 1.0)
    ]  # fmt: skip


def test_object_targets_by_hand(teacher):
    red, blue = teacher.name_ids["red-circle"], teacher.name_ids["blue-square"]
    lesson = lessons.Lesson([9, red, blue, red], [0.0] * 4, None, ("red-circle",))
    where, truth = curriculum.object_targets(torch.tensor([lesson.ids]), [lesson], teacher.name_ids)
    assert where.tolist() == [[False, True, True, True]]
    # (in the picture, named before): red yes/no, blue no/no, red yes/yes.
    assert truth.tolist() == [[1, 0], [0, 0], [1, 1]]


# --- the shipped base


def test_the_shipped_base_describes_held_out_pictures():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration.from_pretrained(BASE)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert sum(parameter.numel() for parameter in model.parameters()) < 400_000
    skill = measure(model, tokenizer, noise=0.2, count=128, seed=12345)
    assert skill.recall_greedy >= 0.90, skill
    assert skill.hallucinating_greedy <= 0.20, skill
    assert skill.yes_no >= 0.90, skill
    assert skill.choice >= 0.90, skill
    # Seeing is what limits it: without a picture worth looking at, the same model is far worse.
    blind = measure(model, tokenizer, noise=2.0, count=128, seed=12345)
    assert blind.yes_no < skill.yes_no - 0.2, blind
    assert blind.recall_greedy < 0.6, blind


def test_the_build_script_works_from_any_directory_with_spaces(tmp_path):
    printer = tmp_path / "print arguments"
    printer.write_text('#!/usr/bin/env bash\npwd\nprintf "%s\\n" "$@"\n')
    printer.chmod(0o755)
    (tmp_path / "some where").mkdir()
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "tiny" / "build_base.sh")],
        cwd=tmp_path / "some where",
        env={**os.environ, "PYTHON": str(printer), "SEED": "5", "OUTPUT_DIR": "new base"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        str(ROOT),
        "-m",
        "llava_rlhf.tiny_world.build_base",
        "--output_dir",
        str(tmp_path / "some where" / "new base"),
        "--seed",
        "5",
    ]

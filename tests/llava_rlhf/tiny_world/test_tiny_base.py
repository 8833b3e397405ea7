"""The tiny base: its tokenizer, its lessons, and what the shipped model can do."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration

from data_utils import shapes_text
from data_utils.conversation import TEMPLATES, dialogue_segments, query_segments
from data_utils.facts import RewardPrompt
from data_utils.schema import Turn
from data_utils.shapes_files import ask
from data_utils.shapes_world import NAMES, PlacedObject, Scene, render, sample_scene
from data_utils.tokens import SegmentEncoder
from llava_rlhf.tiny_world import build_base, curriculum, lessons
from llava_rlhf.tiny_world.kinds import KINDS
from llava_rlhf.tiny_world.measure import measure
from llava_rlhf.tiny_world.noisy_llava import build_image_processor, build_model
from llava_rlhf.tiny_world.plan import NOTHING_TO_SEE, Plan
from llava_rlhf.tiny_world.tokenizer import build_tokenizer, vocabulary
from models.base_files import read_family

ROOT = Path(__file__).resolve().parents[3]
BASE = ROOT / "scripts" / "tiny" / "base"
KIND = KINDS["llava"]
PROMPTS = tuple(
    RewardPrompt.from_file(ROOT / "prompts" / f"tiny_{kind}reward_prompt.txt") for kind in ("", "fact_")
)


@pytest.fixture(scope="module")
def teacher() -> lessons.Teacher:
    return lessons.Teacher(KIND, read_family(BASE), build_tokenizer(), PROMPTS)


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
    return [
        *texts,
        "the correct option is B.",
        shapes_text.description([]),
        *(shapes_text.description([name]) for name in NAMES),
    ]


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


def test_plain_transformers_reads_a_prompt_as_the_programs_do():
    """An exported model must see what it was trained on; an image is one id here, and one a patch there."""
    processor = AutoProcessor.from_pretrained(BASE)
    question = "is there a red-circle in the image?"
    text = f"USER: <image>\n{question} ASSISTANT:"
    ids = processor(images=Image.new("RGB", (32, 32)), text=text)["input_ids"][0]
    encoder = SegmentEncoder(processor.tokenizer, processor.tokenizer.convert_tokens_to_ids("<image>"))
    turns = [Turn("human", f"<image>\n{question}")]
    expected = list(encoder.encode(query_segments(TEMPLATES["tiny"], turns, 1)).ids)
    place = expected.index(encoder.image_token_id)
    assert ids == [*expected[:place], *[expected[place]] * 4, *expected[place + 1 :]]


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


def test_cell_classes_by_hand():
    scene = Scene((PlacedObject("red-circle", 1, 0, 0, 5), PlacedObject(NAMES[23], 2, 0, 0, 5)), 0)
    assert KIND.classes(scene) == [24, 0, 23, 24]


def new_curriculum(teacher: lessons.Teacher, model: LlavaForConditionalGeneration) -> curriculum.Curriculum:
    plan = Plan(
        naming_steps=80, naming_batch=64, checking_steps=1, mixture_steps=2, batch=6, noise=(0.0, 0.0)
    )
    return curriculum.Curriculum(model, teacher, plan, seed=0)


def test_naming_is_learned_and_then_frozen_while_the_language_model_learns(teacher):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_model(build_tokenizer())
    lesson_plan = new_curriculum(teacher, model)
    # A scene has two objects in four cells on average: saying "nothing" everywhere would give 0.5.
    assert lesson_plan.name_things() > 0.7
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reports = list(lesson_plan.learn_language())
    assert [step for step, _ in reports] == [1, 3]
    assert set(reports[-1][1]) == {"dialogue", "check", "grades", "grades_facts"}
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any("vision_tower" in name or "projector" in name for name in changed)
    assert {name for name in after if "language_model.layers" in name and "proj" in name} <= changed


def test_without_matching_nothing_asks_for_a_word_in_the_picture(teacher, monkeypatch):
    torch.manual_seed(0)
    plan = Plan(mixture_steps=2, batch=12).without_matching()
    asked, pictures = [], []
    dialogue, pixels = lessons.Teacher.dialogue, type(KIND).pixels

    def noted(self, scene, questions):
        asked.extend(questions)
        return dialogue(self, scene, questions)

    def seen(self, scenes, noise, rng):
        pictures.append(noise)
        return pixels(self, scenes, noise, rng)

    def never(*_):
        raise AssertionError("a check list")

    monkeypatch.setattr(lessons.Teacher, "dialogue", noted)
    monkeypatch.setattr(lessons.Teacher, "check_list", never)
    monkeypatch.setattr(type(KIND), "pixels", seen)
    reports = list(curriculum.Curriculum(build_model(build_tokenizer()), teacher, plan, 0).learn_language())
    assert [(step, set(losses)) for step, losses in reports] == [(2, {"dialogue", "grades_facts"})]
    assert len(asked) == 24 and {question.kind for question in asked} == {shapes_text.DESCRIBE}
    assert pictures == [Plan().noise, NOTHING_TO_SEE] * 2  # what a caption grades, no picture does


def test_a_stage_that_is_left_out_has_no_steps():
    with pytest.raises(ValueError, match=r"--checking_steps 5: there are none with --matching False"):
        build_base.prepare(["--output_dir", "x", "--matching", "False", "--checking_steps", "5"])


def test_lessons_go_through_the_model_as_the_programs_feed_it(teacher):
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration.from_pretrained(BASE)
    rng = np.random.default_rng(4)
    scenes = [sample_scene(rng) for _ in range(3)]
    batch = lessons.batch_lessons([teacher.graded(scene, rng, with_facts=True) for scene in scenes])
    with torch.no_grad():
        mine = new_curriculum(teacher, model)._hidden(scenes, batch, (0.0, 0.0))
    pixels = build_image_processor()(
        [render(scene, 0.0) for scene in scenes], return_tensors="pt"
    ).pixel_values
    with torch.no_grad():
        theirs = model(input_ids=batch.ids, pixel_values=pixels, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)  # atol: sums of 64 values of size ~5


# --- the shipped base


def test_the_shipped_base_describes_held_out_pictures():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration.from_pretrained(BASE)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert sum(parameter.numel() for parameter in model.parameters()) < 400_000
    skill = measure(KIND, model, tokenizer, noise=0.2, count=128, seed=12345)
    assert skill.recall_greedy >= 0.90, skill
    assert skill.hallucinating_greedy <= 0.20, skill
    assert skill.yes_no >= 0.90, skill
    assert skill.choice >= 0.90, skill
    # Seeing is what limits it: without a picture worth looking at, the same model is far worse.
    blind = measure(KIND, model, tokenizer, noise=2.0, count=128, seed=12345)
    assert blind.yes_no < skill.yes_no - 0.2, blind
    assert blind.recall_greedy < 0.6, blind


def test_the_build_script_works_from_any_directory_with_spaces(tmp_path):
    printer = tmp_path / "print arguments"
    printer.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
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
        "-m",
        "llava_rlhf.tiny_world.build_base",
        "--family",
        "llava",
        "--output_dir",
        str(tmp_path / "some where" / "new base"),
        "--seed",
        "5",
    ]

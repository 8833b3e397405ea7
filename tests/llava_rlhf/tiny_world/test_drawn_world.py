"""The second tiny world: what its base is taught, and that the programs feed it the same."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from data_utils.conversation import dialogue_segments
from data_utils.facts import RewardPrompt
from data_utils.schema import Turn
from data_utils.shapes_drawings import Drawing, draw, sample_drawing
from data_utils.shapes_files import ask, read_scenes
from data_utils.shapes_world import NAMES
from data_utils.tokens import SegmentEncoder
from llava_rlhf.assembly.chat_templates import read_pieces
from llava_rlhf.tiny_world import build_base, curriculum, lessons, make_world
from llava_rlhf.tiny_world.drawn_qwen import build_image_processor
from llava_rlhf.tiny_world.kinds import KINDS
from llava_rlhf.tiny_world.measure import measure
from llava_rlhf.tiny_world.plan import Plan
from models.families.registry import FAMILIES, family_of
from models.vlm import BaseSettings, load_base, load_image_processor, load_tokenizer
from tests.house.rooms import ROOT

BASE = ROOT / "scripts" / "tiny" / "base-qwen2_5_vl"
BASE = ROOT / "scripts" / "tiny" / "base-qwen2_5_vl"
KIND = KINDS["qwen2_5_vl"]
PROMPTS = tuple(
    RewardPrompt.from_file(ROOT / "prompts" / f"tiny_{kind}reward_prompt.txt") for kind in ("", "fact_")
)


@pytest.fixture(scope="module")
def tokenizer():
    return KIND.build_tokenizer()


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    return KIND.build_model(tokenizer)


@pytest.fixture
def teacher(model, tokenizer) -> lessons.Teacher:
    return lessons.Teacher(KIND, family_of(model.config), tokenizer, PROMPTS)


def scenes_of(count: int, seed: int) -> list[Drawing]:
    rng = np.random.default_rng(seed)
    return [sample_drawing(rng) for _ in range(count)]


def test_every_family_with_a_tiny_world_is_offered_and_known():
    assert tuple(KINDS) == build_base.FAMILIES
    assert set(KINDS) <= set(FAMILIES)


def test_another_family_is_refused_with_the_list():
    with pytest.raises(ValueError, match=r"--family qwen3_vl: .* choose llava or qwen2_5_vl"):
        build_base.prepare(["--output_dir", "x", "--family", "qwen3_vl"])


def said_in_the_world() -> list[str]:
    """Questions, answers and reward prompts: what begins a text."""
    rng, texts = np.random.default_rng(1), []
    for scene in scenes_of(100, 1):
        for kind in lessons.KINDS:
            question = ask(kind, scene.names, rng)
            texts += [question.text, question.truth, lessons.flawed_answer(question, scene.names, rng)]
            facts = lessons.reward_prompt_facts(question, scene.names, rng)
            texts += [prompt.render(facts).strip() for prompt in PROMPTS]
    return texts


def test_every_sentence_survives_text_to_ids_to_text(tokenizer):
    encoder = SegmentEncoder(tokenizer, tokenizer.convert_tokens_to_ids("<|image_pad|>"))
    for text in said_in_the_world():
        ids = list(encoder.encode(KIND.template.answer(text)).ids)
        assert tokenizer.unk_token_id not in ids, text
        assert tokenizer.decode(ids) == text


def test_lessons_are_written_as_programs_write_with_version_chat(tmp_path, model, tokenizer):
    KIND.save_base(model, tokenizer, tmp_path / "base")
    read = load_tokenizer(tmp_path / "base")
    family = family_of(model.config)
    encoder = SegmentEncoder(read, family.image_token_id)
    assert read_pieces(tmp_path / "base", read, encoder, family, None) == KIND.template
    turns = [Turn("human", "what is in the image?"), Turn("gpt", "the image shows a red-circle.")] * 2
    ids = encoder.encode(dialogue_segments(KIND.template, turns, 0)).ids
    messages = [
        {"role": {"human": "user", "gpt": "assistant"}[turn.role], "content": turn.text} for turn in turns
    ]
    whole = read.apply_chat_template(messages, tokenize=False)
    assert list(ids) == read(whole.rstrip("\n"), add_special_tokens=False).input_ids
    assert read.unk_token_id not in ids


def test_pixels_and_places_are_those_of_the_saved_processor(tmp_path, model, tokenizer):
    KIND.save_base(model, tokenizer, tmp_path / "base")
    processor = load_image_processor(tmp_path / "base")
    family = family_of(model.config)
    scenes = scenes_of(20, 3)
    mine = KIND.pixels(scenes, (0.0, 0.0), np.random.default_rng(0))
    theirs = processor([draw(scene, 0.0) for scene in scenes], return_tensors="pt")
    assert [KIND.grid(scene) for scene in scenes] == list(family.grids(theirs))
    # Bytes between: the processor resizes, and keeps bytes, too.
    torch.testing.assert_close(mine, theirs["pixel_values"], rtol=0, atol=1e-5)
    for scene in scenes:
        positions = family.positions(processor, (scene.width, scene.height)) - 2  # two marks
        assert 9 <= positions == len(KIND.classes(scene)) <= 20


def test_an_object_lies_where_its_centre_is():
    for scene in scenes_of(50, 4):
        _, rows, columns = KIND.grid(scene)
        places = np.array(KIND.classes(scene)).reshape(rows // 2, columns // 2)
        assert (places < 24).sum() == len(scene.objects)
        for placed in scene.objects:
            row, column = (
                int(at / side * count)
                for at, side, count in zip(
                    (placed.y, placed.x), (scene.height, scene.width), places.shape, strict=True
                )
            )
            assert NAMES[places[row, column]] == placed.name


def test_a_check_list_says_what_is_in_the_picture(teacher, tokenizer):
    rng = np.random.default_rng(2)
    for scene in scenes_of(10, 2):
        lesson = teacher.check_list(scene, rng)
        words = tokenizer.convert_ids_to_tokens(lesson.ids)
        count = len(KIND.classes(scene))
        start = words.index("<|vision_start|>")
        assert words[start : start + count + 2] == [
            "<|vision_start|>", *["<|image_pad|>"] * count, "<|vision_end|>"
        ]  # fmt: skip
        checks = words[start + count + 2 :]
        assert len(checks) == 20
        for name, verdict in zip(checks[::2], checks[1::2], strict=True):
            assert (verdict == "▁Yes") == (name[1:] in scene.names)


def small_curriculum(model, teacher, **changes) -> curriculum.Curriculum:
    numbers = {"naming_steps": 2, "naming_batch": 4, "checking_steps": 1, "mixture_steps": 2, "batch": 6}
    plan = Plan(**{**numbers, "noise": (0.0, 0.0), "scenes": 30, **changes})
    return curriculum.Curriculum(model, teacher, plan, seed=0)


def test_lessons_go_through_the_model_as_transformers_feeds_it(model, teacher):
    rng = np.random.default_rng(4)
    scenes = scenes_of(3, 5)
    batch = lessons.batch_lessons([teacher.graded(scene, rng, with_facts=True) for scene in scenes])
    with torch.no_grad():
        mine = small_curriculum(model, teacher)._hidden(scenes, batch, (0.0, 0.0))
        theirs = model(
            input_ids=batch.ids,
            pixel_values=KIND.pixels(scenes, (0.0, 0.0), rng),
            **KIND.native(batch.ids, [KIND.grid(scene) for scene in scenes]),
            output_hidden_states=True,
        ).hidden_states[-1]
    for row, last in enumerate(batch.last.tolist()):  # padding stands behind
        torch.testing.assert_close(mine[row, : last + 1], theirs[row, : last + 1], rtol=1e-5, atol=1e-5)


def test_a_frozen_tower_is_asked_once_about_each_picture(model, teacher, monkeypatch):
    course = small_curriculum(model, teacher)
    course.name_things()
    seen = []
    pixels = type(KIND).pixels

    def counting(self, scenes, noise, rng):
        seen.extend(scenes)
        return pixels(self, scenes, noise, rng)

    monkeypatch.setattr(type(KIND), "pixels", counting)
    with torch.no_grad():
        first = course._encode(course.known[:5], (0.0, 0.0))
        assert torch.equal(first, course._encode(course.known[:5], (0.0, 0.0)))
        assert seen == course.known[:5]
        noisy = course._encode(course.known[:5], (0.3, 0.3))
    assert len(seen) == 10 and not torch.allclose(first, noisy)


def test_the_tower_learns_first_and_the_language_model_then(model, teacher):
    course = small_curriculum(model, teacher)
    begin = {name: value.clone() for name, value in model.state_dict().items()}
    course.name_things()
    named = {name: value.clone() for name, value in model.state_dict().items()}
    changed = {name for name in begin if not torch.equal(begin[name], named[name])}
    assert changed and all(name.startswith("model.visual.") for name in changed)
    reports = list(course.learn_language())
    assert set(reports[-1][1]) == {"dialogue", "check", "grades", "grades_facts"}
    after = model.state_dict()
    changed = {name for name in named if not torch.equal(named[name], after[name])}
    assert not any("visual" in name for name in changed)
    assert {name for name in after if "language_model.layers" in name and "proj.weight" in name} <= changed


# --- the world on disk


def test_a_world_of_drawings_is_written_and_read_back(tmp_path):
    small = {"train_images": 3, "init_images": 2, "preference_images": 2, "ppo_images": 2, "eval_images": 6}
    flags = [part for name, count in small.items() for part in (f"--{name}", str(count))]
    settings = make_world.prepare(["--output_dir", str(tmp_path / "w"), "--pictures", "drawn", *flags])
    assert settings.noise == 0.0
    world = make_world.make_world(settings)
    scenes = read_scenes(world / "scenes.json")
    assert len(scenes) == 15
    for name, scene in scenes.items():
        with Image.open(world / "images" / name) as image:
            assert image.size == (scene.width, scene.height)
            assert np.array_equal(image, draw(scene, 0.0))
    assert len({(scene.width, scene.height) for scene in scenes.values()}) > 10
    written = json.loads((world / "world.json").read_text())
    assert (written["pictures"], written["noise"]) == ("drawn", 0.0)
    asked = json.loads((world / "eval.json").read_text())
    assert {tuple(row["objects"]) for row in asked} == {
        scene.names for name, scene in scenes.items() if name in {row["image"] for row in asked}
    }


def test_noise_of_either_world_is_its_own_unless_it_is_given():
    def noise(*flags: str) -> float:
        return make_world.prepare(["--output_dir", "x", *flags]).noise

    assert (noise(), noise("--pictures", "drawn")) == (0.4, 0.0)
    assert noise("--noise", "0.3") == noise("--pictures", "drawn", "--noise", "0.3") == 0.3


def test_pictures_of_no_world_are_refused_with_the_list():
    with pytest.raises(ValueError, match="--pictures painted — choose noisy or drawn"):
        make_world.prepare(["--output_dir", "x", "--pictures", "painted"])


# --- the shipped base


@pytest.mark.slow
def test_the_shipped_base_describes_held_out_drawings():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = load_base(BASE, BaseSettings()).model
    tokenizer = load_tokenizer(BASE)
    assert tokenizer.get_vocab() == KIND.build_tokenizer().get_vocab()
    assert sum(parameter.numel() for parameter in model.parameters()) < 460_000
    skill = measure(KIND, model, tokenizer, noise=0.0, count=128, seed=12345)
    assert skill.recall_greedy >= 0.75, skill
    assert skill.hallucinating_greedy <= 0.25, skill
    assert skill.yes_no >= 0.92, skill
    assert skill.choice >= 0.90, skill
    # Seeing is what limits it: without a picture worth looking at, the same model is far worse.
    blind = measure(KIND, model, tokenizer, noise=1.0, count=128, seed=12345)
    assert blind.yes_no < skill.yes_no - 0.2, blind
    assert blind.recall_greedy < 0.3, blind


def test_the_shipped_processor_is_the_builders():
    assert load_image_processor(BASE).to_dict() == build_image_processor().to_dict()

"""The tiny world: pictures, oracle, sentences, rows."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from data_utils import shapes_files, shapes_text
from data_utils.shapes_files import AnnotationNoise, parse_question, preference_row, synthetic_answer
from data_utils.shapes_text import Question, answer_quality, is_correct
from data_utils.shapes_world import (
    BACKGROUND,
    COLOURS,
    NAMES,
    PlacedObject,
    Scene,
    measure_description,
    mentioned_objects,
    render,
    render_clean,
    sample_scene,
)

TRUTH = ("red-circle", "blue-square")


def scene_of(*names: str) -> Scene:
    return Scene(tuple(PlacedObject(name, cell, 0.0, 0.0, 5.0) for cell, name in enumerate(names)), 7)


def test_the_same_seed_gives_the_same_pixels_and_another_seed_does_not():
    first, again, other = (
        np.asarray(render(sample_scene(np.random.default_rng(seed)), 0.4)) for seed in (3, 3, 4)
    )
    assert first.shape == (32, 32, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_an_object_is_drawn_in_its_cell_and_its_colour():
    pixels = render_clean(scene_of("red-square", "blue-circle"))
    assert tuple(pixels[8, 8]) == COLOURS["red"]
    assert tuple(pixels[8, 24]) == COLOURS["blue"]
    assert (pixels[16:] == BACKGROUND).all()


def test_all_24_objects_look_different():
    pictures = {render_clean(scene_of(name)).tobytes() for name in NAMES}
    assert len(pictures) == 24


def test_noise_has_the_standard_deviation_it_says():
    # Small enough that nothing is clipped: 0.05 * 255 = 12.75 grey levels around 90.
    scene = Scene((), 1)
    pixels = np.asarray(render(scene, 0.05), dtype=float)
    assert pixels.std() == pytest.approx(12.75, rel=0.05)
    assert np.array_equal(np.asarray(render(scene, 0.0)), render_clean(scene))
    with pytest.raises(ValueError, match="noise -1"):
        render(scene, -1)


def test_sampled_scenes_keep_the_rules_of_the_world():
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(500)]
    for scene in scenes:
        cells = [placed.cell for placed in scene.objects]
        assert cells == sorted(set(cells)) and len(set(scene.names)) == len(scene.names)
    assert set(Counter(len(scene.objects) for scene in scenes)) == {1, 2, 3}
    assert {name for scene in scenes for name in scene.names} == set(NAMES)


# --- the oracle


@pytest.mark.parametrize(
    ("text", "false", "recalled", "repeats", "quality"),
    [
        ("", (), (), 0, 0.0),
        ("the image shows a red-circle and a blue-square.", (), TRUTH, 0, 1.0),
        ("red-circle", (), ("red-circle",), 0, 0.5),
        ("RED-CIRCLE,blue-square", (), TRUTH, 0, 1.0),
        ("a red-circle a red-circle a red-circle", (), ("red-circle",), 2, -0.5),
        (
            "a red-circle and a white-cross and a green-cross",
            ("white-cross", "green-cross"),
            ("red-circle",),
            0,
            -0.5,
        ),
        ("a red circle, a redcircle, a red-circles and a pink-circle", (), (), 0, 0.0),
        ("??? . , \n </s> red-", (), (), 0, 0.0),
        ("white-cross white-cross", ("white-cross",), (), 1, -1.0),
    ],
)
def test_oracle_on_adversarial_answers(text, false, recalled, repeats, quality):
    found = measure_description(TRUTH, text)
    assert (found.false, found.recalled, found.repeats) == (false, recalled, repeats)
    assert found.hallucinated == bool(false)
    assert found.quality() == pytest.approx(quality)


def test_oracle_counts_against_a_slow_count():
    rng = np.random.default_rng(1)
    for _ in range(200):
        names = sample_scene(rng).names
        said = [NAMES[i] for i in rng.integers(24, size=rng.integers(0, 6))]
        found = measure_description(names, shapes_text.description(said))
        assert len(found.false) == len({name for name in said if name not in names})
        assert found.recall == sum(name in said for name in names) / len(names)
        assert found.repeats == sum(count - 1 for count in Counter(said).values())


def test_yes_no_and_choice_are_graded_by_how_they_start():
    no = Question(
        "yes_no", "is there a red-cross in the image?", ("red-cross",), "No, there is no red-cross.", 6
    )
    assert is_correct(no, "No, there is no red-cross.") and is_correct(no, "No")
    assert not any(is_correct(no, text) for text in ("", "Yes", "no", "there is No", "Yes, No"))
    third = parse_question("which? A. red-cross B. red-circle C. blue-square D. white-cross", 4, TRUTH)
    assert third.truth == "C. blue-square."
    assert is_correct(third, "C. anything") and not is_correct(third, "C") and not is_correct(third, "A. C.")
    with pytest.raises(ValueError, match="measure_description"):
        is_correct(shapes_text.describe_question(TRUTH, np.random.default_rng(0)), "x")


def test_quality_of_a_checkable_answer_punishes_strangers_and_repeats():
    no = Question(
        "yes_no", "is there a red-cross in the image?", ("red-cross",), "No, there is no red-cross.", 6
    )
    assert answer_quality(no, TRUTH, "No, there is no red-cross.") == 1.0
    assert answer_quality(no, TRUTH, "Yes, there is a red-cross.") == 0.0
    assert answer_quality(no, TRUTH, "No, there is no blue-cross.") == 0.5
    assert answer_quality(no, TRUTH, "No, no red-cross red-cross.") == 0.5


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("the image shows nothing.", "describe"),
        ("Yes, there is a red-circle.", "yes_no"),
        ("No", "yes_no"),
        ("C. red-circle.", "choice"),
        *((text, None) for text in ("", "C", "E. red-circle.", "yes", "a red-circle", " Yes", ".", "AB.")),
    ],
)
def test_the_form_of_an_answer_shows_by_how_it_starts(answer, kind):
    assert shapes_text.answer_kind(answer) == kind


def test_a_true_answer_to_another_kind_of_question_is_worth_less_than_any_false_one():
    describe, yes = (
        parse_question(text, answer_type, TRUTH)
        for text, answer_type in [("describe the image.", 1), ("is there a red-circle in the image?", 7)]
    )
    choice = parse_question("which? A. red-cross B. red-circle C. green-square D. white-cross", 3, TRUTH)
    answers = {question.kind: question.truth for question in (describe, yes, choice)}
    for question in (describe, yes, choice):
        worths = {kind: answer_quality(question, TRUTH, answer) for kind, answer in answers.items()}
        assert worths == {kind: 1.0 if kind == question.kind else -1.0 for kind in answers}
        assert answer_quality(question, TRUTH, "") == -1.0
    # The worst wrong answers of a model that stays on topic: no recall and one stranger, -0.5; wrong, 0.
    assert answer_quality(describe, TRUTH, "the image shows a white-cross.") == -0.5
    assert answer_quality(choice, TRUTH, "A. red-cross.") == -0.5  # wrong and a stranger to the right answer
    assert answer_quality(yes, TRUTH, "No, there is no red-circle.") == 0.0


@pytest.mark.parametrize("kind", ["describe", "yes_no", "choice"])
def test_an_off_topic_answer_is_true_and_of_both_other_kinds(kind):
    rng = np.random.default_rng(8)
    seen = Counter()
    for _ in range(200):
        names = sample_scene(rng).names
        question = shapes_files.ask(kind, names, rng)
        answer = shapes_files.off_topic_answer(question, names, rng)
        assert not measure_description(names, answer).false
        assert answer_quality(question, names, answer) == shapes_text.OFF_TOPIC
        seen[shapes_text.answer_kind(answer)] += 1
    assert set(seen) == {"describe", "yes_no", "choice"} - {kind} and min(seen.values()) > 60


def test_one_in_eight_synthetic_answers_is_off_topic():
    rng = np.random.default_rng(9)
    off = 0
    for _ in range(1200):
        names = sample_scene(rng).names
        question = shapes_files.ask("yes_no", names, rng)
        off += shapes_text.answer_kind(synthetic_answer(question, names, "", rng)) != "yes_no"
    # Three standard errors of a share of 1/8 in 1200 are 0.0286.
    assert off / 1200 == pytest.approx(1 / 8, abs=0.0286)


# --- sentences


def test_captions_name_every_object_exactly_once_between_them():
    rng = np.random.default_rng(2)
    sizes = set()
    for _ in range(200):
        names = sample_scene(rng).names
        texts = shapes_text.captions(names, rng)
        sizes.add(len(texts))
        assert sorted(mentioned_objects(" ".join(texts))) == sorted(names)
    assert sizes == {1, 2}


@pytest.mark.parametrize("kind", [shapes_text.DESCRIBE, shapes_text.YES_NO, shapes_text.CHOICE])
def test_a_question_is_read_back_from_its_row_and_its_truth_is_right(kind):
    rng = np.random.default_rng(3)
    for _ in range(100):
        names = sample_scene(rng).names
        question = shapes_files.ask(kind, names, rng)
        row = shapes_files.prompt_row("1", "x.png", question)
        assert parse_question(row["conversations"][0]["value"], row["caption_type"], names) == question
        assert answer_quality(question, names, question.truth) == 1.0
        if kind == shapes_text.YES_NO:
            assert (question.answer_type == 7) == (question.names[0] in names)
        if kind == shapes_text.CHOICE:
            assert [name in names for name in question.names].index(True) == question.answer_type - 2
            assert sum(name in names for name in question.names) == 1


# --- rows


def test_annotation_errors_have_the_rates_they_say():
    rng = np.random.default_rng(4)
    noise = AnnotationNoise(false_object=0.6, swapped=0.0, wrong_yes=0.6, clean=0.5)
    false, wrong, favourites, rows = 0, 0, Counter(), 2000
    for index in range(rows):
        scene = sample_scene(rng)
        turns = shapes_files.dialogue_row(index, scene, noise, rng)["conversations"]
        for human, gpt in zip(turns[::2], turns[1::2], strict=True):
            if "there" in human["value"]:
                absent = mentioned_objects(human["value"])[0] not in scene.names
                wrong += absent and gpt["value"].startswith("Yes")
            elif "which" not in human["value"]:
                found = measure_description(scene.names, gpt["value"])
                assert found.recall == 1.0
                false += found.hallucinated
                favourites.update(found.false)
    # Half of the rows are clean, so both rates are 0.5 * 0.6; three standard errors are 0.031.
    assert false / rows == pytest.approx(0.3, abs=0.031)
    assert wrong / rows == pytest.approx(0.3, abs=0.031)
    assert favourites[NAMES[0]] > 3 * favourites[NAMES[10]]


def test_scaled_noise_is_the_mean_rate_of_a_noisy_file():
    scaled = AnnotationNoise(0.6, 0.1, 0.6, 0.3).scaled(0.5)
    assert (scaled.false_object, scaled.clean) == (pytest.approx(0.21), 0.0)


def test_preferences_follow_the_oracle_and_ties_are_dropped():
    rng = np.random.default_rng(5)
    scene = scene_of(*TRUTH)
    question = shapes_text.describe_question(TRUTH, rng)
    good, bad = shapes_text.description(TRUTH), shapes_text.description(("red-circle", "white-cross"))
    rows = [
        preference_row("1", "x.png", scene, question, pair, rng, synthetic_share=0.0)
        for pair in [(good, bad), (bad, good)] * 20
    ]
    assert {row["preference"] for row in rows} == {1, 2}
    for row in rows:
        assert row[f"output_{row['preference']}"] == {"from": "gpt", "value": good}
        assert row[f"output_{3 - row['preference']}"] == {"from": "gpt", "value": bad}
        assert row["conversations"][-1]["from"] == "gpt"
    assert preference_row("1", "x.png", scene, question, (good, good), rng, synthetic_share=0.0) is None
    assert preference_row("1", "x.png", scene, question, (good, ""), rng, synthetic_share=0.0) is None


@pytest.mark.parametrize("false_weight", [0.5, 1.0])
def test_every_preference_agrees_with_the_oracle_whatever_was_made_up(false_weight):
    rng = np.random.default_rng(6)
    kept = 0
    for _ in range(300):
        scene = sample_scene(rng)
        question = shapes_files.ask(("describe", "yes_no", "choice")[int(rng.integers(3))], scene.names, rng)
        pair = (
            synthetic_answer(question, scene.names, "", rng),
            synthetic_answer(question, scene.names, "", rng),
        )
        row = preference_row("1", "x.png", scene, question, pair, rng, false_weight=false_weight)
        if row is not None:
            kept += 1
            better, worse = row[f"output_{row['preference']}"], row[f"output_{3 - row['preference']}"]
            assert answer_quality(question, scene.names, better["value"], false_weight) > answer_quality(
                question, scene.names, worse["value"], false_weight
            )
    assert kept > 100


def test_ground_truth_survives_a_round_trip_through_json(tmp_path):
    rng = np.random.default_rng(7)
    scenes = {shapes_files.image_name(index): sample_scene(rng) for index in range(5)}
    path = tmp_path / "scenes.json"
    path.write_text(json.dumps(shapes_files.scenes_to_json(scenes)), encoding="utf-8")
    assert shapes_files.read_scenes(path) == scenes

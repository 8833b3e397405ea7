"""The tiny world's rows in the published JSON formats, with annotation noise where the real data has it.

Pure functions: a scene, a question, a random generator in; a JSON-ready row out. Writing a whole world to disk is
the business of `llava_rlhf.tiny_world.make_world`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from data_utils.shapes_drawings import Drawing, DrawnObject, draw, sample_drawing
from data_utils.shapes_text import (
    CHOICE,
    DESCRIBE,
    LETTERS,
    YES_NO,
    Question,
    answer_quality,
    captions,
    choice_answer,
    choice_question,
    describe_question,
    description,
    rationale,
    yes_no_answer,
    yes_no_question,
)
from data_utils.shapes_world import NAMES, PlacedObject, Scene, mentioned_objects, render, sample_scene

Row = dict[str, Any]
AnyScene = Scene | Drawing


class Pictures(NamedTuple):
    """A way to draw scenes: what draws one, and what paints it with a level of pixel noise."""

    sample: Callable[[np.random.Generator], AnyScene]
    paint: Callable[[Any, float], Image.Image]
    noise: float  # when none is asked for


PICTURES = {"noisy": Pictures(sample_scene, render, 0.4), "drawn": Pictures(sample_drawing, draw, 0.0)}

# A habit of the annotators: some objects are claimed far more often than others, whatever the picture shows.
_FAVOURITE_WEIGHTS = 0.8 ** np.arange(len(NAMES))
FALSE_OBJECT_PRIOR = _FAVOURITE_WEIGHTS / _FAVOURITE_WEIGHTS.sum()


@dataclass(frozen=True)
class AnnotationNoise:
    """How wrong the answers of a data file are; all values are probabilities.

    Attributes:
        false_object: a description also claims an object that is not there (drawn from `FALSE_OBJECT_PRIOR`).
        swapped: each described object is replaced by another one.
        wrong_yes: a question about an absent object is answered "Yes".
        clean: a row is left entirely right.
    """

    false_object: float = 0.6
    swapped: float = 0.1
    wrong_yes: float = 0.6
    clean: float = 0.3

    def scaled(self, factor: float) -> AnnotationNoise:
        """The same kinds of error, `factor` (0..1) times as frequent; rows are not additionally kept clean."""
        kept = 1.0 - self.clean
        return AnnotationNoise(
            self.false_object * kept * factor,
            self.swapped * kept * factor,
            self.wrong_yes * kept * factor,
            0.0,
        )


def image_name(index: int) -> str:
    """File name of picture number `index`, in COCO's manner: twelve digits."""
    return f"{index:012d}.png"


def _other_name(names: Sequence[str], rng: np.random.Generator) -> str:
    absent = [name for name in NAMES if name not in names]
    return absent[int(rng.integers(len(absent)))]


def _favourite_absent(names: Sequence[str], rng: np.random.Generator) -> str:
    weights = np.array(
        [0.0 if name in names else p for name, p in zip(NAMES, FALSE_OBJECT_PRIOR, strict=True)]
    )
    return NAMES[int(rng.choice(len(NAMES), p=weights / weights.sum()))]


def _with_extra(names: Sequence[str], rng: np.random.Generator, extra: str) -> list[str]:
    place = int(rng.integers(len(names) + 1))
    return [*names[:place], extra, *names[place:]]


def noisy_answer(
    question: Question, names: Sequence[str], noise: AnnotationNoise, rng: np.random.Generator
) -> str:
    """An annotator's answer: the truth, with the errors of `noise` (multiple choice is always right)."""
    if question.kind == YES_NO:
        wrong = question.answer_type == 6 and rng.random() < noise.wrong_yes
        return yes_no_answer(question.names[0], True) if wrong else question.truth
    if question.kind != DESCRIBE:
        return question.truth
    said = list(names)
    for place in range(len(said)):
        if rng.random() < noise.swapped:
            said[place] = _other_name([*names, *said], rng)
    if rng.random() < noise.false_object:
        said = _with_extra(said, rng, _favourite_absent([*names, *said], rng))
    return description(said)


def _human(text: str, with_image: bool) -> Row:
    return {"from": "human", "value": f"<image>\n{text}" if with_image else text}


def dialogue_row(index: int, scene: AnyScene, noise: AnnotationNoise, rng: np.random.Generator) -> Row:
    """One multi-turn SFT row: a description, two yes/no questions and a multiple-choice question, in random order."""
    names = scene.names
    questions = [
        describe_question(names, rng),
        yes_no_question(names, True, rng),
        yes_no_question(names, False, rng),
        choice_question(names, rng),
    ]
    used = AnnotationNoise(0.0, 0.0, 0.0, 1.0) if rng.random() < noise.clean else noise
    conversation: list[Row] = []
    for turn, place in enumerate(rng.permutation(len(questions))):
        question = questions[place]
        conversation.append(_human(question.text, with_image=turn == 0))
        conversation.append({"from": "gpt", "value": noisy_answer(question, names, used, rng)})
    return {"id": str(index), "image": image_name(index), "conversations": conversation}


def ask(kind: str, names: Sequence[str], rng: np.random.Generator) -> Question:
    """A random question of this kind ("describe", "yes_no", "choice"); half of the yes/no answers are "no"."""
    if kind == DESCRIBE:
        return describe_question(names, rng)
    if kind == YES_NO:
        return yes_no_question(names, bool(rng.random() < 0.5), rng)
    return choice_question(names, rng)


def prompt_row(row_id: str, image: str, question: Question) -> Row:
    """One PPO prompt. Short checkable answers carry `length_bonus` 0: only descriptions can be too long.

    The right answer stands in the (never used) gpt turn, as in the published file.
    """
    row: Row = {
        "id": row_id,
        "image": image,
        "conversations": [_human(question.text, with_image=True), {"from": "gpt", "value": question.truth}],
        "caption_type": question.answer_type,
    }
    if question.kind != DESCRIBE:
        row["length_bonus"] = 0.0
    return row


def parse_question(text: str, answer_type: int, names: Sequence[str]) -> Question:
    """Read a question back from its text and answer type, so that an answer can be checked.

    Args:
        text: the human turn; an `<image>` marker is ignored.
        answer_type: `caption_type` of the row.
        names: the objects of the scene.
    """
    text = text.replace("<image>", "").strip()
    asked = tuple(mentioned_objects(text))
    if answer_type == 1:
        return Question(DESCRIBE, text, (), description(names), 1)
    if answer_type in (6, 7):
        return Question(YES_NO, text, asked, yes_no_answer(asked[0], answer_type == 7), answer_type)
    place = answer_type - 2
    return Question("choice", text, asked, choice_answer(LETTERS[place], asked[place]), answer_type)


def caption_entries(image: str, names: Sequence[str], rng: np.random.Generator) -> dict[str, list[str]]:
    """The image's captions under its name, and under `aok_` + name one rationale for each object."""
    return {image: captions(names, rng), f"aok_{image}": [rationale(name) for name in names]}


def off_topic_answer(question: Question, names: Sequence[str], rng: np.random.Generator) -> str:
    """A true statement about the scene in the form of an answer to another kind of question."""
    name = names[int(rng.integers(len(names)))]
    answers = {
        DESCRIBE: description(names),
        YES_NO: yes_no_answer(name, True),
        CHOICE: choice_answer(LETTERS[int(rng.integers(len(LETTERS)))], name),
    }
    others = [answer for kind, answer in answers.items() if kind != question.kind]
    return others[int(rng.integers(len(others)))]


def synthetic_answer(question: Question, names: Sequence[str], answer: str, rng: np.random.Generator) -> str:
    """A made-up side for a preference pair: the truth, or a flawed variant of `answer` or of the truth.

    Descriptions: truth, one extra object, one wrong object, one omitted object, or over-long (three extra objects).
    Yes/no and multiple choice: the truth or a wrong answer. One in eight is instead a true answer to another kind of
    question.
    """
    if rng.random() < 1 / 8:
        return off_topic_answer(question, names, rng)
    if question.kind == YES_NO:
        return yes_no_answer(question.names[0], bool(rng.random() < 0.5))
    if question.kind != DESCRIBE:
        place = int(rng.integers(len(LETTERS)))
        return question.truth if rng.random() < 0.5 else choice_answer(LETTERS[place], question.names[place])
    said = list(dict.fromkeys(mentioned_objects(answer))) or list(names)
    flaw = ("truth", "extra", "wrong", "omitted", "overlong")[int(rng.integers(5))]
    if flaw == "truth":
        return question.truth
    if flaw == "wrong":
        said[int(rng.integers(len(said)))] = _other_name([*names, *said], rng)
    elif flaw == "omitted" and len(said) > 1:
        said.pop(int(rng.integers(len(said))))
    else:
        for _ in range(3 if flaw == "overlong" else 1):
            said = _with_extra(said, rng, _other_name([*names, *said], rng))
    return description(said)


def preference_row(
    row_id: str,
    image: str,
    scene: AnyScene,
    question: Question,
    responses: tuple[str, str],
    rng: np.random.Generator,
    *,
    synthetic_share: float = 0.4,
    false_weight: float = 0.5,
) -> Row | None:
    """Let the oracle compare two sampled responses; None when they are equally good.

    Args:
        row_id, image: `id` and `image` of the row.
        scene, question: what was shown and asked.
        responses: two answers sampled from the model.
        rng: decides whether and how one side is replaced by a synthetic answer, and the order of the two.
        synthetic_share: probability that one side is replaced (`synthetic_answer`).
        false_weight: cost of one false object, in units of full recall.

    Returns:
        One row of the published preference format.
    """
    sides = [responses[index] for index in rng.permutation(2)]
    if rng.random() < synthetic_share:
        sides[int(rng.integers(2))] = synthetic_answer(question, scene.names, sides[0], rng)
    first, second = (answer_quality(question, scene.names, side, false_weight) for side in sides)
    if abs(first - second) < 1e-9 or not all(side.strip() for side in sides):
        return None
    row = prompt_row(row_id, image, question)
    row["conversations"][-1]["value"] = sides[0]
    row["output_1"] = {"from": "gpt", "value": sides[0]}
    row["output_2"] = {"from": "gpt", "value": sides[1]}
    row["preference"] = 1 if first > second else 2
    return row


def scenes_to_json(scenes: Mapping[str, AnyScene]) -> Row:
    """Ground truth of a world, image name -> scene, as JSON."""
    return {image: {**asdict(scene), "names": list(scene.names)} for image, scene in scenes.items()}


def read_scenes(path: Path | str) -> dict[str, AnyScene]:
    """Read the ground truth that `scenes_to_json` wrote."""
    raw = json.loads(Path(path).read_text(encoding="utf-8"))
    return {image: _scene(entry) for image, entry in raw.items()}


def _scene(entry: Row) -> AnyScene:
    if "width" not in entry:
        return Scene(tuple(PlacedObject(**placed) for placed in entry["objects"]), entry["noise_seed"])
    objects = tuple(DrawnObject(**{**placed, "fill": tuple(placed["fill"])}) for placed in entry["objects"])
    background = tuple(entry["background"])
    return Drawing(entry["width"], entry["height"], background, objects, entry["noise_seed"])

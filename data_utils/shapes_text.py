"""The sentences of the tiny world, as pure functions: questions, answers, captions, and whether an answer is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_utils.shapes_world import NAMES, measure_description, mentioned_objects

DESCRIBE_QUESTIONS = ("what is in the image?", "describe the image.")
LETTERS = ("A", "B", "C", "D")
DESCRIBE, YES_NO, CHOICE = "describe", "yes_no", "choice"
OFF_TOPIC = -1.0  # the oracle's score of an answer to another kind of question


@dataclass(frozen=True)
class Question:
    """One question about one scene.

    Attributes:
        kind: "describe", "yes_no" or "choice".
        text: the question as asked.
        names: the object asked about (yes_no), the four options A..D (choice), empty (describe).
        truth: the right answer as a sentence.
        answer_type: `caption_type` of the published files: 1 open, 2..5 right option A..D, 6 "no", 7 "yes".
    """

    kind: str
    text: str
    names: tuple[str, ...]
    truth: str
    answer_type: int


def list_objects(names: Sequence[str]) -> str:
    """`a red-circle, a blue-square and a green-cross`; the empty list gives `nothing`."""
    items = [f"a {name}" for name in names]
    if len(items) < 2:
        return items[0] if items else "nothing"
    return ", ".join(items[:-1]) + " and " + items[-1]


def description(names: Sequence[str]) -> str:
    """The sentence that says which objects an image shows."""
    return f"the image shows {list_objects(names)}."


def yes_no_answer(name: str, present: bool) -> str:
    """The answer to `is there a <name> in the image?`; it restates the object."""
    return f"Yes, there is a {name}." if present else f"No, there is no {name}."


def choice_answer(letter: str, name: str) -> str:
    """The answer to a multiple-choice question, for instance `B. blue-square.`"""
    return f"{letter}. {name}."


def captions(names: Sequence[str], rng: np.random.Generator) -> list[str]:
    """One or two human captions that together name every object exactly once, in random order."""
    order = [names[index] for index in rng.permutation(len(names))]
    if len(order) > 1 and rng.random() < 0.5:
        return [f"{list_objects(order[:1])}.", f"{list_objects(order[1:])}."]
    return [f"{list_objects(order)}."]


def rationale(name: str) -> str:
    """The stand-in for an A-OKVQA rationale: why the right option is right."""
    return f"there is a {name} in the image."


def describe_question(names: Sequence[str], rng: np.random.Generator) -> Question:
    """Ask for a description of a scene with these objects."""
    text = DESCRIBE_QUESTIONS[int(rng.integers(len(DESCRIBE_QUESTIONS)))]
    return Question(DESCRIBE, text, (), description(names), 1)


def yes_no_question(names: Sequence[str], present: bool, rng: np.random.Generator) -> Question:
    """Ask about one object that is (`present`) or is not in the scene."""
    pool = list(names) if present else [name for name in NAMES if name not in names]
    asked = pool[int(rng.integers(len(pool)))]
    text = f"is there a {asked} in the image?"
    return Question(YES_NO, text, (asked,), yes_no_answer(asked, present), 7 if present else 6)


def choice_question(names: Sequence[str], rng: np.random.Generator) -> Question:
    """Four options, exactly one of which is in the scene."""
    right = names[int(rng.integers(len(names)))]
    absent = [name for name in NAMES if name not in names]
    options = [absent[index] for index in rng.choice(len(absent), size=3, replace=False)]
    place = int(rng.integers(len(LETTERS)))
    options.insert(place, right)
    listed = " ".join(f"{letter}. {name}" for letter, name in zip(LETTERS, options, strict=True))
    text = f"which object is in the image? {listed}"
    return Question(CHOICE, text, tuple(options), choice_answer(LETTERS[place], right), 2 + place)


def is_correct(question: Question, answer: str) -> bool:
    """Whether an answer to a yes/no or multiple-choice question is right, by how it starts.

    Raises:
        ValueError: the question is a description, which is not right or wrong but better or worse.
    """
    if question.kind == DESCRIBE:
        raise ValueError("a description has no correct answer; use measure_description")
    if question.kind == YES_NO:
        right, wrong = ("Yes", "No") if question.answer_type == 7 else ("No", "Yes")
        return answer.startswith(right) and not answer.startswith(wrong)
    return answer.startswith(f"{LETTERS[question.answer_type - 2]}.")


def answer_kind(answer: str) -> str | None:
    """The kind of question that an answer has the form of, by how it starts; None for none of them."""
    if answer.startswith("the image shows"):
        return DESCRIBE
    if answer.startswith(("Yes", "No")):
        return YES_NO
    return CHOICE if answer[:1] in LETTERS and answer[1:2] == "." else None


def answer_quality(
    question: Question,
    names: Sequence[str],
    answer: str,
    false_weight: float = 0.5,
    repeat_weight: float = 0.5,
) -> float:
    """The oracle's score of any answer, higher is better.

    A description scores recall - false_weight * false objects - repeat_weight * repeats. A yes/no or multiple-choice
    answer scores 1 when right and 0 when wrong, less false_weight for every object it names that the right answer
    does not, and repeat_weight for every repeat. An answer to another kind of question scores OFF_TOPIC, however true
    it is: a reward model that has never seen one can be pleased by it, and PPO finds that out.
    """
    if answer_kind(answer) != question.kind:
        return OFF_TOPIC
    if question.kind == DESCRIBE:
        return measure_description(names, answer).quality(false_weight, repeat_weight)
    mentions = mentioned_objects(answer)
    expected = set(mentioned_objects(question.truth))
    strangers = len(set(mentions) - expected)
    repeats = len(mentions) - len(set(mentions))
    return float(is_correct(question, answer)) - false_weight * strangers - repeat_weight * repeats

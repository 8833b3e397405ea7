"""What the tiny base is taught, as token rows made on the fly: check lists, dialogues, and answers to be graded.

Text becomes ids through the same `SegmentEncoder`, template and reward prompt as in the trainers, so the base meets
exactly the sequences it will be used on. The one form of its own is the check list, `<image> red-circle Yes
blue-square No …`: a question in two words, where nearly every position carries one bit about the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from data_utils.conversation import dialogue_segments, query_segments
from data_utils.facts import RewardPrompt
from data_utils.schema import Turn
from data_utils.shapes_files import AnyScene, ask
from data_utils.shapes_text import (
    CHOICE,
    DESCRIBE,
    LETTERS,
    YES_NO,
    Question,
    captions,
    choice_answer,
    description,
    is_correct,
    rationale,
    yes_no_answer,
)
from data_utils.shapes_world import NAMES, measure_description
from data_utils.tokens import SegmentEncoder, expand_image_tokens
from llava_rlhf.tiny_world.kind import TinyKind
from llava_rlhf.tiny_world.tokenizer import SPACE
from models.families.base import Family

CHECKS_PER_ROW = 10
KINDS = (DESCRIBE, YES_NO, CHOICE)
# Words that only fill in the form of an answer; what remains is what the answer decides.
FORM_WORDS = ("a", "the", "image", "shows", "there", "is", "no")
FORM_WEIGHT = 0.1
# What a reward model should know about an answer: false, missing and repeated objects of a description; wrong or not.
GRADES = ("false", "missing", "repeats", "wrong")


@dataclass(frozen=True)
class Lesson:
    """One training row.

    Attributes:
        ids: token ids, every image already expanded to its positions.
        weights: for each id, how much predicting it from what precedes it counts; 0 = not at all.
        grade: the four `GRADES` to be read off the last position, or None when the row is not graded.
        present: the objects that are in the picture.
    """

    ids: list[int]
    weights: list[float]
    grade: tuple[float, ...] | None
    present: tuple[str, ...]


class Teacher:
    """Makes lessons about scenes; all randomness comes from the generator that is passed in."""

    def __init__(
        self,
        kind: TinyKind,
        family: Family,
        tokenizer: PreTrainedTokenizerFast,
        prompts: tuple[RewardPrompt, RewardPrompt],
    ):
        """`prompts` are the reward prompts without a place for facts and with one."""
        self.kind, self.family = kind, family
        self.image_id = family.image_token_id
        self.nothing_id = tokenizer.convert_tokens_to_ids(f"{SPACE}nothing")
        self.name_ids: dict[str, int] = {n: tokenizer.convert_tokens_to_ids(SPACE + n) for n in NAMES}
        self._encoder = SegmentEncoder(tokenizer, self.image_id)
        self._prompts = prompts
        forms = [form for word in FORM_WORDS for form in (SPACE + word, word)]
        self._form_ids = {tokenizer.get_vocab()[form] for form in forms if form in tokenizer.get_vocab()}
        self._verdict_ids = tokenizer.convert_tokens_to_ids([f"{SPACE}No", f"{SPACE}Yes"])

    def check_list(self, scene: AnyScene, rng: np.random.Generator) -> Lesson:
        """The picture, then ten object names, each followed by whether it is there; half of them are."""
        segments = query_segments(self.kind.template, [Turn("human", "")], 1)
        image = next(place for place, segment in enumerate(segments) if segment.kind == "image")
        ids = self._expanded(self._encoder.encode(segments[: image + 1]).ids, scene)
        weights = [0.0] * len(ids)
        for _ in range(CHECKS_PER_ROW):
            pool = scene.names if rng.random() < 0.5 else NAMES
            name = pool[int(rng.integers(len(pool)))]
            ids += [self.name_ids[name], self._verdict_ids[name in scene.names]]
            weights += [0.0, 1.0]
        return Lesson(ids, weights, None, scene.names)

    def dialogue(self, scene: AnyScene, questions: Sequence[Question]) -> Lesson:
        """A conversation with the right answers. The words that decide an answer weigh ten times the others."""
        turns = [turn for q in questions for turn in (Turn("human", q.text), Turn("gpt", q.truth))]
        sequence = self._encoder.encode(dialogue_segments(self.kind.template, turns, 1))
        ids = self._expanded(sequence.ids, scene)
        supervised = [False] * (len(ids) - len(sequence.ids)) + list(sequence.supervised)
        weights = [
            (FORM_WEIGHT if token in self._form_ids else 1.0) if used else 0.0
            for token, used in zip(ids, supervised, strict=True)
        ]
        return Lesson(ids, weights, None, scene.names)

    def graded(self, scene: AnyScene, rng: np.random.Generator, with_facts: bool) -> Lesson:
        """A question, an often flawed answer and the reward prompt, with or without captions."""
        question = random_question(scene.names, rng, (0.6, 0.25, 0.15))
        answer = flawed_answer(question, scene.names, rng)
        facts = reward_prompt_facts(question, scene.names, rng) if with_facts else None
        turns = [Turn("human", question.text), Turn("gpt", answer)]
        sequence = self._encoder.encode(dialogue_segments(self.kind.template, turns, 1))
        ids = self._expanded(sequence.ids, scene)
        prompt = self.kind.template.reward_prompt(self._prompts[with_facts].render(facts))
        ids += self._encoder.encode_behind(prompt)
        return Lesson(ids, [0.0] * len(ids), grade_answer(question, scene.names, answer), scene.names)

    def _expanded(self, ids: Sequence[int], scene: AnyScene) -> list[int]:
        placeholder = self.family.placeholder(self.kind.grid(scene))
        return expand_image_tokens(ids, self.image_id, [placeholder])


def random_question(
    names: Sequence[str], rng: np.random.Generator, shares: tuple[float, float, float] = (0.4, 0.35, 0.25)
) -> Question:
    """A question; `shares` are the probabilities of a description, a yes/no and a multiple-choice question."""
    return ask(KINDS[int(rng.choice(len(KINDS), p=shares))], names, rng)


def flawed_answer(question: Question, names: Sequence[str], rng: np.random.Generator) -> str:
    """A well-formed answer that is often wrong: objects omitted, invented, repeated; a random "Yes"; a random letter."""
    if question.kind == YES_NO:
        return yes_no_answer(question.names[0], bool(rng.random() < 0.5))
    if question.kind == CHOICE:
        right = question.answer_type - 2
        place = right if rng.random() < 0.4 else int(rng.integers(len(LETTERS)))
        return choice_answer(LETTERS[place], question.names[place])
    order = rng.permutation(names) if rng.random() < 0.5 else names
    said = [str(name) for name in order if rng.random() < 0.8]
    for _ in range(int(rng.choice(4, p=(0.35, 0.35, 0.2, 0.1)))):
        said.insert(int(rng.integers(len(said) + 1)), NAMES[int(rng.integers(len(NAMES)))])
    if said and rng.random() < 0.1:
        said.append(said[int(rng.integers(len(said)))])
    return description(said[:6])


def reward_prompt_facts(question: Question, names: Sequence[str], rng: np.random.Generator) -> list[str]:
    """What the reward model is told: the captions, or for half of the multiple-choice questions the rationales."""
    if question.kind == CHOICE and rng.random() < 0.5:
        return [rationale(str(name)) for name in rng.permutation(names)]
    return captions(names, rng)


def grade_answer(question: Question, names: Sequence[str], answer: str) -> tuple[float, ...]:
    """The four `GRADES` of an answer; those that do not apply to the question are 0."""
    if question.kind != DESCRIBE:
        return (0.0, 0.0, 0.0, float(not is_correct(question, answer)))
    found = measure_description(names, answer)
    return (float(len(found.false)), float(len(names) - len(found.recalled)), float(found.repeats), 0.0)


@dataclass(frozen=True)
class LessonBatch:
    """Lessons of one kind, right-padded with id 0.

    Attributes:
        ids: int64[B, L].
        weights: float[B, L], 0 on padding.
        last: int64[B], the index of the last real token.
        grades: float[B, 4], or None when the rows are not graded.
    """

    ids: Tensor
    weights: Tensor
    last: Tensor
    grades: Tensor | None


def batch_lessons(lessons: Sequence[Lesson]) -> LessonBatch:
    """Pad lessons to one batch; either all of them are graded or none."""
    longest = max(len(lesson.ids) for lesson in lessons)
    ids = torch.tensor([lesson.ids + [0] * (longest - len(lesson.ids)) for lesson in lessons])
    weights = torch.tensor([lesson.weights + [0.0] * (longest - len(lesson.weights)) for lesson in lessons])
    last = torch.tensor([len(lesson.ids) - 1 for lesson in lessons])
    graded = lessons[0].grade is not None
    return LessonBatch(
        ids, weights, last, torch.tensor([lesson.grade for lesson in lessons]) if graded else None
    )

"""Reward model and policy for Python programs: `from llava_rlhf import RewardModel, Policy` (docs/python.md).

A hub id is `owner/name[@revision][/folder]`. Both do what the programs do, with the same checks: templates, padding and prompts are those of training.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from data_utils.images import check_image
from data_utils.schema import Turn
from llava_rlhf.assembly.conversations import check_conversation
from llava_rlhf.assembly.image_choices import check_limits
from llava_rlhf.assembly.roles import load_text_side
from llava_rlhf.exporting.model_card import Origin
from llava_rlhf.exporting.trained import read_trained
from llava_rlhf.hub.flags import fetch_named_model
from llava_rlhf.interactive.answering_models import (
    Answer,
    AnsweringModel,
    Scorer,
    check_checkpoint,
    find_reward_model,
    load_models,
)
from llava_rlhf.runs.arguments import ModelArguments, cuda_is_available
from models.vlm import BaseSettings

Picture: TypeAlias = str | Path | Image.Image
Messages: TypeAlias = Sequence[Mapping[str, str]]
ROLES = {"user": "human", "assistant": "gpt"}


class RewardModel:
    """A trained reward model. Scores are in its own units: only differences between answers to one question mean anything."""

    def __init__(self, scorer: Scorer):
        self._scorer = scorer

    @classmethod
    def load(
        cls,
        folder: str | Path,
        base_model: str | Path | None = None,
        *,
        bits: int = 16,
        bf16: bool = False,
        device: str | None = None,
    ) -> RewardModel:
        """Load a reward model.

        Args:
            folder: run folder or checkpoint of `train_reward_model`, or a hub id.
            base_model: the base it was trained on, where it lies elsewhere now; or a hub id.
            bits: 16: unquantised; 8 or 4: bitsandbytes.
            bf16: weights and activations in bfloat16, else float32.
            device: where to; default: the GPU if there is one.

        Raises:
            ValueError: the folder is no reward model, or its base is not there or another one.
        """
        base = fetch_named_model(f"base_model {base_model}", str(base_model)) if base_model else None
        found = find_reward_model(fetch_named_model(f"folder {folder}", str(folder)), base, "base_model")
        settings = _base_settings(bits, bf16, device)
        scorer = load_models(
            (), found, settings, (found.card.template, None), found.card.image_choices, (1, 2)
        ).scorer
        return cls(scorer)

    @property
    def reads_facts(self) -> bool:
        """Whether its prompt has a place for captions."""
        return self._scorer.uses_facts

    def score(
        self,
        *,
        answer: str | Sequence[str],
        question: str | Sequence[str] | None = None,
        messages: Messages | Sequence[Messages] | None = None,
        image: Picture | Sequence[Picture | None] | None = None,
        captions: Sequence[str] | Sequence[Sequence[str]] | None = None,
        stopped: bool = True,
    ) -> float | list[float]:
        """Score one answer, or a list of answers.

        With a list of answers every other argument may be one value for all of them, or a list of as many.

        Args:
            answer: what was answered.
            question: the question; or
            messages: the dialogue before the answer, `{"role": "user" | "assistant", "content": text}`, a user's last.
            image: the picture that the first message is about: a file or a Pillow image. None: text only.
            captions: facts about the picture, in the order the reward model shall read them. `[]`: none are known.
            stopped: whether the answer is complete; an answer that was cut off has no stop token.

        Returns:
            A float, or a list of floats for a list of answers.

        Raises:
            ValueError: neither or both of question and messages, lists of other lengths, a picture that can't be read, or
                no captions for a reward model that reads them.
        """
        if captions is None and self.reads_facts:
            raise ValueError(
                "this reward model reads captions: give captions=[...], or captions=[] where none are known"
            )
        one = isinstance(answer, str)
        answers = [answer] if one else list(answer)
        many = None if one else len(answers)
        dialogues = _dialogues(question, messages, many)
        images = _spread("image", image, many, not isinstance(image, (list, tuple)))
        single = captions is None or not captions or isinstance(captions[0], str)
        facts = _spread("captions", captions or (), many, single)
        scores = []
        for text, turns, picture, known in zip(answers, dialogues, images, facts, strict=True):
            with _file_of(picture) as path:
                scores.append(self._scorer.score(turns, path, Answer(text, True, stopped), known))
        return scores[0] if one else scores


class Policy:
    """A base, with a policy adapter or as it is, that answers questions about pictures."""

    def __init__(self, model: AnsweringModel):
        self._model = model

    @classmethod
    def load(
        cls,
        base_model: str | Path,
        adapter: str | Path | None = None,
        *,
        version: str | None = None,
        image_aspect_ratio: str | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        bits: int = 16,
        bf16: bool = False,
        device: str | None = None,
        response_len: int = 768,
        model_max_length: int = 2048,
    ) -> Policy:
        """Load a policy.

        Args:
            base_model: directory of a base in Hugging Face format, or a hub id.
            adapter: run folder, checkpoint or PEFT folder of a policy, or a hub id; None: the base alone.
            version, image_aspect_ratio, min_pixels, max_pixels: how it is asked; default: as it was trained.
            bits, bf16, device: as for `RewardModel.load`.
            response_len: longest answer in tokens.
            model_max_length: longest dialogue with its answer, in tokens (one image of a LLaVA = one).

        Raises:
            ValueError: no such base or adapter, they do not fit each other, or it was trained to be asked otherwise.
        """
        base = fetch_named_model(f"base_model {base_model}", str(base_model))
        folder = fetch_named_model(f"adapter {adapter}", str(adapter)) if adapter else None
        checkpoint = check_checkpoint("policy", base, folder)
        record = Origin.of(checkpoint.adapter).arguments if checkpoint.adapter else None
        trained = read_trained(
            record, Path(checkpoint.base), version, image_aspect_ratio, min_pixels, max_pixels
        )
        text = load_text_side(checkpoint.base, trained.image_choices, trained.version, trained.system_message)
        check_limits(checkpoint.base, checkpoint.adapter, text.image_choices)
        check_conversation(checkpoint.base, text.tokenizer, text.template)
        loaded = load_models(
            [checkpoint],
            None,
            _base_settings(bits, bf16, device),
            (trained.version, trained.system_message),
            trained.image_choices,
            (response_len, model_max_length),
        )
        return cls(loaded.answering[0])

    def answer(
        self,
        *,
        question: str | Sequence[str] | None = None,
        messages: Messages | Sequence[Messages] | None = None,
        image: Picture | Sequence[Picture | None] | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> str | list[str]:
        """Answer a question, or a list of questions; arguments as for `RewardModel.score`.

        Args:
            question, messages, image: what is asked.
            temperature: 0: the most likely token.
            seed: of sampling; the n-th of a list (from 0) has `seed` + n.

        Returns:
            The text, or a list of texts.

        Raises:
            ValueError: as `RewardModel.score`; a dialogue that leaves no room for an answer.
        """
        asked = question if messages is None else messages
        one = isinstance(asked, str) or (messages is not None and _is_dialogue(messages))
        many = None if one or asked is None else len(asked)
        dialogues = _dialogues(question, messages, many)
        images = _spread("image", image, many, not isinstance(image, (list, tuple)))
        texts = []
        for number, (turns, picture) in enumerate(zip(dialogues, images, strict=True)):
            with _file_of(picture) as path:
                *_, last = self._model.answer(turns, path, temperature, seed + number)
            texts.append(last.text)
        return texts[0] if one else texts


def _base_settings(bits: int, bf16: bool, device: str | None) -> BaseSettings:
    where = device or ("cuda" if cuda_is_available() else "cpu")
    return ModelArguments(bits=bits).base_settings(bf16, False, where)


def _spread(name: str, value: Any, many: int | None, single: bool) -> list[Any]:
    """One value for each answer. Raises ValueError for a list of another length."""
    if single:
        return [value] * (1 if many is None else many)
    if many is None or len(value) != many:
        raise ValueError(f"{name} is a list of {len(value)} for {1 if many is None else many} answers")
    return list(value)


def _is_dialogue(messages: Messages | Sequence[Messages]) -> bool:
    return not messages or isinstance(messages[0], Mapping)


def _dialogues(
    question: str | Sequence[str] | None, messages: Messages | Sequence[Messages] | None, many: int | None
) -> list[list[Turn]]:
    if (question is None) == (messages is None):
        raise ValueError("give either question or messages")
    if messages is None:
        questions = _spread("question", question, many, isinstance(question, str))
        return [[Turn("human", text)] for text in questions]
    return [_turns(one) for one in _spread("messages", messages, many, _is_dialogue(messages))]


def _turns(messages: Messages) -> list[Turn]:
    """Turns of a dialogue that waits for an answer. Raises ValueError for anything else."""
    roles = [message.get("role") for message in messages]
    if (
        not roles
        or roles != [("user", "assistant")[place % 2] for place in range(len(roles))]
        or len(roles) % 2 == 0
    ):
        raise ValueError(
            f"messages have the roles {roles}: user and assistant must take turns, a user first and last"
        )
    return [Turn(ROLES[message["role"]], message["content"]) for message in messages]


@contextmanager
def _file_of(picture: Picture | None) -> Iterator[Path | None]:
    """The file of a picture; of a Pillow image a copy without loss. Raises ValueError for one that can't be used."""
    if picture is None:
        yield None
    elif isinstance(picture, Image.Image):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "picture.png"
            picture.save(path)
            yield _checked(path)
    else:
        yield _checked(Path(picture))


def _checked(path: Path) -> Path:
    reason = check_image(path.parent, path.name)
    if reason:
        raise ValueError(f"image {path}: {reason}")
    return path

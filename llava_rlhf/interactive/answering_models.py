"""Checkpoints that answer by name. Those of one base share its weights, and the reward model's base is shared too."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from data_utils.answers import AnswerItem, answer_segments
from data_utils.batches import image_batch
from data_utils.conversation import VERSIONS, query_segments
from data_utils.facts import RewardPrompt
from data_utils.image_choices import ImageChoices
from data_utils.images import Pictures
from data_utils.schema import Turn
from llava_rlhf.assembly.image_features import encode_images, padded_queries
from llava_rlhf.assembly.reward_models import check_reward_files, on_bank
from llava_rlhf.assembly.roles import TextSide, load_text_side, unsampled_ids
from llava_rlhf.evaluation.reward_scoring import score_items
from llava_rlhf.interactive.streaming import GrowingText, stream
from llava_rlhf.runs.reward_card import RewardModelCard, read_reward_card
from llava_rlhf.runs.role_files import REWARD, find_policy_adapter
from models.adapter_files import check_adapter_fits
from models.adapters import AdapterBank, AdapterSpec
from models.base_check import check_base
from models.base_place import why_absent
from models.generation import SamplingSettings
from models.roles import Policy, RewardModel
from models.settings import LoraSettings
from models.vlm import BaseSettings, load_base

# The base as it is: an adapter that changes nothing. A bank then treats all its policies alike.
NO_CHANGE = LoraSettings(r=1, layers=("q_proj",))


@dataclass(frozen=True)
class Checkpoint:
    """Who answers: a shown name, a base directory, and a PEFT folder on it (None: the base as it is)."""

    name: str
    base: str
    adapter: Path | None


def parse_checkpoint(flag: str, text: str) -> Checkpoint:
    """`NAME=BASE` or `NAME=BASE,ADAPTER` → `Checkpoint`. Raises ValueError for anything that could not be loaded."""
    name, equals, place = text.partition("=")
    base, comma, adapter = place.partition(",")
    if not (name.strip() and equals and base) or (comma and not adapter):
        raise ValueError(f"{flag} {text}: write NAME=BASE, or NAME=BASE,ADAPTER")
    return check_checkpoint(name.strip(), base, adapter or None)


def check_checkpoint(name: str, base: str, adapter: str | None) -> Checkpoint:
    """A checkpoint whose files are there and fit each other. Raises ValueError where they do not."""
    check_base(base)
    folder = find_policy_adapter(adapter) if adapter else None
    if folder is not None:
        check_adapter_fits(folder, base)
    return Checkpoint(name, base, folder)


@dataclass(frozen=True)
class RewardCheckpoint:
    """A reward model on disk: its folder, its card and the base to load it on."""

    folder: Path
    card: RewardModelCard
    base: str


def find_reward_model(folder: str, base: str | None, base_flag: str) -> RewardCheckpoint:
    """The reward model in `folder` on `base` (None: the one of its card). Raises ValueError where they do not fit."""
    card = read_reward_card(folder)
    base = base or card.find_base(folder, base_flag)
    if not Path(base).is_dir():
        raise ValueError(
            f"the base of the reward model {folder}, {base}, is no directory: {why_absent(base)}; name it with "
            f"{base_flag}"
        )
    if card.template not in VERSIONS:
        raise ValueError(f"{folder}: reward_model.json names an unknown template {card.template!r}")
    check_base(base)
    check_reward_files(folder, card, base, base_flag)
    if card.template_pieces is not None:
        text = load_text_side(base, card.image_choices, card.template, card.system_message)
        card.check_pieces(folder, base, text.template)
    return RewardCheckpoint(Path(folder), card, base)


@dataclass(frozen=True)
class Answer:
    """An answer while it grows: its text so far, and whether it is complete (`stopped`: by a stop token)."""

    text: str
    done: bool = False
    stopped: bool = False


class AnsweringModel:
    """One checkpoint that answers dialogues.

    Args:
        name: shown.
        policy: the role.
        text: tokenizer, image pipeline and conversation template of its base.
        lock: of its base: one answer at a time, since one adapter is in use at a time.
        lengths: longest answer, and longest dialogue with it, in tokens (a LLaVA's image counts as one).
    """

    def __init__(
        self,
        name: str,
        policy: Policy,
        text: TextSide,
        lock: threading.Lock,
        lengths: tuple[int, int],
    ):
        self.name = name
        self._policy, self._text, self._lock = policy, text, lock
        self._response_len, self._max_length = lengths
        self._banned = tuple(unsampled_ids(text, policy.bank.vlm.vocab_size).tolist())

    def query_ids(self, turns: Sequence[Turn], seen: Pictures | None) -> list[int]:
        """Ids of a dialogue that waits for an answer, about a picture or none.

        Raises ValueError when it leaves no room for one, counted as in training: positions of a picture in its own shape too.
        """
        segments = query_segments(self._text.template, turns, int(seen is not None))
        ids = list(self._text.encoder.encode(segments).ids)
        counted = self._text.expand(ids, seen.grids) if seen is not None and seen.grids else ids
        if len(counted) + self._response_len > self._max_length:
            raise ValueError(
                f"the conversation has {len(counted)} tokens; with an answer of up to {self._response_len} that is more than "
                f"--model_max_length {self._max_length}: ask for less, or start anew"
            )
        return ids

    def answer(
        self, turns: Sequence[Turn], image: Path | None, temperature: float, seed: int
    ) -> Iterator[Answer]:
        """Yield the answer to a dialogue each time it has grown; the last one has `done`.

        Args:
            turns: human, gpt, …, human; without image markers the image belongs to the first.
            image: an image file.
            temperature: 0 takes the most likely token.
            seed: of sampling.

        Raises:
            ValueError: no room for an answer, or the image can't be decoded.
        """
        seen = self._text.pipeline(image.parent, [image.name]) if image is not None else None
        ids = self.query_ids(turns, seen)
        stops, pad = self._text.stop_ids, self._text.tokenizer.pad_token_id
        settings = SamplingSettings(self._response_len, stops, pad, temperature, self._banned)
        uniforms = torch.rand(1, self._response_len, generator=torch.Generator().manual_seed(seed))
        growing = GrowingText(self._text.tokenizer, stops)

        def work(on_tokens) -> None:
            vlm = self._policy.bank.vlm
            with self._lock:
                features = (
                    None
                    if seen is None
                    else encode_images(vlm, image_batch([(seen.pixels, None, seen.grids)]))
                )
                query = padded_queries([ids], features, vlm, pad)
                # One answer does not pay for a merged copy of the weights.
                self._policy.sample(*query, features, settings, uniforms, False, on_tokens=on_tokens)

        for text in stream(work, growing):
            yield Answer(text)
        yield Answer(growing.text(), done=True, stopped=growing.ended)


class Scorer:
    """A reward model that scores single answers, as training and PPO do.

    Args:
        model: the reward model, in inference.
        card: the conditions it was trained under.
        text: tokenizer, image pipeline and conversation template of its base.
        lock: of its base.
    """

    def __init__(self, model: RewardModel, card: RewardModelCard, text: TextSide, lock: threading.Lock):
        self._model, self._text, self._lock = model, text, lock
        self._prompt = RewardPrompt(card.prompt)
        self.uses_facts = self._prompt.uses_facts

    def score(
        self, turns: Sequence[Turn], image: Path | None, answer: Answer, captions: Sequence[str]
    ) -> float:
        """Score of an answer to a dialogue; the reward model reads `captions` in their order."""
        encoder, template = self._text.encoder, self._text.template
        segments = query_segments(template, turns, int(image is not None))
        segments += answer_segments(answer.text, answer.stopped, template)
        reward_prompt = encoder.encode_behind(template.reward_prompt(self._prompt.render(captions)))
        folder, names = (image.parent, [image.name]) if image is not None else ("", [])
        pictures = self._text.pipeline(folder, names)
        ids = [*encoder.encode(segments).ids, *reward_prompt]
        item = AnswerItem((ids,), pictures.pixels, pictures.grids)
        with self._lock:
            scores = score_items([self._model], [item], self._text.tokenizer.pad_token_id)
        return float(scores[0, 0, 0])


@dataclass(frozen=True)
class LoadedModels:
    """Loaded checkpoints, in the order they were named, and the scorer if there is a reward model."""

    answering: list[AnsweringModel]
    scorer: Scorer | None


def load_models(
    checkpoints: Sequence[Checkpoint],
    reward_model: RewardCheckpoint | None,
    settings: BaseSettings,
    template: tuple[str, str | None],
    choices: ImageChoices,
    lengths: tuple[int, int],
) -> LoadedModels:
    """Load every base once, with the adapters of all who stand on it.

    Args:
        checkpoints: who answers; their names differ.
        reward_model: the reward model, or None.
        settings: how to load the bases.
        template: name of the conversation template of those who answer, and the system message in it.
        choices: how images become pixels for those who answer; the reward model's way is on its card.
        lengths: longest answer, and longest dialogue with it, in tokens.
    """
    wanted: dict[Path, dict[str, AdapterSpec]] = {}
    for number, checkpoint in enumerate(checkpoints):
        spec = AdapterSpec(checkpoint.adapter or NO_CHANGE, trainable=False)
        wanted.setdefault(Path(checkpoint.base).resolve(), {})[f"policy_{number}"] = spec
    if reward_model is not None:
        spec = AdapterSpec(reward_model.folder / REWARD, trainable=False)
        wanted.setdefault(Path(reward_model.base).resolve(), {})[REWARD] = spec
    banks = {base: AdapterBank(load_base(base, settings), adapters) for base, adapters in wanted.items()}
    locks = {base: threading.Lock() for base in banks}
    answering = []
    for number, checkpoint in enumerate(checkpoints):
        base = Path(checkpoint.base).resolve()
        text = load_text_side(base, choices, *template)
        policy = Policy(banks[base], f"policy_{number}")
        answering.append(AnsweringModel(checkpoint.name, policy, text, locks[base], lengths))
    if reward_model is None:
        return LoadedModels(answering, None)
    base = Path(reward_model.base).resolve()
    model = on_bank(banks[base], REWARD, reward_model.folder)
    card = reward_model.card
    text = load_text_side(base, card.image_choices, card.template, card.system_message)
    return LoadedModels(answering, Scorer(model, card, text, locks[base]))

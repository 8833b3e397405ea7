"""Yes or no, with a probability: asked of a base without any adapter, or of a judge behind an endpoint."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

from data_utils.batches import right_pad
from data_utils.conversation import dialogue_segments
from data_utils.schema import IMAGE_MARKER, Turn
from llava_rlhf.assembly.image_features import ImageFeatures, expand_query
from llava_rlhf.assembly.roles import TextSide
from llava_rlhf.engines.judge_client import Endpoint, JudgeClient, JudgeError, Question, Reply, ReplyCache
from llava_rlhf.fact_rewards.arguments import FactRewardArguments
from llava_rlhf.ppo.micro_batches import MicroBatches
from llava_rlhf.runs.stopping import EngineError
from models.adapters import AdapterBank

# One token of a chat completion, with what stood beside it to choose from.
FIRST_TOKEN = {"temperature": 0, "max_tokens": 1, "logprobs": True, "top_logprobs": 20}
WORKERS = 16  # requests under way at once, of each process
# A judge that says neither to more than half of so many is no judge; of each process, so that a hundred replies are soon there.
FIRST_QUESTIONS = 100
SHOWN = 200  # characters of a reply
TRIAL = "Is the number 3 larger than the number 2? Answer with Yes or No."

Chance = float | None  # p(Yes) / (p(Yes) + p(No)); None: whoever was asked said neither

logger = logging.getLogger(__name__)


class YesNo(NamedTuple):
    """A question to be answered with Yes or No: its text, the names of the pictures it is about, and their row of a batch."""

    text: str
    pictures: tuple[str, ...]
    row: int


class Asker(Protocol):
    """Whoever answers; `identity` says all that its answers depend on besides the question."""

    identity: str

    def probabilities(self, questions: Sequence[YesNo], images: ImageFeatures) -> Sequence[Chance]:
        """Of each; `images` are those of the rows."""
        ...


class BaseAsker:
    """A base, by the first token in which the answers Yes and No differ: it is asked for these two alone, and so always says one.

    Args:
        bank: whose base is asked.
        text: how a dialogue is written for it.
        batches: which questions it reads together.
        pad_id: fills padded columns, which are behind what is read.
        identity: names the base.
    """

    def __init__(
        self, bank: AdapterBank, text: TextSide, batches: MicroBatches, pad_id: int, identity: str = ""
    ):
        self.bank, self.text = bank, text
        self.batches, self.pad_id = batches, pad_id
        self.identity = identity

    @torch.no_grad()
    def probabilities(self, questions: Sequence[YesNo], images: ImageFeatures) -> list[float]:
        """As `Asker`."""
        vlm, sequences, answers = self.bank.vlm, [], []
        for text, pictures, row in questions:
            begun, yes_no = self._encoded(text, len(pictures))
            sequences.append(expand_query(begun, images.grids_of(row) if pictures else [], vlm))
            answers.append(yes_no)
        found = [0.0] * len(questions)

        def ask(places: list[int]) -> None:
            ids, mask = right_pad([sequences[place] for place in places], self.pad_id)
            features = images.select([questions[place].row for place in places if questions[place].pictures])
            with self.bank.use_base() as base:
                hidden = base(ids.to(vlm.device), None, features)
                last = mask.sum(dim=1).to(vlm.device) - 1
                logits = base.project(hidden[torch.arange(len(places), device=vlm.device), last]).float()
            said = logits.gather(1, torch.tensor([answers[place] for place in places], device=vlm.device))
            for place, chance in zip(places, said.softmax(dim=1)[:, 0].tolist(), strict=True):
                found[place] = chance

        self.batches.run([len(sequence) for sequence in sequences], ask)
        return found

    def _encoded(self, question: str, n_images: int) -> tuple[list[int], tuple[int, int]]:
        """Ids up to where "Yes" and "No" differ, and the ids of the two there."""
        asked = IMAGE_MARKER * n_images + question.replace(IMAGE_MARKER, " ")
        yes, no = (
            self.text.encoder.encode(
                dialogue_segments(self.text.template, (Turn("human", asked), Turn("gpt", answer)), n_images)
            ).ids
            for answer in ("Yes", "No")
        )
        place = next(at for at, (one, other) in enumerate(zip(yes, no, strict=False)) if one != other)
        return list(yes[:place]), (yes[place], no[place])


class ServerAsker:
    """A judge behind an OpenAI-compatible endpoint, by the probabilities of its first token.

    Args:
        endpoint: where; its options ask for one token with `logprobs`.
        image_folder: the names of pictures are relative to it.
    """

    def __init__(self, endpoint: Endpoint, image_folder: str | Path):
        self.identity = f"{endpoint.model} at {endpoint.url}; {Path(image_folder).resolve()}"
        self._client = JudgeClient(endpoint, ReplyCache(None))
        self._folder = Path(image_folder)
        self._tried = self._undecided = 0  # of its first questions
        self._instead: str | None = None  # what it said when it first said neither

    def probabilities(self, questions: Sequence[YesNo], images: ImageFeatures) -> list[Chance]:
        """As `Asker`. Raises EngineError where the judge does not answer, or said neither to most of what it was asked first."""
        asked = [Question(one.text, tuple(self._folder / name for name in one.pictures)) for one in questions]
        try:
            replies = self._client.ask_all(asked)
        except JudgeError as error:
            raise EngineError(
                f"{error}; start it again, and the run: it goes on from its newest checkpoint"
            ) from error
        found = [chance_of_yes(reply) for reply in replies]
        self._look_at(replies, found)
        return found

    def _look_at(self, replies: Sequence[Reply], found: Sequence[Chance]) -> None:
        """Warn of the first reply that says neither; refuse a judge where most of the first replies do."""
        neither = [reply.text for reply, chance in zip(replies, found, strict=True) if chance is None]
        if neither and self._instead is None:
            self._instead = neither[0][:SHOWN]
            logger.warning(
                "the judge %s was asked for Yes or No and said %r: such a reply pays nothing (facts/undecided counts them)",
                *(self._client.name, self._instead),
            )
        first = found[: FIRST_QUESTIONS - self._tried]
        self._tried += len(first)
        self._undecided += sum(chance is None for chance in first)
        if first and self._tried == FIRST_QUESTIONS and self._undecided > FIRST_QUESTIONS / 2:
            raise EngineError(
                f"the judge {self._client.name} was asked for Yes or No and said neither to {self._undecided} of its first "
                f"{FIRST_QUESTIONS} questions, but {self._instead!r}; take a model that answers so"
            )


def chance_of_yes(reply: Reply) -> Chance:
    """p(Yes) / (p(Yes) + p(No)) over the likeliest first tokens; without them 1 or 0 by the text; None where it says neither."""
    chances = {"yes": 0.0, "no": 0.0}
    for token, log_prob in (reply.first_token or {}).items():
        if (word := _word(token)) in chances:
            chances[word] += math.exp(log_prob)
    if total := sum(chances.values()):
        return chances["yes"] / total
    said = _word("".join(reply.text.split()[:1]))
    return {"yes": 1.0, "no": 0.0}.get(said)


def _word(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalpha())


def judge_of(arguments: FactRewardArguments) -> Endpoint | None:
    """Where the judge of claims is; None where it is the reward model's base. Raises ValueError for what is no endpoint."""
    if arguments.claim_judge_url is None or arguments.claim_judge_model is None:
        return None
    try:
        endpoint = Endpoint(
            arguments.claim_judge_url, arguments.claim_judge_model, FIRST_TOKEN, workers=WORKERS
        )
        endpoint.key()
    except ValueError as error:
        raise ValueError(f"--claim_judge_url {arguments.claim_judge_url}: {error}") from None
    return endpoint


def check_judge(endpoint: Endpoint) -> None:
    """Ask the judge once, before a model is loaded. Raises ValueError where it does not answer Yes or No."""
    client = JudgeClient(replace(endpoint, max_retries=1), ReplyCache(None))
    try:
        reply = client.ask(Question(TRIAL))
    except JudgeError as error:
        raise ValueError(f"--claim_judge_url {endpoint.url}: {error}") from None
    if chance_of_yes(reply) is None:
        raise ValueError(
            f"--claim_judge_url {endpoint.url}: {endpoint.model} was asked {TRIAL!r} and said {reply.text!r}; take a model that answers "
            "with Yes or No"
        )

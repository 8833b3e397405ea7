"""Paths and arguments → tokenizers, datasets, adapter banks and roles.

The only place that knows whether policy and reward model share a base.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from data_utils.conversation import TEMPLATES
from data_utils.facts import PLACEHOLDER, FactBook, RewardPrompt
from data_utils.images import ImagePipeline
from data_utils.problems import DataError
from data_utils.row_settings import RowSettings
from data_utils.schema import read_captions
from data_utils.tokens import SegmentEncoder, expand_image_tokens
from llava_rlhf.runs.arguments import AdapterArguments, DataArguments, FactArguments
from llava_rlhf.runs.role_files import POLICY, REFERENCE, REWARD, REWARD_HEAD, VALUE
from models.adapters import AdapterBank, AdapterSpec
from models.base_files import read_family
from models.families.base import Family, Grid
from models.heads import ScalarHead
from models.roles import Policy, RewardModel, ValueModel
from models.vlm import (
    BaseSettings,
    VisionLanguageModel,
    load_base,
    load_image_processor,
    load_tokenizer,
)

logger = logging.getLogger(__name__)

PartT = TypeVar("PartT")


@dataclass(frozen=True)
class TextSide:
    """What the data of one base needs, without its weights.

    Attributes:
        tokenizer, encoder: text ↔ ids.
        family: what stands for an image in a prompt, which tokens are no answer and which end one.
        pipeline: image files → pixels.
    """

    tokenizer: PreTrainedTokenizerBase
    encoder: SegmentEncoder
    family: Family
    pipeline: ImagePipeline

    @property
    def image_token_id(self) -> int:
        """The placeholder of an image."""
        return self.family.image_token_id

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer."""
        return self.family.stop_ids(self.tokenizer)

    def expand(self, ids: Sequence[int], grids: Sequence[Grid]) -> list[int]:
        """`ids` with every image token replaced by what stands for that image, by its grid."""
        return expand_image_tokens(ids, self.image_token_id, map(self.family.placeholder, grids))


def load_text_side(base: str | Path, image_aspect_ratio: str) -> TextSide:
    """Tokenizer and image pipeline of a base directory. Raises ValueError when it is no base of a known family."""
    family = read_family(base)
    tokenizer = _read_part(base, "tokenizer.json", load_tokenizer)
    processor = _read_part(base, "image processor", load_image_processor)
    return TextSide(
        tokenizer,
        SegmentEncoder(tokenizer, family.image_token_id),
        family,
        ImagePipeline(processor, image_aspect_ratio, None if family.fixed_positions else family.grids),
    )


def row_settings(data: DataArguments, text: TextSide, template: str | None = None) -> RowSettings:
    """How a program reads its rows; `template` names one in place of `--version`."""
    return RowSettings(
        image_folder=data.image_folder,
        encoder=text.encoder,
        template=TEMPLATES[template or data.version],
        pipeline=text.pipeline,
        query_len=data.query_len,
        response_len=data.response_len,
        model_max_length=data.model_max_length,
        skip_invalid=data.skip_invalid,
        image_checks=data.image_checks(),
        positions=None
        if text.family.fixed_positions
        else partial(text.family.positions, text.pipeline.processor),
    )


def _read_part(base: str | Path, part: str, read: Callable[[str | Path], PartT]) -> PartT:
    try:
        return read(base)
    except Exception as error:  # the libraries raise whatever type they like on files that are damaged
        if isinstance(error, ValueError) and str(base) in str(error):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"the {part} of {base} can't be read ({reason}); fetch the base again") from error


def unsampled_ids(text: TextSide, vocab_size: int) -> Tensor:
    """int64[K]: tokens that stand for no text, and rows of the vocabulary projection that stand for no token."""
    return torch.tensor(sorted({*text.family.banned_ids, *range(len(text.tokenizer), vocab_size)}))


def load_facts(arguments: FactArguments, skip_invalid: bool) -> tuple[FactBook, RewardPrompt]:
    """The caption map and the reward prompt.

    Raises:
        DataError: the caption file breaks its format. ValueError: so does the prompt file.
    """
    prompt = RewardPrompt.from_file(arguments.reward_prompt_file)
    if not arguments.facts:
        prompt = prompt.without_facts()
    elif arguments.image_to_caption_file is not None and not prompt.uses_facts:
        raise ValueError(
            f"--reward_prompt_file {arguments.reward_prompt_file} has no {PLACEHOLDER}, so nobody would read the captions "
            f"of --image_to_caption_file; write {PLACEHOLDER} where they belong, or leave the captions out (--facts False)"
        )
    return load_fact_book(arguments, skip_invalid), prompt


def load_fact_book(arguments: FactArguments, skip_invalid: bool) -> FactBook:
    """The caption map. Raises DataError when its file breaks the format."""
    captions = None
    if arguments.image_to_caption_file is not None:
        captions, problems = read_captions(arguments.image_to_caption_file)
        if problems and not (skip_invalid and captions):
            raise DataError(problems)
        if problems:
            logger.warning("%s: %d invalid entries dropped", arguments.image_to_caption_file, len(problems))
    return FactBook(captions, arguments.missing_captions)


def new_policy(
    base: str | Path, settings: BaseSettings, arguments: AdapterArguments, gradient_checkpointing: bool
) -> Policy:
    """A base with one new trainable policy adapter."""
    adapters = {POLICY: AdapterSpec(arguments.lora_settings(), trainable=True)}
    return Policy(AdapterBank(_load_frozen(base, settings), adapters, gradient_checkpointing), POLICY)


def new_reward_model(
    base: str | Path, settings: BaseSettings, arguments: AdapterArguments, gradient_checkpointing: bool
) -> RewardModel:
    """A base with one new trainable reward adapter and a new head."""
    adapters = {REWARD: AdapterSpec(arguments.lora_settings(), trainable=True)}
    bank = AdapterBank(_load_frozen(base, settings), adapters, gradient_checkpointing)
    return RewardModel(bank, REWARD, _head(bank))


def trained_reward_model(base: str | Path, settings: BaseSettings, folder: Path) -> RewardModel:
    """A reward model as it was saved, for inference. Raises ValueError when adapter or head do not fit the base."""
    bank = AdapterBank(_load_frozen(base, settings), {REWARD: AdapterSpec(folder / REWARD, trainable=False)})
    head = _head(bank)
    head.load(folder / REWARD_HEAD)
    return RewardModel(bank, REWARD, head.requires_grad_(False))


@dataclass(frozen=True)
class PPORoles:
    """The four roles of PPO. `shared` says whether all stand on one base."""

    policy: Policy
    reference: Policy
    value: ValueModel
    reward: RewardModel
    shared: bool


def load_roles(
    policy_base: str | Path,
    reward_base: str | Path,
    policy_adapter: Path,
    reward_folder: Path,
    settings: BaseSettings,
    value_from_reward: bool,
    gradient_checkpointing: bool,
) -> PPORoles:
    """Load the bases (one per distinct path) and the four roles.

    Args:
        policy_base, reward_base: base directories of policy + reference and of reward + value.
        policy_adapter: PEFT folder that policy and reference start from.
        reward_folder: reward model (adapter, head).
        settings: how to load the bases.
        value_from_reward: the value adapter starts from the reward adapter, else from the policy's.
        gradient_checkpointing: recompute activations while training.

    Raises:
        ValueError: an adapter or head does not fit its base.
    """
    reward_adapter = reward_folder / REWARD
    value_source = reward_adapter if value_from_reward else policy_adapter
    policy_path, reward_path = Path(policy_base).resolve(), Path(reward_base).resolve()
    wanted: dict[Path, dict[str, AdapterSpec]] = {
        policy_path: {},
        reward_path: {},
    }  # one entry if they are the same
    wanted[policy_path] |= {
        POLICY: AdapterSpec(policy_adapter, trainable=True),
        REFERENCE: AdapterSpec(policy_adapter, trainable=False),
    }
    wanted[reward_path] |= {
        VALUE: AdapterSpec(value_source, trainable=True),
        REWARD: AdapterSpec(reward_adapter, trainable=False),
    }
    banks = {
        base: AdapterBank(_load_frozen(base, settings), adapters, gradient_checkpointing)
        for base, adapters in wanted.items()
    }
    policy_bank, reward_bank = banks[policy_path], banks[reward_path]
    reward_head = _head(reward_bank)
    reward_head.load(reward_folder / REWARD_HEAD)
    return PPORoles(
        Policy(policy_bank, POLICY),
        Policy(policy_bank, REFERENCE),
        ValueModel(reward_bank, VALUE, _head(reward_bank, zero=True)),
        RewardModel(reward_bank, REWARD, reward_head.requires_grad_(False)),
        shared=policy_bank is reward_bank,
    )


def _load_frozen(base: str | Path, settings: BaseSettings) -> VisionLanguageModel:
    # Loading draws random numbers under ZeRO-3 only: what is drawn afterwards, adapters and heads, must not depend on it.
    with torch.random.fork_rng(devices=[]):
        return load_base(base, settings)


def _head(bank: AdapterBank, zero: bool = False) -> ScalarHead:
    return ScalarHead(bank.vlm.hidden_size, zero=zero).to(bank.vlm.device)

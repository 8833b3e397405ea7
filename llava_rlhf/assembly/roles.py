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

from data_utils.conversation import CHAT, TEMPLATES, Template
from data_utils.fact_lists import read_facts
from data_utils.facts import PLACEHOLDER, FactBook, MissingCaptions, RewardPrompt
from data_utils.image_choices import ImageChoices
from data_utils.images import ImagePipeline
from data_utils.problems import DataError, Problem
from data_utils.row_settings import RowSettings
from data_utils.schema import read_captions
from data_utils.tokens import SegmentEncoder, expand_image_tokens
from llava_rlhf.assembly.chat_templates import read_pieces
from llava_rlhf.assembly.image_choices import fit_processor
from llava_rlhf.assembly.reward_models import load_frozen, on_bank, reward_adapters
from llava_rlhf.assembly.template_files import stop_ids
from llava_rlhf.runs.arguments import AdapterArguments, DataArguments, FactArguments
from llava_rlhf.runs.role_files import POLICY, REFERENCE, REWARD, VALUE
from models.adapters import AdapterBank, AdapterSpec
from models.base_files import read_family
from models.families.base import Family, Grid
from models.heads import ScalarHead
from models.roles import Policy, RewardModel, ValueModel
from models.vlm import (
    BaseSettings,
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
        family: what stands for an image in a prompt, and which tokens are no answer.
        pipeline: image files → pixels.
        template: how dialogues are written.
        stop_ids: tokens that end an answer.
        image_choices: how pictures become pixels, with nothing left open.
    """

    tokenizer: PreTrainedTokenizerBase
    encoder: SegmentEncoder
    family: Family
    pipeline: ImagePipeline
    template: Template
    stop_ids: tuple[int, ...]
    image_choices: ImageChoices

    @property
    def eos_token_id(self) -> int | list[int]:
        """`stop_ids` as a generation configuration names them."""
        return list(self.stop_ids) if len(self.stop_ids) > 1 else self.stop_ids[0]

    @property
    def image_token_id(self) -> int:
        """The placeholder of an image."""
        return self.family.image_token_id

    def expand(self, ids: Sequence[int], grids: Sequence[Grid]) -> list[int]:
        """`ids` with every image token replaced by what stands for that image, by its grid."""
        return expand_image_tokens(ids, self.image_token_id, map(self.family.placeholder, grids))


def load_text_side(
    base: str | Path,
    choices: ImageChoices,
    version: str,
    system_message: str | None = None,
) -> TextSide:
    """Tokenizer, image pipeline and conversation template of a base directory.

    Args:
        base: the directory.
        choices: how images become pixels.
        version: name of the template; `chat`: the one that the base has itself,
        system_message: with this in it.

    Raises:
        ValueError: it is no base of a known family, has no template that can be used, or leaves no such choice.
    """
    family = read_family(base)
    tokenizer = _read_part(base, "tokenizer.json", load_tokenizer)
    processor = _read_part(base, "image processor", load_image_processor)
    encoder = SegmentEncoder(tokenizer, family.image_token_id)
    template = (
        read_pieces(base, tokenizer, encoder, family, system_message)
        if version == CHAT
        else TEMPLATES[version]
    )
    chosen = fit_processor(processor, choices, base, family)
    return TextSide(
        tokenizer,
        encoder,
        family,
        ImagePipeline(processor, chosen.image_aspect_ratio, None if family.fixed_positions else family.cut),
        template,
        stop_ids(base, tokenizer, template),
        chosen,
    )


def row_settings(data: DataArguments, text: TextSide) -> RowSettings:
    """How a program reads its rows."""
    return RowSettings(
        image_folder=data.image_folder,
        encoder=text.encoder,
        template=text.template,
        pipeline=text.pipeline,
        query_len=data.query_len,
        response_len=data.response_len,
        model_max_length=data.model_max_length,
        skip_invalid=data.skip_invalid,
        image_checks=data.image_checks(),
        positions=None
        if text.family.fixed_positions
        else partial(text.family.positions, text.pipeline.processor),
        one_image=None if text.family.several_pictures else text.family.title,
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
    """The maps of captions and other facts, and the reward prompt.

    Raises:
        DataError: one of the maps breaks its format. ValueError: so does the prompt file.
    """
    prompt = RewardPrompt.from_file(arguments.reward_prompt_file)
    if not arguments.facts:
        prompt = prompt.without_facts()
    elif not prompt.uses_facts and (arguments.image_to_caption_file or arguments.image_to_facts_file):
        flag, what = (
            ("--image_to_caption_file", "captions")
            if arguments.image_to_caption_file
            else ("--image_to_facts_file", "facts")
        )
        raise ValueError(
            f"--reward_prompt_file {arguments.reward_prompt_file} has no {PLACEHOLDER}, so nobody would read the {what} "
            f"of {flag}; write {PLACEHOLDER} where they belong, or leave the {what} out (--facts False)"
        )
    files = (arguments.image_to_caption_file, arguments.image_to_facts_file)
    return load_fact_book(*files, arguments.missing_captions, skip_invalid), prompt


def load_fact_book(
    captions_file: str | None, facts_file: str | None, missing: MissingCaptions, skip_invalid: bool
) -> FactBook:
    """The maps of captions and other facts, where there are any. Raises DataError when a file breaks the format."""
    captions = _read_map(read_captions, captions_file, skip_invalid)
    facts = _read_map(read_facts, facts_file, skip_invalid)
    return FactBook(captions, missing, facts)


def _read_map(
    read: Callable[[str], tuple[dict[str, PartT], list[Problem]]], path: str | None, skip_invalid: bool
) -> dict[str, PartT] | None:
    if path is None:
        return None
    found, problems = read(path)
    if problems and not (skip_invalid and found):
        raise DataError(problems)
    if problems:
        logger.warning("%s: %d invalid entries dropped", path, len(problems))
    return found


def new_policy(
    base: str | Path, settings: BaseSettings, arguments: AdapterArguments, gradient_checkpointing: bool
) -> Policy:
    """A base with one new trainable policy adapter."""
    adapters = {POLICY: AdapterSpec(arguments.lora_settings(), trainable=True)}
    return Policy(AdapterBank(load_frozen(base, settings), adapters, gradient_checkpointing), POLICY)


@dataclass(frozen=True)
class PPORoles:
    """The roles of PPO, four with a critic; without one `value` is None.

    `shared` says whether all stand on one base; `more_rewards` score together with `reward`.
    """

    policy: Policy
    reference: Policy
    value: ValueModel | None
    reward: RewardModel
    shared: bool
    more_rewards: tuple[RewardModel, ...] = ()

    @property
    def rewards(self) -> tuple[RewardModel, ...]:
        """All who score, on one base."""
        return (self.reward, *self.more_rewards)


def load_roles(
    policy_base: str | Path,
    reward_base: str | Path,
    policy_adapter: Path,
    reward_folder: Path,
    settings: BaseSettings,
    value_from_reward: bool,
    gradient_checkpointing: bool,
    critic: bool = True,
    more_reward_folders: Sequence[Path] = (),
) -> PPORoles:
    """Load the bases (one per distinct path) and the roles.

    Args:
        policy_base, reward_base: base directories of policy + reference and of reward + value.
        policy_adapter: PEFT folder that policy and reference start from.
        reward_folder: reward model (adapter, head).
        settings: how to load the bases.
        value_from_reward: the value adapter starts from the reward adapter, else from the policy's.
        gradient_checkpointing: recompute activations while training.
        critic: whether there is a value model.
        more_reward_folders: reward models that score together with it, on its base.

    Raises:
        ValueError: an adapter or head does not fit its base.
    """
    value_source = reward_folder / REWARD if value_from_reward else policy_adapter
    rewards = reward_adapters([reward_folder, *more_reward_folders])
    policy_path, reward_path = Path(policy_base).resolve(), Path(reward_base).resolve()
    wanted: dict[Path, dict[str, AdapterSpec]] = {
        policy_path: {},
        reward_path: {},
    }  # one entry if they are the same
    wanted[policy_path] |= {
        POLICY: AdapterSpec(policy_adapter, trainable=True),
        REFERENCE: AdapterSpec(policy_adapter, trainable=False),
    }
    wanted[reward_path] |= {VALUE: AdapterSpec(value_source, trainable=True)} if critic else {}
    wanted[reward_path] |= rewards
    banks = {
        base: AdapterBank(load_frozen(base, settings), adapters, gradient_checkpointing)
        for base, adapters in wanted.items()
    }
    policy_bank, reward_bank = banks[policy_path], banks[reward_path]
    folders = (reward_folder, *more_reward_folders)
    reward, *others = (on_bank(reward_bank, *pair) for pair in zip(rewards, folders, strict=True))
    return PPORoles(
        Policy(policy_bank, POLICY),
        Policy(policy_bank, REFERENCE),
        ValueModel(reward_bank, VALUE, _zero_head(reward_bank)) if critic else None,
        reward,
        shared=policy_bank is reward_bank,
        more_rewards=tuple(others),
    )


def _zero_head(bank: AdapterBank) -> ScalarHead:
    return ScalarHead(bank.vlm.hidden_size, zero=True).to(bank.vlm.device)

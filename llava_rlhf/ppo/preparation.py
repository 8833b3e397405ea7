"""What is checked and read of a PPO run before a model is loaded: roles and bases that fit, prompts, feature caches."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_utils.building import build_prompts
from data_utils.conversation import TEMPLATES
from data_utils.datasets import PromptDataset
from data_utils.facts import RewardPrompt
from data_utils.feature_files import FeatureFiles
from llava_rlhf.assembly.conversations import check_conversation
from llava_rlhf.assembly.feature_cache import open_feature_cache
from llava_rlhf.assembly.roles import TextSide, load_facts, load_text_side, row_settings
from llava_rlhf.ppo.arguments import PPOArguments
from llava_rlhf.ppo.assembly import PPOSettings
from llava_rlhf.ppo.batch_plan import BatchPlan, fit_batches, plan_batches
from llava_rlhf.ppo.optimization import check_optimizer, learning_rate_schedule
from llava_rlhf.runs.checking import processes_of_run, was_checked
from llava_rlhf.runs.logs import announce, describe_passes, start_logging
from llava_rlhf.runs.missing_paths import refuse_missing_paths
from llava_rlhf.runs.output_place import check_writable
from llava_rlhf.runs.role_files import (
    REWARD,
    REWARD_HEAD,
    RewardModelCard,
    find_policy_adapter,
    read_card_alone,
    read_reward_card,
)
from llava_rlhf.runs.run_record import adapter_identity, base_identity, file_identity, run_record
from llava_rlhf.runs.starting import starting_point, with_lowered_batches
from models.adapter_files import check_adapter_fits
from models.base_check import check_base
from models.base_files import read_base_facts
from models.base_place import why_absent
from models.heads import check_head_fits

PROGRAM = "train_rl_model"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PPORun:
    """A checked PPO run: settings, prompts, batch sizes and where everything starts from."""

    settings: PPOSettings
    text: TextSide
    prompts: PromptDataset
    plan: BatchPlan
    learning_rate: Callable[[int], float]
    policy_adapter: Path
    reward_base: str
    record: Mapping[str, Any]
    checkpoint: Path | None
    caches: dict[str, FeatureFiles]


def check_run(settings: PPOSettings) -> PPORun:
    """Check everything before a model is loaded. Raises ValueError for what a user can get wrong."""
    ppo, data = settings.ppo, settings.data
    rank, world_size = int(os.environ.get("RANK", 0)), processes_of_run()
    start_logging(rank == 0)
    refuse_missing_paths(ppo)
    check_optimizer(ppo.optim)
    settings.model.check_attention(ppo.bf16, ppo.fp16, ppo.use_cpu)
    check_base(ppo.base_model_name, program=PROGRAM)
    policy_adapter = find_policy_adapter(ppo.policy_model_name_or_path)
    check_adapter_fits(policy_adapter, ppo.base_model_name)
    card = read_reward_card(ppo.reward_model_name_or_path)
    reward_base = ppo.reward_base_model_name or card.find_base(
        ppo.reward_model_name_or_path, "--reward_base_model_name"
    )
    check_reward_base(ppo, reward_base)
    check_adapter_fits(Path(ppo.reward_model_name_or_path) / REWARD, reward_base)
    check_head_fits(Path(ppo.reward_model_name_or_path) / REWARD_HEAD, reward_base)
    card.check_base(ppo.reward_model_name_or_path, reward_base, "--reward_base_model_name")
    inputs = identify_inputs(settings, policy_adapter, reward_base)
    record = run_record(vars(settings).values(), inputs, world_size, ppo.step_batch_size)
    checkpoint = starting_point(settings.run, ppo.output_dir, record, rank == 0)
    check_writable("--output_dir", ppo.output_dir)
    text, reward_text = load_text_sides(ppo.base_model_name, reward_base, data.image_aspect_ratio)
    check_conversation(ppo.base_model_name, text.tokenizer, TEMPLATES[data.version])
    prompts = load_prompts(settings, text, reward_text, card)
    announce(prompts.report, rank == 0, settings.run.shows_all)
    lowered = fit_batches(ppo, world_size, len(prompts))
    record = with_lowered_batches(record, lowered, checkpoint, settings.run)
    ppo = replace(ppo, **lowered)
    plan = plan_batches(ppo, world_size, len(prompts))
    if rank == 0 and not was_checked():
        say_what_is_run(settings.ppo, lowered, plan, len(prompts))
    settings = replace(settings, ppo=ppo)
    learning_rate = learning_rate_schedule(
        ppo.lr_scheduler_type, ppo.learning_rate, ppo.warmup_steps, plan.ppo_steps
    )
    caches = open_feature_caches(settings, text, reward_text, reward_base, rank == 0)
    prompts = prompts.with_features(caches.get("policy"), caches.get("reward"))
    return PPORun(
        settings,
        text,
        prompts,
        plan,
        learning_rate,
        policy_adapter,
        reward_base,
        record,
        checkpoint,
        caches,
    )


def say_what_is_run(asked: PPOArguments, lowered: Mapping[str, int], plan: BatchPlan, prompts: int) -> None:
    """Log what the data made of the settings: batch sizes that were lowered, and how often prompts are passed over."""
    if lowered:
        logger.warning(
            "%d prompts are less than --rollout_batch_size %d; going on with %s (%s of the scripts)",
            prompts,
            asked.rollout_batch_size,
            " ".join(f"--{name} {value}" for name, value in lowered.items()),
            " ".join(f"{name.upper()}={value}" for name, value in lowered.items()),
        )
    if asked.max_steps > 0:
        taken = plan.rollouts * plan.world_size
        passes = plan.ppo_steps / (prompts // taken)
        logger.info(describe_passes(asked.max_steps, "--total_epochs", passes, f"{prompts} prompts"))


def summarize_prompts(settings: PPOSettings) -> None:
    """Check and print all that `--summary_only` asks for: settings and prompts, with the files of both bases but weights.

    The card of the reward model says how it scores; where there is no reward model yet, nothing is compared with it.

    Raises ValueError for what a user can get wrong.
    """
    ppo, data = settings.ppo, settings.data
    start_logging(main_process=True)
    _tell_absent(ppo)
    card = read_card_alone(ppo.reward_model_name_or_path)
    reward_base = ppo.reward_base_model_name or (card.base_model if card else ppo.base_model_name)
    check_base(ppo.base_model_name, False, PROGRAM)
    check_reward_base(ppo, reward_base, weights=False)
    text, reward_text = load_text_sides(ppo.base_model_name, reward_base, data.image_aspect_ratio)
    check_conversation(ppo.base_model_name, text.tokenizer, TEMPLATES[data.version])
    prompts = load_prompts(settings, text, reward_text, card)
    announce(prompts.report, main_process=True, in_full=True)
    lowered = fit_batches(ppo, processes_of_run(), len(prompts))
    plan = plan_batches(replace(ppo, **lowered), processes_of_run(), len(prompts))
    say_what_is_run(ppo, lowered, plan, len(prompts))


def _tell_absent(ppo: PPOArguments) -> None:
    """Name the adapters that may be made later; where a base is missing, too, raise ValueError that names all of them."""
    bases = [path for path in (ppo.base_model_name, ppo.reward_base_model_name) if path]
    if not all(Path(path).is_dir() for path in bases):
        refuse_missing_paths(ppo)
    flags = ("policy_model_name_or_path", "reward_model_name_or_path")
    absent = [f"--{flag} {getattr(ppo, flag)}" for flag in flags if not Path(getattr(ppo, flag)).is_dir()]
    if absent:
        print(f"not checked, not there: {', '.join(absent)}")


def identify_inputs(settings: PPOSettings, policy_adapter: Path, reward_base: str) -> dict[str, str | None]:
    """What the files hold that a run is made from, by their flags."""
    ppo = settings.ppo
    reward_model = Path(ppo.reward_model_name_or_path)
    return {
        "dataset_path": file_identity(settings.data.dataset_path),
        "image_to_caption_file": file_identity(settings.facts.image_to_caption_file),
        "reward_prompt_file": file_identity(settings.facts.reward_prompt_file),
        "deepspeed": file_identity(ppo.deepspeed),
        "base_model_name": base_identity(ppo.base_model_name),
        "reward_base_model_name": base_identity(reward_base),
        "policy_model_name_or_path": adapter_identity(policy_adapter),
        "reward_model_name_or_path": f"{adapter_identity(reward_model / REWARD)}; {file_identity(reward_model / REWARD_HEAD)}",
    }


def check_reward_base(ppo: PPOArguments, reward_base: str, weights: bool = True) -> None:
    """Raise ValueError when the reward model's base is not there, or the value model can't start from the policy adapter."""
    if not Path(reward_base).is_dir():
        raise ValueError(
            f"the base of the reward model, {reward_base}, is no directory (named by reward_model.json of "
            f"{ppo.reward_model_name_or_path}): {why_absent(reward_base)}; name it with --reward_base_model_name"
        )
    check_base(reward_base, weights, PROGRAM)
    reward, policy = read_base_facts(reward_base), read_base_facts(ppo.base_model_name)
    if not ppo.init_value_with_reward and (reward.layers, reward.hidden_size) != (
        policy.layers,
        policy.hidden_size,
    ):
        raise ValueError(
            f"--init_value_with_reward False: the policy's adapter ({policy.layers} layers of {policy.hidden_size}) does "
            f"not fit the reward model's base ({reward.layers} layers of {reward.hidden_size}); use True"
        )


def load_text_sides(policy_base: str, reward_base: str, image_aspect_ratio: str) -> tuple[TextSide, TextSide]:
    """Tokenizers and image pipelines of both bases. Raises ValueError when their vocabularies differ."""
    text = load_text_side(policy_base, image_aspect_ratio)
    if Path(reward_base).resolve() == Path(policy_base).resolve():
        return text, text
    reward = load_text_side(reward_base, image_aspect_ratio)
    if (
        reward.tokenizer.get_vocab() != text.tokenizer.get_vocab()
        or reward.image_token_id != text.image_token_id
    ):
        raise ValueError(
            f"{policy_base} and {reward_base} have different tokenizers; the reward model reads the policy's token ids, "
            "so both must share one vocabulary"
        )
    return text, reward


def load_prompts(
    settings: PPOSettings, text: TextSide, reward_text: TextSide, card: RewardModelCard | None
) -> PromptDataset:
    """The prompts, to be scored as the reward model was trained to score.

    Raises:
        ValueError: other conditions of scoring than the reward model's, without --allow_prompt_change; bad data.
    """
    ppo, data = settings.ppo, settings.data
    facts, prompt = load_facts(settings.facts, data.skip_invalid)
    if card is not None:
        _check_conditions(settings, card, prompt)
    return build_prompts(
        data.dataset_path,
        row_settings(data, text),
        reward_pipeline=None if reward_text is text else reward_text.pipeline,
        facts=facts,
        prompt=prompt,
        seed=ppo.seed,
    )


def _check_conditions(settings: PPOSettings, card: RewardModelCard, prompt: RewardPrompt) -> None:
    ppo, data = settings.ppo, settings.data
    now = replace(
        card,
        prompt=prompt.text,
        facts=prompt.uses_facts,
        template=data.version,
        image_aspect_ratio=data.image_aspect_ratio,
    )
    differences = card.differences(now)
    if differences and not ppo.allow_prompt_change:
        raise ValueError(
            f"{ppo.reward_model_name_or_path} was trained under other conditions: "
            + "; ".join(differences)
            + ". Use the same, or --allow_prompt_change True."
        )


def open_feature_caches(
    settings: PPOSettings, text: TextSide, reward_text: TextSide, reward_base: str, main_process: bool
) -> dict[str, FeatureFiles]:
    """The feature caches that `--feature_cache` asks for, by tower. Raises ValueError when there can be none."""
    ppo, directory = settings.ppo, settings.run.feature_cache
    if directory is None:
        return {}
    dtype = settings.model.base_settings(ppo.bf16, ppo.fp16, "cpu").compute_dtype
    bases = {"policy": (ppo.base_model_name, text)}
    if reward_text is not text:
        bases["reward"] = (reward_base, reward_text)
    return {
        tower: open_feature_cache(directory, base, side.pipeline, dtype, main_process)
        for tower, (base, side) in bases.items()
    }

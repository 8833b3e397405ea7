"""What is checked and read of a PPO run before a model is loaded: roles and bases that fit, prompts, feature caches."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_utils.building import build_prompts
from data_utils.conversation import ChatTemplate
from data_utils.datasets import PromptDataset
from data_utils.facts import RewardPrompt
from data_utils.feature_files import FeatureFiles
from llava_rlhf.assembly.conversations import check_conversation
from llava_rlhf.assembly.feature_cache import NO_CACHE_UNDER_ZERO_3, open_feature_cache
from llava_rlhf.assembly.image_choices import check_limits, with_aspect_ratio
from llava_rlhf.assembly.reward_models import check_members, check_reward_files
from llava_rlhf.assembly.roles import TextSide, load_facts, row_settings
from llava_rlhf.engines.handshake import Wanted, check_servers, demanding_prompts
from llava_rlhf.engines.pictures import ServedPictures
from llava_rlhf.engines.prompts import PromptWriter
from llava_rlhf.engines.serving import check_served
from llava_rlhf.ppo.arguments import PPOArguments
from llava_rlhf.ppo.assembly import PPOSettings
from llava_rlhf.ppo.bases import check_reward_base, load_text_sides
from llava_rlhf.ppo.batch_plan import BatchPlan, fit_batches, plan_batches
from llava_rlhf.ppo.checkpoints import check_roles
from llava_rlhf.ppo.fact_scores import check_facts
from llava_rlhf.ppo.inputs import identify_inputs
from llava_rlhf.ppo.known_answers import CACHE, read_answers
from llava_rlhf.ppo.optimization import check_optimizer, learning_rate_schedule
from llava_rlhf.ppo.yes_no import check_judge, judge_of
from llava_rlhf.runs.checking import processes_of_run, was_checked
from llava_rlhf.runs.logs import announce, describe_passes, start_logging
from llava_rlhf.runs.missing_paths import refuse_missing, refuse_missing_paths
from llava_rlhf.runs.output_place import check_writable
from llava_rlhf.runs.reward_card import RewardModelCard, read_card_alone, read_reward_card
from llava_rlhf.runs.role_files import (
    check_pieces,
    find_policy_adapter,
    pieces_of,
)
from llava_rlhf.runs.run_record import run_record
from llava_rlhf.runs.starting import starting_point, with_lowered_batches
from models.adapter_files import check_adapter_fits
from models.base_check import check_base

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
    ppo = settings.ppo
    rank, world_size = int(os.environ.get("RANK", 0)), processes_of_run()
    start_logging(rank == 0)
    refuse_missing_paths(ppo, settings.ensemble)
    check_optimizer(ppo.optim)
    check_together(settings)
    settings.model.check_attention(ppo.bf16, ppo.fp16, ppo.use_cpu)
    settings.engine.check_with(settings.model.bits, settings.guards.ddp_timeout)
    check_base(ppo.base_model_name)
    settings = replace(settings, data=with_aspect_ratio(settings.data, ppo.base_model_name))
    policy_adapter = find_policy_adapter(ppo.policy_model_name_or_path)
    check_adapter_fits(policy_adapter, ppo.base_model_name)
    card = read_reward_card(ppo.reward_model_name_or_path)
    reward_base = ppo.reward_base_model_name or card.find_base(
        ppo.reward_model_name_or_path, "--reward_base_model_name"
    )
    check_reward_base(ppo, reward_base)
    check_reward_files(ppo.reward_model_name_or_path, card, reward_base, "--reward_base_model_name")
    members = settings.ensemble.more_reward_models
    settings.ensemble.check_with(ppo.reward_model_name_or_path)
    check_members(ppo.reward_model_name_or_path, card, members, reward_base, "--reward_base_model_name")
    inputs = identify_inputs(settings, policy_adapter, reward_base)
    text, reward_text = load_text_sides(ppo.base_model_name, reward_base, settings.data)
    chat = [text.template] if isinstance(text.template, ChatTemplate) else []
    record = run_record([*vars(settings).values(), *chat], inputs, world_size, ppo.step_batch_size)
    checkpoint = starting_point(settings.run, ppo.output_dir, record, vars(settings).values(), rank == 0)
    check_roles(checkpoint, settings.estimator.has_critic)
    check_writable("--output_dir", ppo.output_dir)
    if settings.fact_reward.asks:
        read_answers(Path(ppo.output_dir) / CACHE.format(settings.fact_reward.fact_reward, rank))
    check_limits(ppo.base_model_name, policy_adapter, text.image_choices)
    check_conversation(ppo.base_model_name, text.tokenizer, text.template)
    check_pieces(ppo.base_model_name, policy_adapter, text.template)
    prompts = load_prompts(settings, text, reward_text, card)
    announce(prompts.report, rank == 0, settings.run.shows_all)
    lowered, plan = fit_run(settings, world_size, len(prompts))
    record = with_lowered_batches(record, lowered, checkpoint, settings.run)
    ppo = replace(ppo, **lowered)
    if rank == 0 and not was_checked():
        say_what_is_run(settings, lowered, plan, len(prompts))
        ask_servers(settings, text, prompts, policy_adapter)
    settings = replace(settings, ppo=ppo)
    learning_rate = learning_rate_schedule(
        ppo.lr_scheduler_type, ppo.learning_rate, ppo.warmup_steps, plan.ppo_steps
    )
    caches = open_feature_caches(settings, text, reward_text, reward_base, rank == 0)
    prompts = prompts.with_features(caches.get("policy"), caches.get("reward"))
    return PPORun(
        settings, text, prompts, plan, learning_rate, policy_adapter, reward_base, record, checkpoint, caches
    )


def ask_servers(settings: PPOSettings, text: TextSide, prompts: PromptDataset, policy_adapter: Path) -> None:
    """Look whether the servers, where there are any, can answer these prompts, and a judge questions.

    Raises ValueError where they can't.
    """
    if (judge := judge_of(settings.fact_reward)) is not None:
        check_judge(judge)
    if not settings.engine.served:
        return
    check_served(settings.ppo.base_model_name)
    writer = PromptWriter(text, ServedPictures(settings.data.image_folder, text.pipeline, text.family))
    wanted = Wanted(
        settings.ppo.base_model_name,
        demanding_prompts(prompts, writer),
        settings.data.response_len,
        policy_adapter,
        settings.engine.adapter_folder(settings.ppo.output_dir),
    )
    check_servers(settings.engine, wanted)


def check_together(settings: PPOSettings) -> None:
    """Raise ValueError for settings of which one leaves another no sense, or takes from it what it needs."""
    ppo, engine = settings.ppo, settings.engine.rollout_engine
    settings.estimator.check_with(ppo, settings.reward)
    settings.loss.check_with(settings.reward.kl_estimator, ppo.log_entropy, ppo.numerics)
    settings.loss.check_engine(engine)
    ppo.check_engine(engine)
    settings.fact_reward.check_with(settings.reward.reward_model_coef, ppo.divides_base)
    judge_of(settings.fact_reward)
    if ppo.divides_base and settings.run.feature_cache is not None:
        raise ValueError(NO_CACHE_UNDER_ZERO_3)


def fit_run(settings: PPOSettings, world_size: int, prompts: int) -> tuple[dict[str, int], BatchPlan]:
    """Batch sizes that were lowered to what the data has, and the plan of the run. Raises ValueError where there is none."""
    samples = settings.estimator.samples_per_prompt
    lowered = fit_batches(settings.ppo, world_size, prompts, samples)
    plan = plan_batches(replace(settings.ppo, **lowered), world_size, prompts, samples)
    settings.estimator.check_steps(plan.ppo_steps)
    return lowered, plan


def say_what_is_run(asked: PPOSettings, lowered: Mapping[str, int], plan: BatchPlan, prompts: int) -> None:
    """Log what the recipe and the data made of the settings: defaults, lowered batch sizes, how often prompts are passed over."""
    if asked.estimator.said():
        logger.info(asked.estimator.said())
    if lowered:
        logger.warning(
            "%d prompts are less than --rollout_batch_size %d takes; going on with %s (%s of the scripts)",
            prompts,
            asked.ppo.rollout_batch_size,
            " ".join(f"--{name} {value}" for name, value in lowered.items()),
            " ".join(f"{name.upper()}={value}" for name, value in lowered.items()),
        )
    if asked.ppo.max_steps > 0:
        taken = plan.rollouts * plan.world_size // asked.estimator.samples_per_prompt
        passes = plan.ppo_steps / (prompts // taken)
        logger.info(describe_passes(asked.ppo.max_steps, "--total_epochs", passes, f"{prompts} prompts"))


def summarize_prompts(settings: PPOSettings) -> None:
    """Check and print all that `--summary_only` asks for: settings and prompts, with the files of both bases but weights.

    The card of the reward model says how it scores; where there is no reward model yet, nothing is compared with it.

    Raises ValueError for what a user can get wrong.
    """
    ppo, data = settings.ppo, settings.data
    start_logging(main_process=True)
    check_together(settings)
    _tell_absent(ppo, settings.ensemble.more_reward_models)
    card = _cards_alone(settings)
    reward_base = ppo.reward_base_model_name or (card.base_model if card else ppo.base_model_name)
    check_base(ppo.base_model_name, False)
    check_reward_base(ppo, reward_base, weights=False)
    text, reward_text = load_text_sides(ppo.base_model_name, reward_base, data)
    check_conversation(ppo.base_model_name, text.tokenizer, text.template)
    prompts = load_prompts(settings, text, reward_text, card)
    announce(prompts.report, main_process=True, in_full=True)
    lowered, plan = fit_run(settings, processes_of_run(), len(prompts))
    say_what_is_run(settings, lowered, plan, len(prompts))


def _cards_alone(settings: PPOSettings) -> RewardModelCard | None:
    """The card of the reward model, if it is there, once those of an ensemble that are there agree with it."""
    folder, members = settings.ppo.reward_model_name_or_path, settings.ensemble.more_reward_models
    settings.ensemble.check_with(folder)
    card = read_card_alone(folder)
    for member in members if card else ():
        other = read_card_alone(member)
        if other is not None:
            card.check_member(folder, member, other)
    return card


def _tell_absent(ppo: PPOArguments, members: Sequence[str]) -> None:
    """Name the adapters that may be made later; where a base is missing, too, raise ValueError that names all of them."""
    bases = [path for path in (ppo.base_model_name, ppo.reward_base_model_name) if path]
    if not all(Path(path).is_dir() for path in bases):
        refuse_missing({**vars(ppo), "more_reward_models": members})
    flags = ("policy_model_name_or_path", "reward_model_name_or_path")
    named = [(flag, getattr(ppo, flag)) for flag in flags]
    named += [("more_reward_models", member) for member in members]
    absent = [f"--{flag} {path}" for flag, path in named if not Path(path).is_dir()]
    if absent:
        print(f"not checked, not there: {', '.join(absent)}")


def load_prompts(
    settings: PPOSettings, text: TextSide, reward_text: TextSide, card: RewardModelCard | None
) -> PromptDataset:
    """The prompts, to be scored as the reward model was trained to score.

    Raises:
        ValueError: other conditions of scoring than the reward model's, without --allow_prompt_change; bad data; no facts
            for a fact reward.
    """
    ppo, data = settings.ppo, settings.data
    facts, prompt = load_facts(settings.facts, data.skip_invalid)
    settings.estimator.check_prompt(prompt.uses_facts)
    if card is not None:
        _check_conditions(settings, card, prompt, reward_text)
    prompts = build_prompts(
        data.dataset_path,
        row_settings(data, text),
        reward_pipeline=None if reward_text is text else reward_text.pipeline,
        facts=facts,
        prompt=prompt,
        seed=ppo.seed,
    )
    if said := check_facts(settings.fact_reward, prompts):
        logger.info(said)
    return prompts


def _check_conditions(
    settings: PPOSettings, card: RewardModelCard, prompt: RewardPrompt, text: TextSide
) -> None:
    ppo, data = settings.ppo, settings.data
    now = replace(
        card,
        prompt=prompt.text,
        facts=prompt.uses_facts,
        template=data.version,
        **vars(text.image_choices),
        system_message=data.system_message,
        template_pieces=pieces_of(text.template),
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

"""Flags → who pays answers by what they say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llava_rlhf.assembly.roles import PPORoles, TextSide
from llava_rlhf.fact_rewards.claims import ClaimReward
from llava_rlhf.fact_rewards.mentions import MentionReward, word_list
from llava_rlhf.ppo.claim_scores import ClaimScorer
from llava_rlhf.ppo.fact_scores import FactScorer
from llava_rlhf.ppo.known_answers import CACHE, KnownAnswers
from llava_rlhf.ppo.micro_batches import MicroBatches
from llava_rlhf.ppo.yes_no import Asker, BaseAsker, ServerAsker, judge_of
from llava_rlhf.runs.run_record import base_identity

if TYPE_CHECKING:
    from llava_rlhf.ppo.assembly import PPOSettings


def make_fact_scorer(
    roles: PPORoles, text: TextSide, settings: PPOSettings, process: int
) -> FactScorer | ClaimScorer | None:
    """Who pays answers by what they say; None without a fact reward.

    Args:
        roles: whose reward model's base is asked, where it is.
        text: how a dialogue is written for it.
        settings: of the run.
        process: number of this one, whose answers of a judge are kept in a file of its own.

    Raises:
        ValueError: that file is none.
    """
    facts = settings.fact_reward
    if not facts.on:
        return None
    if not facts.asks:
        return FactScorer(MentionReward(word_list(facts), facts))
    judge = judge_of(facts)
    asker: Asker = (
        _base(roles, text, settings) if judge is None else ServerAsker(judge, settings.data.image_folder)
    )
    answers = KnownAnswers(asker, Path(settings.ppo.output_dir) / CACHE.format(facts.fact_reward, process))
    if facts.judges_claims:
        return ClaimScorer(ClaimReward(facts), answers, facts.asks_picture)
    return FactScorer(MentionReward(word_list(facts), facts), answers)


def _base(roles: PPORoles, text: TextSide, settings: PPOSettings) -> BaseAsker:
    ppo, bank = settings.ppo, roles.reward.bank
    batches = MicroBatches(ppo.reward_model_per_device_batch_size, ppo.tokens_per_micro_batch)
    weights = base_identity(bank.vlm.model.config.name_or_path)
    asked = f"{text.template}; {text.image_choices}; {Path(settings.data.image_folder).resolve()}"
    identity = f"{weights}; {settings.model.bits} bits; {bank.vlm.compute_dtype}; {asked}"
    return BaseAsker(bank, text, batches, text.tokenizer.pad_token_id, identity)

"""Train a reward model: LoRA + scalar head on an SFT LLaVA, on pairs of responses, with captions in its prompt.

    python -m llava_rlhf.train_reward_model --model_name_or_path checkpoints/llava-13b-v1.5-336-sft \\
        --dataset_path data/llava_7b_v1_preference.json --image_to_caption_file data/image_to_caption.json \\
        --reward_prompt_file prompts/fact_rlhf_reward_prompt.txt --image_folder data/coco/train2017 \\
        --output_dir runs/reward_model
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llava_rlhf.hub.places import base_name, public_name
from llava_rlhf.memory_planning.names import REWARD_MODEL
from llava_rlhf.runs.arguments import AdapterArguments, DataArguments, FactArguments, RunArguments
from llava_rlhf.runs.logs import start_logging
from llava_rlhf.runs.parsing import StrictParser, run_program
from llava_rlhf.runs.reward_card import RewardModelCard
from llava_rlhf.runs.role_files import REWARD, REWARD_HEAD, pieces_of
from llava_rlhf.runs.training_flags import TrainingFlags
from llava_rlhf.supervised.head_arguments import RewardHeadArguments
from llava_rlhf.supervised.prepared import SupervisedRun, find_start
from models.base_check import check_base
from models.base_fingerprint import base_fingerprint

if TYPE_CHECKING:
    from data_utils.facts import RewardPrompt
    from llava_rlhf.assembly.roles import TextSide
    from models.roles import RewardModel

ARGUMENTS = (TrainingFlags, DataArguments, FactArguments, AdapterArguments, RunArguments, RewardHeadArguments)


@dataclass(frozen=True)
class RewardRun(SupervisedRun):
    """A checked reward-model run, with what the model will be trained under."""

    facts: FactArguments
    head: RewardHeadArguments
    card: RewardModelCard


def prepare(argv: Sequence[str]) -> RewardRun | None:
    """Parse and check everything before a model is loaded; None when `--summary_only` asks for no more.

    Raises ValueError for what a user can get wrong.
    """
    parser = StrictParser(ARGUMENTS, description=__doc__)
    training, data, fact_arguments, model, run, head = parser.parse(argv)
    from data_utils.building import build_preferences
    from llava_rlhf.assembly.conversations import check_conversation
    from llava_rlhf.assembly.feature_cache import with_feature_cache
    from llava_rlhf.assembly.image_choices import with_aspect_ratio
    from llava_rlhf.assembly.roles import load_facts, load_text_side, row_settings
    from llava_rlhf.supervised.training import announce_and_split

    start_logging(training.process_index == 0)
    model.check_attention(training.bf16, training.fp16, training.use_cpu)
    check_base(training.model_name_or_path, not run.summary_only)
    base = training.model_name_or_path
    data = with_aspect_ratio(data, base)
    text = load_text_side(base, data.image_choices(), data.version, data.system_message)
    start = (
        None
        if run.summary_only
        else find_start(training, data, model, run, text.template, fact_arguments, head)
    )
    check_conversation(base, text.tokenizer, text.template)
    facts, prompt = load_facts(fact_arguments, data.skip_invalid)
    rows = row_settings(data, text)
    dataset = build_preferences(data.dataset_path, rows, facts=facts, prompt=prompt, seed=training.seed)
    cache = None if run.summary_only else run.feature_cache
    dataset, files = with_feature_cache(dataset, cache, training, model, text.pipeline)
    train_set, eval_set, record = announce_and_split(dataset, training, run, start)
    if start is None:
        return None
    card = make_card(base, data, prompt, text, head)
    return RewardRun(
        training,
        data,
        model,
        run,
        text,
        train_set,
        eval_set,
        record,
        start[1],
        files,
        fact_arguments,
        head,
        card,
    )


def make_card(
    base: str, data: DataArguments, prompt: RewardPrompt, text: TextSide, head: RewardHeadArguments
) -> RewardModelCard:
    """What is to be known of the reward model by whoever uses it."""
    return RewardModelCard(
        public_name(base),
        prompt.text,
        prompt.uses_facts,
        data.version,
        text.image_choices.image_aspect_ratio,
        base_fingerprint(base),
        data.system_message,
        pieces_of(text.template),
        text.image_choices.min_pixels,
        text.image_choices.max_pixels,
        head.reward_head,
    )


def run(prepared: RewardRun | None) -> None:
    """Load the model, train it and save adapter, head and card."""
    if prepared is None:
        return
    from data_utils.batches import PairCollator
    from llava_rlhf.assembly.reward_models import new_reward_model
    from llava_rlhf.memory_planning.programs import announce_plan
    from llava_rlhf.supervised.reward_trainer import PairScorer, RewardTrainer
    from llava_rlhf.supervised.training import begin_run, train_to_the_end, trainer_settings

    training = prepared.training
    # 1. The model: seeded before its adapter and head are drawn.
    begin_run(training, prepared.record, prepared.checkpoint)
    if training.process_index == 0:
        settings = (training, prepared.data, prepared.facts, prepared.model, prepared.run, prepared.head)
        announce_plan(
            REWARD_MODEL, settings, prepared.train_set, training.world_size, in_full=prepared.run.verbose
        )
    base_settings = prepared.model.base_settings(training.bf16, training.fp16, training.device)
    reward_model = new_reward_model(
        training.model_name_or_path,
        base_settings,
        prepared.model,
        training.checkpoint_activations,
        prepared.head.reward_head,
    )
    # 2. Training.
    trainer = RewardTrainer(
        model=PairScorer(reward_model, prepared.files),
        save_role=partial(save_reward_model, reward_model, prepared.card),
        load_role=partial(load_reward_model, reward_model),
        **trainer_settings(prepared, PairCollator),
    )
    train_to_the_end(trainer, prepared.checkpoint)


def save_reward_model(reward_model: RewardModel, card: RewardModelCard, folder: Path) -> None:
    """Write adapter, head and card."""
    reward_model.bank.save(REWARD, folder / REWARD, base_model=base_name(card.base_model))
    reward_model.head.save(folder / REWARD_HEAD)
    card.save(folder)


def load_reward_model(reward_model: RewardModel, folder: Path) -> None:
    """Read adapter and head back. Raises ValueError when they do not fit."""
    reward_model.bank.load(REWARD, folder / REWARD)
    reward_model.head.load(folder / REWARD_HEAD)


if __name__ == "__main__":
    run_program(prepare, run)

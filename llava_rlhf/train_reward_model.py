"""Train a reward model: LoRA + scalar head on an SFT LLaVA, on pairs of responses, with captions in its prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_rlhf.memory_planning.names import REWARD_MODEL
from llava_rlhf.runs.arguments import AdapterArguments, DataArguments, FactArguments, RunArguments
from llava_rlhf.runs.logs import start_logging
from llava_rlhf.runs.output_place import check_writable
from llava_rlhf.runs.parsing import StrictParser, run_program
from llava_rlhf.runs.role_files import REWARD, REWARD_HEAD, RewardModelCard
from llava_rlhf.runs.run_record import base_identity, file_identity, run_record
from llava_rlhf.runs.starting import starting_point
from llava_rlhf.runs.training_flags import TrainingFlags
from models.base_check import check_base
from models.base_fingerprint import base_fingerprint

if TYPE_CHECKING:
    from data_utils.datasets import PreferenceDataset
    from data_utils.facts import FactBook, RewardPrompt
    from data_utils.feature_files import FeatureFiles
    from llava_rlhf.assembly.roles import TextSide
    from llava_rlhf.runs.training_arguments import LlavaTrainingArguments
    from models.roles import RewardModel

ARGUMENTS = (TrainingFlags, DataArguments, FactArguments, AdapterArguments, RunArguments)


@dataclass(frozen=True)
class RewardRun:
    """A checked reward-model run: settings, data, and what the model will be trained under."""

    training: LlavaTrainingArguments
    data: DataArguments
    facts: FactArguments
    model: AdapterArguments
    run: RunArguments
    text: TextSide
    card: RewardModelCard
    train_set: PreferenceDataset
    eval_set: PreferenceDataset | None
    record: Mapping[str, Any]
    checkpoint: Path | None
    files: FeatureFiles | None


def prepare(argv: Sequence[str]) -> RewardRun:
    """Parse and check everything before a model is loaded. Raises ValueError for what a user can get wrong."""
    training, data, fact_arguments, model, run = StrictParser(ARGUMENTS, description=__doc__).parse(argv)
    from data_utils.conversation import TEMPLATES
    from llava_rlhf.assembly.conversations import check_conversation
    from llava_rlhf.assembly.feature_cache import with_feature_cache
    from llava_rlhf.assembly.roles import load_facts, load_text_side
    from llava_rlhf.supervised.training import announce_and_split

    start_logging(training.process_index == 0)
    model.check_attention(training.bf16, training.fp16, training.use_cpu)
    check_base(training.model_name_or_path)
    inputs = {
        "dataset_path": file_identity(data.dataset_path),
        "image_to_caption_file": file_identity(fact_arguments.image_to_caption_file),
        "reward_prompt_file": file_identity(fact_arguments.reward_prompt_file),
        "deepspeed": file_identity(training.deepspeed),
        "model_name_or_path": base_identity(training.model_name_or_path),
    }
    settings = (training, data, fact_arguments, model, run)
    record = run_record(settings, inputs, training.world_size, training.rows_per_step)
    checkpoint = starting_point(run, training.output_dir, record, training.process_index == 0)
    check_writable("--output_dir", training.output_dir)
    text = load_text_side(training.model_name_or_path, data.image_aspect_ratio)
    check_conversation(training.model_name_or_path, text.tokenizer, TEMPLATES[data.version])
    facts, prompt = load_facts(fact_arguments, data.skip_invalid)
    dataset = _read_pairs(training, data, text, facts, prompt)
    dataset, files = with_feature_cache(dataset, run.feature_cache, training, model, text.pipeline)
    train_set, eval_set = announce_and_split(dataset, training)
    card = RewardModelCard(
        training.model_name_or_path,
        prompt.text,
        prompt.uses_facts,
        data.version,
        data.image_aspect_ratio,
        base_fingerprint(training.model_name_or_path),
    )
    return RewardRun(
        training,
        data,
        fact_arguments,
        model,
        run,
        text,
        card,
        train_set,
        eval_set,
        record,
        checkpoint,
        files,
    )


def _read_pairs(
    training: LlavaTrainingArguments,
    data: DataArguments,
    text: TextSide,
    facts: FactBook,
    prompt: RewardPrompt,
) -> PreferenceDataset:
    from data_utils.building import build_preferences
    from data_utils.conversation import TEMPLATES

    return build_preferences(
        data.dataset_path,
        image_folder=data.image_folder,
        encoder=text.encoder,
        template=TEMPLATES[data.version],
        pipeline=text.pipeline,
        facts=facts,
        prompt=prompt,
        query_len=data.query_len,
        response_len=data.response_len,
        model_max_length=data.model_max_length,
        seed=training.seed,
        skip_invalid=data.skip_invalid,
        image_checks=data.image_checks(),
    )


def run(prepared: RewardRun) -> None:
    """Load the model, train it and save adapter, head and card."""
    from data_utils.batches import PairCollator, WholeStepsCollator
    from data_utils.datasets import WholeSteps
    from llava_rlhf.assembly.roles import new_reward_model
    from llava_rlhf.memory_planning.programs import announce_plan
    from llava_rlhf.supervised.reward_trainer import PairScorer, RewardTrainer
    from llava_rlhf.supervised.training import begin_run, train_to_the_end

    training, text = prepared.training, prepared.text
    if prepared.run.summary_only:
        return
    # 1. The model: seeded before its adapter and head are drawn.
    begin_run(training, prepared.record, prepared.checkpoint)
    if training.process_index == 0:
        settings = (training, prepared.data, prepared.facts, prepared.model, prepared.run)
        announce_plan(REWARD_MODEL, settings, prepared.train_set, training.world_size)
    base_settings = prepared.model.base_settings(training.bf16, training.fp16, training.device)
    reward_model = new_reward_model(
        training.model_name_or_path, base_settings, prepared.model, training.checkpoint_activations
    )
    # 2. Training.
    trainer = RewardTrainer(
        model=PairScorer(reward_model, prepared.files),
        args=training,
        train_dataset=WholeSteps(prepared.train_set, training.rows_per_step),
        eval_dataset=prepared.eval_set and WholeSteps(prepared.eval_set),
        data_collator=WholeStepsCollator(
            PairCollator(text.tokenizer.pad_token_id, text.image_token_id, text.tokens_per_image)
        ),
        save_role=partial(save_reward_model, reward_model, prepared.card),
        load_role=partial(load_reward_model, reward_model),
        record=prepared.record,
        resume=prepared.checkpoint,
        data_file=prepared.data.dataset_path,
    )
    train_to_the_end(trainer, prepared.checkpoint)


def save_reward_model(reward_model: RewardModel, card: RewardModelCard, folder: Path) -> None:
    """Write adapter, head and card."""
    reward_model.bank.save(REWARD, folder / REWARD, base_model=card.base_model)
    reward_model.head.save(folder / REWARD_HEAD)
    card.save(folder)


def load_reward_model(reward_model: RewardModel, folder: Path) -> None:
    """Read adapter and head back. Raises ValueError when they do not fit."""
    reward_model.bank.load(REWARD, folder / REWARD)
    reward_model.head.load(folder / REWARD_HEAD)


if __name__ == "__main__":
    run_program(prepare, run)

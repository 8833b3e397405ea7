"""Initialise the policy: one epoch of LoRA SFT on multi-turn dialogues, loss on assistant tokens only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_rlhf.memory_planning.names import POLICY_INIT
from llava_rlhf.runs.arguments import AdapterArguments, DataArguments, RunArguments
from llava_rlhf.runs.logs import start_logging
from llava_rlhf.runs.output_place import check_writable
from llava_rlhf.runs.parsing import StrictParser, run_program
from llava_rlhf.runs.role_files import POLICY
from llava_rlhf.runs.run_record import base_identity, file_identity, run_record
from llava_rlhf.runs.starting import starting_point
from llava_rlhf.runs.training_flags import TrainingFlags
from models.base_check import check_base

if TYPE_CHECKING:
    from data_utils.datasets import DialogueDataset
    from data_utils.feature_files import FeatureFiles
    from llava_rlhf.assembly.roles import TextSide
    from llava_rlhf.runs.training_arguments import LlavaTrainingArguments
    from models.roles import Policy

ARGUMENTS = (TrainingFlags, DataArguments, AdapterArguments, RunArguments)


@dataclass(frozen=True)
class PolicyRun:
    """A checked policy-initialisation run: settings and data."""

    training: LlavaTrainingArguments
    data: DataArguments
    model: AdapterArguments
    run: RunArguments
    text: TextSide
    train_set: DialogueDataset
    eval_set: DialogueDataset | None
    record: Mapping[str, Any]
    checkpoint: Path | None
    files: FeatureFiles | None


def prepare(argv: Sequence[str]) -> PolicyRun:
    """Parse and check everything before a model is loaded. Raises ValueError for what a user can get wrong."""
    training, data, model, run = StrictParser(ARGUMENTS, description=__doc__).parse(argv)
    from data_utils.building import build_dialogues
    from data_utils.conversation import TEMPLATES
    from llava_rlhf.assembly.conversations import check_conversation
    from llava_rlhf.assembly.feature_cache import with_feature_cache
    from llava_rlhf.assembly.roles import load_text_side
    from llava_rlhf.supervised.training import announce_and_split

    start_logging(training.process_index == 0)
    model.check_attention(training.bf16, training.fp16, training.use_cpu)
    check_base(training.model_name_or_path)
    inputs = {
        "dataset_path": file_identity(data.dataset_path),
        "deepspeed": file_identity(training.deepspeed),
        "model_name_or_path": base_identity(training.model_name_or_path),
    }
    settings = (training, data, model, run)
    record = run_record(settings, inputs, training.world_size, training.rows_per_step)
    checkpoint = starting_point(run, training.output_dir, record, training.process_index == 0)
    check_writable("--output_dir", training.output_dir)
    text = load_text_side(training.model_name_or_path, data.image_aspect_ratio)
    check_conversation(training.model_name_or_path, text.tokenizer, TEMPLATES[data.version])
    dataset = build_dialogues(
        data.dataset_path,
        image_folder=data.image_folder,
        encoder=text.encoder,
        template=TEMPLATES[data.version],
        pipeline=text.pipeline,
        model_max_length=data.model_max_length,
        query_len=data.query_len,
        response_len=data.response_len,
        skip_invalid=data.skip_invalid,
        image_checks=data.image_checks(),
    )
    dataset, files = with_feature_cache(dataset, run.feature_cache, training, model, text.pipeline)
    train_set, eval_set = announce_and_split(dataset, training)
    return PolicyRun(training, data, model, run, text, train_set, eval_set, record, checkpoint, files)


def run(prepared: PolicyRun) -> None:
    """Load the model, train it and save the adapter."""
    from data_utils.batches import DialogueCollator, WholeStepsCollator
    from data_utils.datasets import WholeSteps
    from llava_rlhf.assembly.roles import new_policy, unsampled_ids
    from llava_rlhf.memory_planning.programs import announce_plan
    from llava_rlhf.supervised.sft_trainer import DialogueLoss, SFTTrainer
    from llava_rlhf.supervised.training import begin_run, train_to_the_end

    training, text = prepared.training, prepared.text
    if prepared.run.summary_only:
        return
    # 1. The model: seeded before its adapter is drawn.
    begin_run(training, prepared.record, prepared.checkpoint)
    if training.process_index == 0:
        settings = (training, prepared.data, prepared.model, prepared.run)
        announce_plan(POLICY_INIT, settings, prepared.train_set, training.world_size)
    base_settings = prepared.model.base_settings(training.bf16, training.fp16, training.device)
    policy = new_policy(
        training.model_name_or_path, base_settings, prepared.model, training.checkpoint_activations
    )
    # 2. Training.
    trainer = SFTTrainer(
        model=DialogueLoss(policy, unsampled_ids(text, policy.bank.vlm.vocab_size), files=prepared.files),
        args=training,
        train_dataset=WholeSteps(prepared.train_set, training.rows_per_step),
        eval_dataset=prepared.eval_set and WholeSteps(prepared.eval_set),
        data_collator=WholeStepsCollator(
            DialogueCollator(text.tokenizer.pad_token_id, text.image_token_id, text.tokens_per_image)
        ),
        save_role=partial(save_policy, policy, training.model_name_or_path),
        load_role=partial(load_policy, policy),
        record=prepared.record,
        resume=prepared.checkpoint,
        data_file=prepared.data.dataset_path,
    )
    train_to_the_end(trainer, prepared.checkpoint)


def save_policy(policy: Policy, base_model: str, folder: Path) -> None:
    """Write the policy adapter."""
    policy.bank.save(policy.adapter, folder / POLICY, base_model=base_model)


def load_policy(policy: Policy, folder: Path) -> None:
    """Read the policy adapter back. Raises ValueError when it does not fit."""
    policy.bank.load(policy.adapter, folder / POLICY)


if __name__ == "__main__":
    run_program(prepare, run)

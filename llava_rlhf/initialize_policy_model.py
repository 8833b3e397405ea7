"""Initialise the policy: one epoch of LoRA SFT on multi-turn dialogues, loss on assistant tokens only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from data_utils.batches import DialogueCollator
from data_utils.building import build_dialogues
from data_utils.conversation import TEMPLATES
from llava_rlhf.arguments import DataArguments, LlavaTrainingArguments, ModelArguments, RunArguments
from llava_rlhf.assemble import load_text_side, new_policy
from llava_rlhf.parsing import StrictParser, run_program
from llava_rlhf.role_files import POLICY
from llava_rlhf.sft_trainer import DialogueLoss, SFTTrainer
from llava_rlhf.training import announce, begin_run, check_trainer_flags, start_logging, train_to_the_end
from models.roles import Policy

ARGUMENTS = (LlavaTrainingArguments, DataArguments, ModelArguments, RunArguments)


def main(argv: Sequence[str]) -> None:
    """Parse → check the data → load the model → train → save. Raises ValueError for what a user can get wrong."""
    # 1. Arguments and data: everything that can be refused is refused before a model is loaded.
    training, data, model_arguments, run = StrictParser(ARGUMENTS, description=__doc__).parse(argv)
    main_process = training.process_index == 0
    start_logging(main_process)
    text = load_text_side(training.model_name_or_path, data.image_aspect_ratio)
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
    )
    announce(dataset.report, main_process)
    train_set, eval_set = dataset.split(training.eval_size, training.seed)
    check_trainer_flags(training, len(train_set), len(eval_set) if eval_set is not None else 0)
    if run.summary_only:
        return

    # 2. The model: seeded before its adapter is drawn.
    checkpoint = begin_run(training, (training, data, model_arguments, run), run.resume)
    settings = model_arguments.base_settings(training.bf16, training.fp16, training.device)
    policy = new_policy(
        training.model_name_or_path, settings, model_arguments, training.checkpoint_activations
    )

    # 3. Training.
    trainer = SFTTrainer(
        model=DialogueLoss(policy),
        args=training,
        train_dataset=train_set,
        eval_dataset=eval_set,
        data_collator=DialogueCollator(
            text.tokenizer.pad_token_id, text.image_token_id, text.tokens_per_image
        ),
        save_role=partial(save_policy, policy, training.model_name_or_path),
        load_role=partial(load_policy, policy),
        resume=checkpoint,
    )
    train_to_the_end(trainer, checkpoint)


def save_policy(policy: Policy, base_model: str, folder: Path) -> None:
    """Write the policy adapter."""
    policy.bank.save(policy.adapter, folder / POLICY, base_model=base_model)


def load_policy(policy: Policy, folder: Path) -> None:
    """Read the policy adapter back. Raises ValueError when it does not fit."""
    policy.bank.load(policy.adapter, folder / POLICY)


if __name__ == "__main__":
    run_program(main)

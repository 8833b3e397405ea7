"""What the two `transformers.Trainer` programs have in common: the order of checks, and the run around `train`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import set_seed
from transformers.integrations import is_deepspeed_zero3_enabled

from data_utils.batches import DialogueCollator, PairCollator, WholeStepsCollator
from data_utils.datasets import ExampleDataset, WholeSteps
from llava_rlhf.runs.arguments import RunArguments
from llava_rlhf.runs.logs import announce, announce_result
from llava_rlhf.runs.starting import mark_finished, open_run_folder, with_lowered_batches
from llava_rlhf.runs.stopping import StoppedBySignal
from llava_rlhf.runs.training_arguments import LlavaTrainingArguments
from llava_rlhf.runs.watchdog import Watchdog, WatchdogCallback
from llava_rlhf.supervised.fitting import check_split, fit_batches
from llava_rlhf.supervised.prepared import SupervisedRun
from llava_rlhf.supervised.role_trainer import RoleTrainer

logger = logging.getLogger(__name__)


def announce_and_split(
    dataset: ExampleDataset,
    training: LlavaTrainingArguments,
    run: RunArguments,
    start: tuple[Mapping[str, Any], Path | None] | None,
) -> tuple[ExampleDataset, ExampleDataset | None, Mapping[str, Any]]:
    """Print the data summary, hold out the evaluation rows, and make the batches fit the rest.

    Args:
        dataset: all rows.
        training: batch sizes that the data is too small for are lowered in it.
        run: whether all examples are shown, and whether a changed batch may go on.
        start: record and checkpoint, from `find_start`; None where the summary is all that was asked for.

    Returns:
        Rows to train on, rows to evaluate on, and the record with the batch sizes that were lowered.

    Raises:
        ValueError: what the Trainer would only notice after the model is loaded.
    """
    announce(dataset.report, training.process_index == 0, run.shows_all)
    if training.n_gpu > 1:
        raise ValueError(
            f"one process sees {training.n_gpu} GPUs: launch one process a GPU (torchrun --nproc-per-node "
            f"{training.n_gpu}), or show it one (CUDA_VISIBLE_DEVICES=0)"
        )
    check_split(training, len(dataset))
    train_set, eval_set = dataset.split(training.eval_size, training.seed)
    lowered = fit_batches(training, len(train_set))
    record, checkpoint = start or ({}, None)
    return train_set, eval_set, with_lowered_batches(record, lowered, checkpoint, run)


def begin_run(training: LlavaTrainingArguments, record: Mapping[str, Any], checkpoint: Path | None) -> None:
    """Seed everything and write the run's record; `checkpoint` is what the run continues from, if anything."""
    if is_deepspeed_zero3_enabled():
        # `from_pretrained` shards the base; without a GPU nobody has told DeepSpeed of the other processes yet.
        import deepspeed  # heavy, and optional for everything else

        deepspeed.init_distributed()
    set_seed(training.seed)
    if training.process_index == 0:
        open_run_folder(training.output_dir, record)
        logger.info("continuing from %s", checkpoint) if checkpoint else logger.info("starting afresh")


def trainer_settings(
    prepared: SupervisedRun, collator: type[PairCollator] | type[DialogueCollator]
) -> dict[str, Any]:
    """What a `RoleTrainer` gets besides its model and the reading and writing of its role."""
    training, text = prepared.training, prepared.text
    collate = collator(text.tokenizer.pad_token_id, text.image_token_id, text.family.placeholder)
    return {
        "args": training,
        "train_dataset": WholeSteps(prepared.train_set, training.rows_per_step),
        "eval_dataset": prepared.eval_set and WholeSteps(prepared.eval_set),
        "data_collator": WholeStepsCollator(collate),
        "record": prepared.record,
        "resume": prepared.checkpoint,
        "data_file": prepared.data.dataset_path,
    }


def train_to_the_end(trainer: RoleTrainer, checkpoint: Path | None) -> None:
    """Train, evaluate if there is an evaluation set, and write the final role to the run folder.

    Raises StoppedBySignal after the state was saved.
    """
    with Watchdog(trainer.args.ddp_timeout) as watchdog:
        trainer.add_callback(WatchdogCallback(watchdog))
        with trainer.stopping.signals:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if trainer.stopping.stopped_by:
            raise StoppedBySignal(trainer.stopping.stopped_by)
        if trainer.eval_dataset is not None:
            trainer.evaluate(metric_key_prefix="final")
        watchdog.progress("saving the result")
        trainer.save_model()
        trainer.delete_old_checkpoints()
        trainer.accelerator.wait_for_everyone()
        if trainer.is_world_process_zero():
            mark_finished(trainer.args.output_dir, trainer.state.global_step)
            announce_result(trainer.args.output_dir)

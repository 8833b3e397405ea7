"""Batch sizes and the evaluation split of the two `transformers.Trainer` programs, made to fit the data or refused."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from llava_rlhf.runs.checking import was_checked
from llava_rlhf.runs.logs import describe_passes

if TYPE_CHECKING:
    from llava_rlhf.runs.training_arguments import LlavaTrainingArguments

logger = logging.getLogger(__name__)


def check_split(training: LlavaTrainingArguments, rows: int) -> None:
    """Raise ValueError, with settings that work, where the evaluation set leaves nothing to train on."""
    if training.eval_size >= rows:
        works = f"--eval_size {rows // 5 or 1} (EVAL_SIZE of the scripts)" if rows > 1 else "more rows"
        raise ValueError(
            f"eval_size {training.eval_size} must be at least 0 and below the {rows} rows kept: {works} works, or "
            "--eval_size 0 --eval_strategy no --load_best_model_at_end False"
        )
    if training.eval_strategy != "no" and training.eval_size == 0:
        raise ValueError(f"--eval_strategy {training.eval_strategy.value} needs --eval_size above 0")


def fit_batches(training: LlavaTrainingArguments, rows: int) -> dict[str, int]:
    """Where `rows` are less than one step, lower the factors of the step in `training`, and say so.

    One step then takes every row, in as few rows a pass as accumulation allows. A function of settings and rows alone: a run
    that is continued does the same.

    Returns:
        The new factors by their flags; empty where the data is enough.

    Raises:
        ValueError: DeepSpeed has read the sizes already; with settings that work.
    """
    asked, speaks = _describe(training), training.process_index == 0 and not was_checked()
    factors = _lowered(training, rows)
    if factors:
        new = " ".join(f"--{name} {value}" for name, value in factors.items())
        scripts = "BATCH_SIZE={} ACCUMULATION={} of the scripts".format(*factors.values())
        problem = f"{rows} training rows are less than one step: {asked}"
        if training.deepspeed is not None:
            raise ValueError(f"{problem}; with --deepspeed, use {new} ({scripts})")
        for name, value in factors.items():  # not `replace`, which would derive everything anew
            setattr(training, name, value)
        if speaks:
            logger.warning("%s; going on with %s (%s)", problem, new, scripts)
    if training.max_steps > 0 and speaks:
        passes = training.max_steps / math.ceil(rows / training.rows_per_step)
        logger.info(
            describe_passes(training.max_steps, "--num_train_epochs", passes, f"{rows} training rows")
        )
    return factors


def _lowered(training: LlavaTrainingArguments, rows: int) -> dict[str, int]:
    names = ("per_device_train_batch_size", "gradient_accumulation_steps")
    batch, accumulation = (getattr(training, name) for name in names)
    if rows < training.rows_per_step:
        batch = math.ceil(rows / (accumulation * training.world_size))
        accumulation = math.ceil(rows / (batch * training.world_size))
    factors = dict(zip(names, (batch, accumulation), strict=True))
    return {} if all(getattr(training, name) == value for name, value in factors.items()) else factors


def _describe(training: LlavaTrainingArguments) -> str:
    return (
        f"--per_device_train_batch_size {training.per_device_train_batch_size} × --gradient_accumulation_steps "
        f"{training.gradient_accumulation_steps} × {training.world_size} processes = {training.rows_per_step}"
    )

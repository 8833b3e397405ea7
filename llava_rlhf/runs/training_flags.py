"""Flags of the two `transformers.Trainer` programs as `--help` shows them, without transformers' own class.

That class loads torch: `TrainingFlags.complete` gives it, for a command line that is really parsed.
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
from dataclasses import dataclass, field
from typing import Literal


@dataclass
class OurTrainingFlags:
    """What `transformers.TrainingArguments` lacks, or has with another default."""

    _argument_group_name = "training (transformers.TrainingArguments; --help_all lists every flag)"

    model_name_or_path: str = field(
        default="", metadata={"help": "The SFT LLaVA to start from (Hugging Face format) (required)."}
    )
    eval_size: int = field(default=500, metadata={"help": "Rows held out for evaluation; 0 for none."})
    output_dir: str = field(
        default="", metadata={"help": "Run folder: checkpoints, metrics and the final adapter (required)."}
    )
    learning_rate: float = field(default=2e-5, metadata={"help": "Peak learning rate."})
    max_grad_norm: float = field(default=0.3, metadata={"help": "Gradient norm is clipped to this."})
    logging_steps: float = field(default=5, metadata={"help": "One line of metrics every so many steps."})
    report_to: None | str | list[str] = field(  # noqa: RUF036 - HfArgumentParser wants the order of its parent
        default="none", metadata={"help": "tensorboard, wandb, or none."}
    )


@dataclass
class TrainingFlags(OurTrainingFlags):
    """The flags that the published scripts use, for `--help` alone; tests hold their defaults to those of transformers."""

    num_train_epochs: float = field(default=3.0, metadata={"help": "Passes over the training rows."})
    max_steps: int = field(
        default=-1, metadata={"help": "Stop after so many optimizer steps; -1: as num_train_epochs says."}
    )
    per_device_train_batch_size: int = field(default=8, metadata={"help": "Rows of one training pass."})
    per_device_eval_batch_size: int = field(default=8, metadata={"help": "Rows of one evaluation pass."})
    gradient_accumulation_steps: int = field(
        default=1, metadata={"help": "Passes whose gradients make one optimizer step."}
    )
    gradient_checkpointing: bool | None = field(
        default=None,
        metadata={"help": "Recompute activations: less memory, slower.", "nargs": "?", "const": True},
    )
    eval_strategy: Literal["no", "steps", "epoch"] = field(
        default="no", metadata={"help": "When the held-out rows are evaluated."}
    )
    eval_steps: float | None = field(
        default=None,
        metadata={
            "help": "Steps between evaluations; below 1: a share of the run (default: as logging_steps)."
        },
    )
    save_strategy: Literal["no", "steps", "epoch", "best"] = field(
        default="steps", metadata={"help": "When a checkpoint is made."}
    )
    save_steps: float = field(
        default=500, metadata={"help": "Steps between checkpoints; below 1: a share of the run."}
    )
    save_total_limit: int | None = field(
        default=None, metadata={"help": "Keep so many newest checkpoints, and the best; None: all."}
    )
    load_best_model_at_end: bool = field(
        default=False, metadata={"help": "Keep the weights of the best evaluation, not the last."}
    )
    metric_for_best_model: str | None = field(
        default=None, metadata={"help": "By which metric the best is known (None: the loss)."}
    )
    weight_decay: float = field(default=0.0, metadata={"help": "AdamW weight decay."})
    warmup_steps: float = field(
        default=0, metadata={"help": "Steps of linear warm-up; below 1: a share of the run."}
    )
    lr_scheduler_type: str = field(
        default="linear", metadata={"help": "A schedule of transformers.SchedulerType."}
    )
    optim: str = field(
        default="adamw_torch_fused", metadata={"help": "An optimizer of transformers' OptimizerNames."}
    )
    bf16: bool = field(default=False, metadata={"help": "Weights and activations in bfloat16."})
    fp16: bool = field(default=False, metadata={"help": "Weights and activations in float16."})
    use_cpu: bool = field(default=False, metadata={"help": "Stay on the CPU even where CUDA is present."})
    deepspeed: str | None = field(default=None, metadata={"help": "DeepSpeed configuration (JSON)."})
    seed: int = field(
        default=42, metadata={"help": "Order of rows, held-out rows, caption order, initialisation."}
    )
    dataloader_num_workers: int = field(default=0, metadata={"help": "Processes that decode images."})
    ddp_timeout: int = field(default=1800, metadata={"help": "Seconds that processes wait for one another."})

    @classmethod
    def complete(cls) -> type:
        """The class with every flag and all checks, which is what a command line is parsed into."""
        from llava_rlhf.runs.training_arguments import LlavaTrainingArguments

        return LlavaTrainingArguments

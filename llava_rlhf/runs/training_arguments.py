"""Settings of the two `transformers.Trainer` programs, whole and checked. Loads torch; `training_flags.py` does not."""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments
from transformers.utils import is_torch_bf16_gpu_available, is_torch_xla_available

from llava_rlhf.runs.checking import planned_processes
from llava_rlhf.runs.missing_paths import require_file
from llava_rlhf.runs.training_flags import OurTrainingFlags


@dataclass
class LlavaTrainingArguments(OurTrainingFlags, TrainingArguments):
    """Settings of `transformers.Trainer`, with the defaults of this project."""

    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Every trained weight is used in every step; leave it False."}
    )

    def __post_init__(self):
        for name in ("model_name_or_path", "output_dir"):
            if not getattr(self, name):
                raise ValueError(f"--{name} is required")
        if self.eval_size < 0:
            raise ValueError(f"--eval_size {self.eval_size}: must be 0 or more")
        if (self.bf16 or self.bf16_full_eval) and not (self.use_cpu or _has_bf16_device()):
            raise ValueError(
                "no GPU here that computes in bfloat16 (--bf16 True needs one): --summary_only True checks data and "
                "settings without; --use_cpu True --bf16 False trains on the CPU"
            )
        # Batches hold images and lists that no forward signature names.
        self.remove_unused_columns = False
        # The checkpointing hook that keeps adapters apart is installed by the model layer, not by the Trainer.
        renamed = hasattr(self, "activation_checkpointing")  # since transformers 5.2x
        self.checkpoint_activations = bool(
            self.gradient_checkpointing or (renamed and self.activation_checkpointing)
        )
        self.gradient_checkpointing = None if renamed else False
        if renamed:
            self.activation_checkpointing = False
        self._set_up()
        if not self.average_tokens_across_devices:
            raise ValueError(
                "--average_tokens_across_devices False: losses are divided by the tokens of all processes"
            )

    def _set_up(self) -> None:
        deepspeed = self.deepspeed
        if deepspeed is not None:
            require_file("--deepspeed", deepspeed)
        if planned_processes() is not None:
            self.deepspeed = None  # it would look for the other processes
        super().__post_init__()
        self.deepspeed = deepspeed

    @property
    def world_size(self) -> int:
        """Processes of the whole run, also where they are not started yet."""
        return planned_processes() or super().world_size

    @property
    def rows_per_step(self) -> int:
        """Rows of one optimizer step, all processes and accumulated batches together."""
        return self.train_batch_size * self.gradient_accumulation_steps * self.world_size

    def to_sanitized_dict(self) -> dict[str, Any]:
        """What `arguments.json` records; gradient checkpointing as it was asked for."""
        return {**super().to_sanitized_dict(), "gradient_checkpointing": self.checkpoint_activations}


def _has_bf16_device() -> bool:
    return is_torch_bf16_gpu_available() or is_torch_xla_available()

"""Merge a policy adapter into its base and write an ordinary Hugging Face LLaVA directory."""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import PeftModel
from transformers import LlavaForConditionalGeneration

from llava_rlhf.checkpoints import staging_folder
from llava_rlhf.parsing import StrictParser, run_program
from llava_rlhf.role_files import find_policy_adapter
from models.adapter_files import check_adapter_fits
from models.base_files import check_base
from models.base_fingerprint import check_weights
from models.vlm import DTYPES

WEIGHT_FILES = ("model", "pytorch_model")  # how the names of weight files and their indices begin


@dataclass
class ExportArguments:
    """What to merge, and where to write it."""

    _argument_group_name = "export"

    base_model_name: str = field(metadata={"help": "The base that the adapter was trained on."})
    adapter: str = field(metadata={"help": "Policy run folder, checkpoint or PEFT folder."})
    output_dir: str = field(metadata={"help": "New directory; must not exist."})
    dtype: str = field(
        default="float32", metadata={"help": "Number format of the weights.", "choices": list(DTYPES)}
    )


def prepare(argv: Sequence[str]) -> ExportArguments:
    """Parse and check paths and adapter. Raises ValueError when they do not fit."""
    (arguments,) = StrictParser((ExportArguments,), description=__doc__).parse(argv)
    if Path(arguments.output_dir).exists():
        raise ValueError(f"--output_dir {arguments.output_dir} exists already")
    check_base(arguments.base_model_name)
    check_weights(arguments.base_model_name)
    check_adapter_fits(find_policy_adapter(arguments.adapter), arguments.base_model_name)
    return arguments


def run(arguments: ExportArguments) -> None:
    """Merge and save, whole or not at all."""
    target = Path(arguments.output_dir)
    staged = staging_folder(target.parent) / target.name
    shutil.rmtree(staged, ignore_errors=True)
    adapter = find_policy_adapter(arguments.adapter)
    merge(Path(arguments.base_model_name), adapter, staged, DTYPES[arguments.dtype])
    staged.rename(target)
    if not any(staged.parent.iterdir()):
        staged.parent.rmdir()
    print(f"wrote {target}")


def merge(base: Path, adapter: Path, target: Path, dtype: torch.dtype) -> None:
    """Write base + adapter as one model, with the tokenizer and processor files of the base as they are."""
    model = LlavaForConditionalGeneration.from_pretrained(base, dtype=dtype, use_safetensors=True)
    PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().save_pretrained(target)
    for file in base.iterdir():
        if file.is_file() and not (target / file.name).exists() and not file.name.startswith(WEIGHT_FILES):
            shutil.copy2(file, target / file.name)


if __name__ == "__main__":
    run_program(prepare, run)

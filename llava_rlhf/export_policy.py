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
from models.vlm import DTYPES, check_base, load_image_processor, load_tokenizer


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


def main(argv: Sequence[str]) -> None:
    """Load, merge, save whole or not at all. Raises ValueError for paths that do not fit."""
    (arguments,) = StrictParser((ExportArguments,), description=__doc__).parse(argv)
    target = Path(arguments.output_dir)
    if target.exists():
        raise ValueError(f"--output_dir {target} exists already")
    check_base(arguments.base_model_name)
    adapter = find_policy_adapter(arguments.adapter)
    merge(arguments.base_model_name, adapter, target, DTYPES[arguments.dtype])
    print(f"wrote {target}")


def merge(base: str | Path, adapter: Path, target: Path, dtype: torch.dtype) -> None:
    """Write base + adapter as one model with tokenizer and image processor."""
    model = LlavaForConditionalGeneration.from_pretrained(base, dtype=dtype)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    staged = staging_folder(target.parent) / target.name
    shutil.rmtree(staged, ignore_errors=True)
    merged.save_pretrained(staged)
    load_tokenizer(base).save_pretrained(staged)
    load_image_processor(base).save_pretrained(staged)
    staged.rename(target)


if __name__ == "__main__":
    run_program(main)

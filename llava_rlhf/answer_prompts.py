"""Answer a file of prompts with a base and an optional adapter; writes one JSON object a line.

    python -m llava_rlhf.answer_prompts --base_model_name checkpoints/llava-7b-v1.5-224-sft --adapter runs/rl_model \\
        --dataset_path data/prompts.json --image_folder data/coco/train2017 --output_file runs/answers.jsonl

A run that was stopped continues where it was; one that is complete is not done again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llava_rlhf.engines.arguments import ServerArguments
from llava_rlhf.evaluation.arguments import AnswerArguments
from llava_rlhf.runs.arguments import DataArguments, ModelArguments
from llava_rlhf.runs.parsing import StrictParser, run_program

if TYPE_CHECKING:
    from llava_rlhf.evaluation.answer_runs import AnswerRun


def prepare(argv: Sequence[str]) -> AnswerRun:
    """Parse and check prompts and adapter before a model is loaded. Raises ValueError for what a user can get wrong."""
    classes = (AnswerArguments, DataArguments, ModelArguments, ServerArguments)
    parsed = StrictParser(classes, description=__doc__).parse(argv)
    from llava_rlhf.evaluation.answer_runs import prepare_answers

    return prepare_answers(*parsed)


def run(prepared: AnswerRun) -> None:
    """Load, answer what is not answered yet, and write the file whole."""
    from llava_rlhf.evaluation.answer_runs import write_answers

    write_answers(prepared)


if __name__ == "__main__":
    run_program(prepare, run)

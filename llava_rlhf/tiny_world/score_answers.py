"""Numbers for the answers of a tiny world: hallucination, recall, yes/no and multiple choice, measured, not judged."""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_utils.schema import AnswerType
from data_utils.shapes_files import parse_question, read_scenes
from data_utils.shapes_text import is_correct
from data_utils.shapes_world import Scene, judge_description
from llava_rlhf.parsing import StrictParser, run_program
from llava_rlhf.run_folder import read_json_lines, write_text_whole

YES_NO_TYPES = (AnswerType.YES_IN_YESNO, AnswerType.NO_IN_YESNO)


@dataclass
class ScoreArguments:
    """Which answers to score."""

    _argument_group_name = "scoring"

    world: str = field(metadata={"help": "Folder of make_world."})
    answers: str = field(metadata={"help": "JSON Lines of answer_prompts.py."})
    output_file: str = field(metadata={"help": "JSON file of numbers to write."})


def prepare(argv: Sequence[str]) -> ScoreArguments:
    """Parse the command line."""
    return StrictParser((ScoreArguments,), description=__doc__).parse(argv)[0]


def run(arguments: ScoreArguments) -> None:
    """Read, score, write and print."""
    scenes = read_scenes(Path(arguments.world) / "scenes.json")
    numbers = score_answers(read_json_lines(arguments.answers), scenes)
    write_text_whole(Path(arguments.output_file), json.dumps(numbers, indent=2) + "\n")
    print(format_numbers(numbers))


def score_answers(
    records: Iterable[Mapping[str, Any]], scenes: Mapping[str, Scene]
) -> dict[str, dict[str, float]]:
    """Means with standard errors and counts.

    Args:
        records: answers with `image`, `question`, `answer_type`, `answer`, `tokens`, `stopped`.
        scenes: ground truth by image name.

    Returns:
        name → {mean, standard_error, n}: `hallucination` (share of descriptions that name a false object, CHAIR_s),
        `false_share` (false among named objects, CHAIR_i), `recall`, `description_tokens`, `yes_no_accuracy`,
        `yes_rate`, `choice_accuracy`, `stop_rate`. Names without any record are left out.
    """
    values: dict[str, list[float]] = {}

    def add(name: str, value: float) -> None:
        values.setdefault(name, []).append(float(value))

    for record in records:
        names = scenes[record["image"][0]].names
        answer, answer_type = record["answer"], AnswerType[record["answer_type"]]
        add("stop_rate", record["stopped"])
        if answer_type == AnswerType.GENERAL:
            judgement = judge_description(names, answer)
            add("hallucination", judgement.hallucinated)
            if judgement.mentioned:
                add("false_share", len(judgement.false) / len(judgement.mentioned))
            add("recall", judgement.recall)
            add("description_tokens", record["tokens"])
            continue
        correct = is_correct(parse_question(record["question"], answer_type, names), answer)
        if answer_type in YES_NO_TYPES:
            add("yes_no_accuracy", correct)
            add("yes_rate", answer.lower().startswith("yes"))
        else:
            add("choice_accuracy", correct)
    return {name: _summary(numbers) for name, numbers in values.items()}


def format_numbers(numbers: Mapping[str, Mapping[str, float]]) -> str:
    """One line a number: mean ± standard error (n)."""
    return "\n".join(
        f"{name:<20}{entry['mean']:8.3f} ± {entry['standard_error']:.3f}  (n = {entry['n']})"
        for name, entry in numbers.items()
    )


def _summary(numbers: Sequence[float]) -> dict[str, float]:
    array = np.asarray(numbers)
    error = array.std(ddof=1) / math.sqrt(len(array)) if len(array) > 1 else float("nan")
    return {"mean": float(array.mean()), "standard_error": float(error), "n": len(array)}


if __name__ == "__main__":
    run_program(prepare, run)

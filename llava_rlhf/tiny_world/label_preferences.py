"""Turn sampled answer pairs of a tiny world into a preference file, labelled by an oracle that knows the scene.

    python -m llava_rlhf.tiny_world.label_preferences --world runs/tiny/world \\
        --answers runs/tiny/preferences/answers.jsonl --output_file runs/tiny/preferences/preferences.json
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_utils.schema import AnswerType
from data_utils.shapes_files import parse_question, preference_row, read_scenes
from llava_rlhf.runs.parsing import StrictParser, run_program
from llava_rlhf.runs.run_folder import read_json_lines, write_text_whole


@dataclass
class LabelArguments:
    """Which answers to compare, and how the oracle weighs them."""

    _argument_group_name = "preferences"

    world: str = field(metadata={"help": "Folder of make_world."})
    answers: str = field(metadata={"help": "JSON Lines of answer_prompts.py with two samples per prompt."})
    output_file: str = field(metadata={"help": "Preference file to write (published format)."})
    synthetic_share: float = field(default=0.4, metadata={"help": "Share of pairs with one made-up side."})
    false_weight: float = field(
        default=0.5, metadata={"help": "Cost of one false object, in units of full recall."}
    )
    seed: int = field(default=0, metadata={"help": "Of synthetic sides and the order of a pair."})


def prepare(argv: Sequence[str]) -> LabelArguments:
    """Parse the command line. Raises ValueError unless every prompt has two answers."""
    (arguments,) = StrictParser((LabelArguments,), description=__doc__).parse(argv)
    answered = Counter(record["id"] for record in read_json_lines(arguments.answers))
    if not answered or set(answered.values()) != {2}:
        raise ValueError(
            f"--answers {arguments.answers}: every prompt needs two samples (answer_prompts --samples 2)"
        )
    return arguments


def run(arguments: LabelArguments) -> None:
    """Read the answers, let the oracle compare each pair, and write those that differ."""
    scenes = read_scenes(Path(arguments.world) / "scenes.json")
    pairs: defaultdict[str, list[dict]] = defaultdict(list)
    for record in read_json_lines(arguments.answers):
        pairs[record["id"]].append(record)
    rng = np.random.default_rng(arguments.seed)
    rows = []
    for name, (first, second) in pairs.items():
        image = first["image"][0]
        answer_type = AnswerType[first["answer_type"]]
        question = parse_question(first["question"], answer_type, scenes[image].names)
        row = preference_row(
            name,
            image,
            scenes[image],
            question,
            (first["answer"], second["answer"]),
            rng,
            synthetic_share=arguments.synthetic_share,
            false_weight=arguments.false_weight,
        )
        if row is not None:
            rows.append(row)
    write_text_whole(Path(arguments.output_file), json.dumps(rows, indent=1) + "\n")
    print(f"{len(rows)} of {len(pairs)} pairs differ; wrote {arguments.output_file}")


if __name__ == "__main__":
    run_program(prepare, run)

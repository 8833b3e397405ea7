"""Draw what somebody has before anything is trained: a folder of pictures, captions, and a few questions.

    python -m llava_rlhf.tiny_world.draw_pictures --output_dir runs/own

Files in `--output_dir`, the first four as a person would have written them:

    pictures/picture-0001.png   coloured shapes, from the same world as `make_world`
    captions.csv                image, caption
    questions.txt               open questions
    checked_questions.csv       image, question, answer (yes, no, or a letter)
    scenes.json                 ground truth, which nobody has of photographs: for evaluation only
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_utils.shapes_files import scenes_to_json
from data_utils.shapes_text import (
    DESCRIBE_QUESTIONS,
    LETTERS,
    Question,
    captions,
    choice_question,
    yes_no_question,
)
from data_utils.shapes_world import Scene, render, sample_scene
from llava_rlhf.runs.checkpoints import new_folder
from llava_rlhf.runs.output_place import check_output
from llava_rlhf.runs.parsing import StrictParser, run_program

STREAM = 7  # a stream of random numbers of its own: `make_world` draws other scenes from the same seed
YES_NO_ANSWERS = {6: "no", 7: "yes"}


@dataclass
class PicturesArguments:
    """How many pictures, and how noisy."""

    output_dir: str = field(metadata={"help": "New folder; must not exist."})
    images: int = field(default=300, metadata={"help": "Pictures."})
    noise: float = field(
        default=0.5, metadata={"help": "Pixel noise, standard deviation; 1 = full colour range."}
    )
    seed: int = field(default=0, metadata={"help": "Of scenes, noise and texts."})

    def __post_init__(self):
        if self.images < 1:
            raise ValueError(f"--images {self.images}: must be at least 1")
        if not 0 <= self.noise < float("inf"):
            raise ValueError(f"--noise {self.noise}: must be at least 0")
        if self.seed < 0:
            raise ValueError(f"--seed {self.seed}: must be at least 0")
        check_output(Path(self.output_dir), 0, "--output_dir")


def prepare(argv: Sequence[str]) -> PicturesArguments:
    """Parse the command line. Raises ValueError for what a user can get wrong."""
    (arguments,) = StrictParser((PicturesArguments,), description=__doc__).parse(argv)
    return arguments


def run(arguments: PicturesArguments) -> None:
    """Draw, and write the folder whole or not at all."""
    rng = np.random.default_rng([arguments.seed, STREAM])
    scenes = {f"picture-{number:04d}.png": sample_scene(rng) for number in range(1, arguments.images + 1)}
    captioned = [(image, text) for image, scene in scenes.items() for text in captions(scene.names, rng)]
    checked = [row for image, scene in scenes.items() for row in _checked(image, scene, rng)]
    with new_folder(Path(arguments.output_dir)) as folder:
        (folder / "pictures").mkdir()
        for image, scene in scenes.items():
            render(scene, arguments.noise).save(folder / "pictures" / image)
        texts = {
            "captions.csv": _table(("image", "caption"), captioned),
            "questions.txt": "\n".join(DESCRIBE_QUESTIONS) + "\n",
            "checked_questions.csv": _table(("image", "question", "answer"), checked),
            "scenes.json": json.dumps(scenes_to_json(scenes), indent=1) + "\n",
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    print(f"wrote {arguments.output_dir}: {len(scenes)} pictures, {len(captioned)} captions")


def _checked(image: str, scene: Scene, rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """Two yes/no questions, one of each answer, and a multiple-choice question."""
    questions = [yes_no_question(scene.names, there, rng) for there in (True, False)]
    questions.append(choice_question(scene.names, rng))
    return [(image, question.text, _answer(question)) for question in questions]


def _answer(question: Question) -> str:
    return YES_NO_ANSWERS.get(question.answer_type) or LETTERS[question.answer_type - 2]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return file.getvalue()


if __name__ == "__main__":
    run_program(prepare, run)

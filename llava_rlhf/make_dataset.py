"""From a folder of pictures to data files in the published formats.

    python -m llava_rlhf.make_dataset prompts --image_folder pictures --captions_table captions.csv --output_dir data
    python -m llava_rlhf.make_dataset dialogues --preferences_file runs/preferences/preferences.json \\
        --output_file data/dialogues.json
    python -m llava_rlhf.make_dataset import --source rlaif-v --output_dir data/rlaif_v
    python -m llava_rlhf.make_dataset export --preferences_file runs/preferences/preferences.json --format trl \\
        --output_file data/trl.jsonl

`prompts` writes a new folder:

    image_to_caption.json   captions of every picture, for the reward model
    prompts.json            questions, in random order: to collect preferences on, and for PPO
    eval.json               the same about pictures that were set aside
    eval_yes_no.json        their yes/no questions, as a benchmark in POPE's format
    dataset.json            the settings and counts

`dialogues` turns preference pairs into dialogues with the preferred answer, for policy init. `import` reads data of other
projects (docs/formats.md) into a new folder, and goes on where it was interrupted; `export` writes preferences for other
trainers. `--help` behind an action lists its flags.
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_utils.own_pictures import (
    CheckedQuestion,
    benchmark_rows,
    dialogue_row,
    prompt_rows,
    read_caption_table,
    read_checked_questions,
    read_questions,
)
from data_utils.problems import DataError
from data_utils.schema import PreferenceRecord, read_preferences
from llava_rlhf.importing.arguments import ExportArguments, ImportArguments
from llava_rlhf.importing.exports import DATASET_INFO, check_preferences, write_export
from llava_rlhf.importing.run import ImportRun, prepare_import, run_import
from llava_rlhf.runs.checkpoints import new_folder
from llava_rlhf.runs.output_place import check_output, check_writable
from llava_rlhf.runs.parsing import StrictParser, run_program, split_action
from llava_rlhf.runs.run_folder import write_text_whole

DEFAULT_QUESTIONS = Path(__file__).parents[1] / "prompts" / "questions.txt"


@dataclass
class PromptsArguments:
    """Pictures, what people wrote about them, and where the files go."""

    image_folder: str = field(metadata={"help": "Folder of the pictures."})
    captions_table: str = field(
        metadata={"help": "CSV with the columns image and caption, a row a caption, several an image."}
    )
    output_dir: str = field(metadata={"help": "New folder; must not exist."})
    questions_file: str = field(
        default=str(DEFAULT_QUESTIONS), metadata={"help": "Text file of open questions, one a line."}
    )
    checked_questions: str | None = field(
        default=None,
        metadata={
            "help": "CSV with the columns image, question and answer: yes, no, or the letter A to D of the right option. "
            "PPO rewards their right answers."
        },
    )
    questions_per_image: int = field(
        default=2, metadata={"help": "Open questions drawn for each picture; checked ones come on top."}
    )
    held_out_share: float = field(
        default=0.2, metadata={"help": "Share of the pictures set aside for evaluation; 0 for none."}
    )
    seed: int = field(default=0, metadata={"help": "Of what is drawn: held-out pictures, questions, order."})

    def __post_init__(self):
        if self.questions_per_image < 1:
            raise ValueError(f"--questions_per_image {self.questions_per_image}: must be at least 1")
        if not 0 <= self.held_out_share < 1:
            raise ValueError(f"--held_out_share {self.held_out_share}: must be at least 0 and below 1")
        if not Path(self.image_folder).is_dir():
            raise ValueError(f"--image_folder {self.image_folder}: no such folder")
        check_output(Path(self.output_dir), 0, "--output_dir")


@dataclass
class DialoguesArguments:
    """Preference pairs, and the file of dialogues."""

    preferences_file: str = field(metadata={"help": "Preference file, as collect_preferences.py writes it."})
    output_file: str = field(metadata={"help": "File of dialogues to write."})

    def __post_init__(self):
        if Path(self.output_file).is_dir():
            raise ValueError(f"--output_file {self.output_file} is a directory; name a file")
        if Path(self.output_file).resolve() == Path(self.preferences_file).resolve():
            raise ValueError(f"--output_file {self.output_file} is the preference file; choose another")
        check_writable("--output_file", Path(self.output_file).parent)


ARGUMENTS = {
    "prompts": (PromptsArguments,),
    "dialogues": (DialoguesArguments,),
    "import": (ImportArguments,),
    "export": (ExportArguments,),
}


@dataclass(frozen=True)
class PromptsRun:
    """Checked pictures and questions: image → captions, open questions, image → checked questions."""

    arguments: PromptsArguments
    captions: dict[str, list[str]]
    questions: list[str]
    checked: dict[str, list[CheckedQuestion]]


@dataclass(frozen=True)
class DialoguesRun:
    """Checked preferences."""

    arguments: DialoguesArguments
    preferences: list[PreferenceRecord]


@dataclass(frozen=True)
class ExportRun:
    """Preferences that were checked, and how many there are."""

    arguments: ExportArguments
    count: int


Prepared = PromptsRun | DialoguesRun | ImportRun | ExportRun


def prepare(argv: Sequence[str]) -> Prepared:
    """Parse and check everything. Raises ValueError (DataError for rows) for what a user can get wrong."""
    action, flags = split_action(argv, ARGUMENTS, __doc__)
    prog = f"python -m llava_rlhf.make_dataset {action}"
    (arguments,) = StrictParser(ARGUMENTS[action], description=__doc__, prog=prog).parse(flags)
    return _PREPARE[action](arguments)


def prepare_prompts(arguments: PromptsArguments) -> PromptsRun:
    """Read tables and look at the pictures they name. Raises DataError with everything that is wrong."""
    captions, problems = read_caption_table(arguments.captions_table, arguments.image_folder)
    questions, wrong = read_questions(arguments.questions_file)
    problems += wrong
    checked: dict[str, list[CheckedQuestion]] = {}
    if arguments.checked_questions is not None:
        # Without a readable table of captions every question would be about an unknown picture.
        known = captions if captions or not problems else None
        checked, wrong = read_checked_questions(arguments.checked_questions, known)
        problems += wrong
    if problems:
        raise DataError(problems)
    if arguments.questions_per_image > len(questions):
        raise ValueError(
            f"--questions_per_image {arguments.questions_per_image}: {arguments.questions_file} has {len(questions)}"
        )
    if len(captions) < 2 and arguments.held_out_share:
        raise ValueError(
            f"{arguments.captions_table} names one picture, which can't be set aside and trained on; add "
            "pictures, or --held_out_share 0"
        )
    return PromptsRun(arguments, captions, questions, checked)


def prepare_dialogues(arguments: DialoguesArguments) -> DialoguesRun:
    """Read the preferences. Raises ValueError when there are none, DataError for bad rows."""
    records, problems = read_preferences(arguments.preferences_file)
    if problems:
        raise DataError(problems)
    if not records:
        raise ValueError(f"--preferences_file {arguments.preferences_file}: holds no preferences yet")
    return DialoguesRun(arguments, records)


def prepare_export(arguments: ExportArguments) -> ExportRun:
    """Check the preferences, row by row. Raises ValueError when there are none, DataError for bad rows."""
    return ExportRun(arguments, check_preferences(arguments.preferences_file))


_PREPARE: dict[str, Callable[[Any], Prepared]] = {
    "prompts": prepare_prompts,
    "dialogues": prepare_dialogues,
    "import": prepare_import,
    "export": prepare_export,
}


def run(prepared: Prepared) -> None:
    """Write what was prepared. Raises DataError for an import with rows that can't be converted."""
    match prepared:
        case PromptsRun():
            write_dataset(prepared)
        case DialoguesRun():
            write_dialogues(prepared)
        case ImportRun():
            run_import(prepared)
        case ExportRun():
            export(prepared)


def export(prepared: ExportRun) -> None:
    """Write the preferences for another trainer."""
    arguments, output = prepared.arguments, Path(prepared.arguments.output_file)
    write_export(arguments.preferences_file, arguments.format, output, arguments.image_folder)
    print(f"wrote {prepared.count} preferences to {output}")
    if arguments.format == "llama_factory":
        entry = {output.stem: {"file_name": output.name, **DATASET_INFO}}
        print(f"for its dataset_info.json: {json.dumps(entry)}")


def write_dataset(prepared: PromptsRun) -> None:
    """Write the folder, whole or not at all."""
    arguments = prepared.arguments
    held_out, kept = split_images(list(prepared.captions), arguments.held_out_share, arguments.seed)
    rng = random.Random(f"{arguments.seed}:questions")

    def rows(images: Sequence[str]) -> list[dict[str, Any]]:
        return [
            row
            for image in images
            for row in prompt_rows(
                image,
                rng.sample(prepared.questions, arguments.questions_per_image),
                prepared.checked.get(image, ()),
                prepared.captions[image],
            )
        ]

    prompts, held_out_rows = rows(kept), rows(held_out)
    rng.shuffle(prompts)
    files = {"image_to_caption.json": prepared.captions, "prompts.json": prompts, "eval.json": held_out_rows}
    yes_no = benchmark_rows(held_out_rows)
    counts = {name: len(content) for name, content in files.items()} | {"eval_yes_no.json": len(yes_no)}
    target = Path(arguments.output_dir)
    with new_folder(target) as folder:
        for name, content in files.items():
            if content:
                write_text_whole(folder / name, _json(content))
        if yes_no:
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in yes_no]
            write_text_whole(folder / "eval_yes_no.json", "".join(lines))
        write_text_whole(folder / "dataset.json", _json({**asdict(arguments), "rows": counts}))
    _report(prepared, counts, len(held_out))


def write_dialogues(prepared: DialoguesRun) -> None:
    """Write one dialogue a preference pair, with the preferred answer at its end."""
    rows = [dialogue_row(record) for record in prepared.preferences]
    path = Path(prepared.arguments.output_file)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(path, _json(rows))
    print(f"wrote {len(rows)} dialogues to {path}")


def split_images(images: Sequence[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """(held out, kept): both have at least one image, but for a share of 0; in random order."""
    order = sorted(images)
    random.Random(f"{seed}:split").shuffle(order)
    count = min(max(1, round(share * len(order))), len(order) - 1) if share else 0
    return order[:count], order[count:]


def _report(prepared: PromptsRun, counts: dict[str, int], held_out: int) -> None:
    """Print what was written, and how many files of the folder nobody described."""
    arguments, named = prepared.arguments, len(prepared.captions)
    print(f"wrote {arguments.output_dir}: {named} pictures, {held_out} of them set aside for evaluation")
    print(", ".join(f"{name}: {count} rows" for name, count in counts.items() if count))
    folder = Path(arguments.image_folder)
    others = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    others -= set(prepared.captions)
    if others:
        print(f"files in {folder} without a caption, left out: {len(others)}, such as {min(others)}")


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    run_program(prepare, run)

"""Several benchmarks at once: every question is asked once, and its answers are scored as often as the suite says.

answers.jsonl          all answers; two entries that ask the same of the same image share them
answers/NAME.jsonl     those of an entry, as `evaluate answer` would have written them for it
scores/NAME.json       its numbers, a file of `evaluate score`
judges/NAME.jsonl      what its judge said
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from data_utils.json_files import read_object, repeated_key
from data_utils.problems import is_unicode, shorten
from llava_rlhf.evaluation.answer_files import read_settings, settings_file
from llava_rlhf.evaluation.arguments import JudgeArguments, QuestionArguments
from llava_rlhf.evaluation.benchmark_arguments import BenchmarkArguments
from llava_rlhf.evaluation.benchmarks.items import Benchmark, Item, Record, checked_items
from llava_rlhf.evaluation.prompt_files import prompts_text
from llava_rlhf.evaluation.registry import Scoring, make_benchmark
from llava_rlhf.evaluation.suite_arguments import SuiteArguments, SuiteEntryArguments
from llava_rlhf.evaluation.suite_tables import HEADLINES
from llava_rlhf.runs.parsing import StrictParser
from llava_rlhf.runs.run_folder import write_text_whole

if TYPE_CHECKING:
    from llava_rlhf.evaluation.local_judge import JudgeModel

CLASSES = (BenchmarkArguments, QuestionArguments, SuiteEntryArguments, JudgeArguments)
WHO_JUDGES = ("judge_url", "judge_model", "judge_model_path")
IN_AN_ENTRY = (
    "verdict",
    "judge_prompt_file",
    "judge_cache",
)  # one for all entries would fit none, or be fought over
_NAME = re.compile(r"[\w.-]{1,100}")
_HELP = ("help", "help_all")  # flags, but none that an entry could have


@dataclass(frozen=True)
class Entry:
    """One scoring of a suite.

    Attributes:
        name: the user's.
        benchmark: what it is called.
        made: the benchmark, ready to score.
        items: what it asks.
        suffix: text behind every question.
        subfolder: of its images.
    """

    name: str
    benchmark: str
    made: Benchmark
    items: Sequence[Item]
    suffix: str
    subfolder: str

    def asked(self, item: Item) -> tuple[str, str]:
        """The image that is shown ("": none), and the text that is asked."""
        image = str(PurePosixPath(self.subfolder) / item.image) if item.image else ""
        return image, "\n".join(filter(None, (item.question, self.suffix)))


def read_suite(arguments: SuiteArguments, judge: JudgeArguments) -> list[Entry]:
    """The entries of a suite file, with their benchmarks read and their judges ready.

    Args:
        arguments: the suite's.
        judge: of the command line; it judges where an entry wants a judge and names none of its own.

    Raises:
        ValueError: naming the file and the entry: it is no object of objects, or what `evaluate score` refuses; or the
            command line says what only an entry can.
    """
    for name in IN_AN_ENTRY:
        if getattr(judge, name) is not None:
            raise ValueError(
                f"--{name} {getattr(judge, name)}: say it in the entry of --suite_file that it is for"
            )
    place = f"--suite_file {arguments.suite_file}"
    try:
        found = read_object(arguments.suite_file)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    twice = repeated_key(found)
    if twice is not None:
        raise ValueError(f"{place}: {twice!r} stands there more than once; keep one")
    if not found:
        raise ValueError(f"{place}: holds no entry")
    entries: list[Entry] = []
    models: dict[tuple[str, str], JudgeModel] = {}
    for name, settings in found.items():
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{place}: an entry is called {shorten(name)}; use letters, digits, '_', '-' and '.', 100 at most"
            )
        try:
            entries.append(_entry(name, settings, arguments, judge, models))
        except ValueError as error:
            raise ValueError(f"{place}, entry {name!r}: {error}") from None
    return entries


def unique_questions(entries: Sequence[Entry]) -> list[Item]:
    """What all entries ask, each image and question once, in the order of the entries; ids are numbers."""
    first: dict[tuple[str, str], Item] = {}
    for entry in entries:
        for item in entry.items:
            image, question = asked = entry.asked(item)
            identity = f"{len(first):06d}"
            first.setdefault(
                asked, Item(identity, question, image, entry.benchmark, answer_type=item.answer_type)
            )
    return list(first.values())


def split_answers(
    entries: Sequence[Entry], questions: Sequence[Item], answers: Sequence[Record]
) -> dict[str, list[dict[str, Any]]]:
    """Entry → its answers, item by item, with the ids and images of its own benchmark.

    Args:
        entries: of the suite.
        questions: what `unique_questions` made of them.
        answers: to these questions.
    """
    ids = {(question.image, question.question): question.id for question in questions}
    by_id: defaultdict[str, list[Record]] = defaultdict(list)
    for answer in answers:
        by_id[answer["id"]].append(answer)
    return {
        entry.name: [
            {
                **{key: value for key, value in answer.items() if key != "prompt_row"},
                "id": item.id,
                "image": [item.image] if item.image else [],
                "answer_type": item.answer_type.name,
            }
            for item in entry.items
            for answer in by_id[ids[entry.asked(item)]]
        ]
        for entry in entries
    }


def check_earlier_answers(answers: Path, questions: Sequence[Item]) -> None:
    """Raise ValueError where whole answers of an earlier suite are there, to other questions: they would be lost."""
    earlier = read_settings(answers) if answers.is_file() else None
    now = hashlib.sha256(prompts_text(questions, "").encode()).hexdigest()
    if earlier is not None and earlier.get("dataset_sha256") != now:
        raise ValueError(
            f"--output_dir {answers.parent}: {answers.name} there answers other questions than this suite asks; "
            "name another --output_dir, where everything is answered again"
        )


def check_each_keeps_one(entries: Sequence[Entry], questions: Sequence[Item], kept: Iterable[str]) -> None:
    """Raise ValueError where all questions of an entry are dropped; `kept` are the ids of those that are asked."""
    for name, left in split_answers(entries, questions, [{"id": identity} for identity in kept]).items():
        if not left:
            raise ValueError(
                f"entry {name!r}: all its questions are dropped (--skip_invalid True); mend them, or take the entry out"
            )


def write_answers_of(path: Path, answers: Sequence[Record], made: Mapping[str, Any]) -> None:
    """Write an entry's answers, and how they were made, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(path, "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers))
    write_text_whole(settings_file(path), json.dumps(made, indent=2) + "\n")


def _entry(
    name: str,
    settings: Any,
    arguments: SuiteArguments,
    judge: JudgeArguments,
    models: dict[tuple[str, str], JudgeModel],
) -> Entry:
    if not isinstance(settings, dict):
        raise ValueError(f"is {settings!r}, must be an object of flags, such as {{'benchmark': 'pope'}}")
    parser = StrictParser(CLASSES)
    own = _flags(settings)
    benchmark, questions, entry, judging = parser.parse(own)
    if benchmark.benchmark not in HEADLINES:
        raise ValueError(
            f"benchmark {benchmark.benchmark} asks no questions; a suite has {', '.join(HEADLINES)}"
        )
    if benchmark.benchmark == "mmhal" or judging.verdict == "judge":
        *_, judging = parser.parse([*_flags(_said(judge, settings, benchmark.benchmark)), *own])
    folder = Path(arguments.output_dir)
    cache = folder / "judges" / f"{name}.jsonl"
    answers = str(folder / "answers" / f"{name}.jsonl")
    scoring = Scoring(answers, cache, arguments.judge_device, judging, models)
    made = make_benchmark(benchmark, scoring)
    return Entry(
        name,
        benchmark.benchmark,
        made,
        checked_items(made.items()),
        questions.question_suffix,
        entry.image_subfolder,
    )


def _said(judge: JudgeArguments, settings: Mapping[str, Any], benchmark: str) -> dict[str, Any]:
    """What the command line says of a judge, as far as an entry does not say it itself."""
    own = any(name in settings for name in WHO_JUDGES)
    return {
        item.name: getattr(judge, item.name)
        for item in fields(JudgeArguments)
        if getattr(judge, item.name) != item.default
        and item.name not in settings
        and (item.name != "judge_repeats" or benchmark == "mmhal")  # the others ask once
        and not (own and item.name in WHO_JUDGES)
    }


def _flags(settings: Mapping[str, Any]) -> list[str]:
    words = []
    for name, value in settings.items():
        values = value if isinstance(value, list) else [value]
        if name in _HELP:
            raise ValueError(f"unknown flag --{name}")
        if not all(isinstance(one, str | int | float) and is_unicode(str(one)) for one in values):
            raise ValueError(f"{name} is {value!r}, must be a text, a number, or a list of them")
        # A single value may begin with dashes.
        words += [f"--{name}={values[0]}"] if len(values) == 1 else [f"--{name}", *map(str, values)]
    return words

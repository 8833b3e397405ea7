"""Evaluate a model: answers first, numbers second, one table last.

    python -m llava_rlhf.evaluate answer --benchmark pope --benchmark_files data/pope/coco_pope_random.json \\
        --image_folder data/coco/val2014 --base_model_name checkpoints/llava-7b-v1.5-224-sft --adapter runs/rl_model --output_file runs/ppo.jsonl
    python -m llava_rlhf.evaluate score --benchmark pope --benchmark_files data/pope/coco_pope_random.json \\
        --answers runs/ppo.jsonl --output_file runs/ppo.json
    python -m llava_rlhf.evaluate compare --runs SFT=runs/sft.json PPO=runs/ppo.json --output_dir runs/table
    python -m llava_rlhf.evaluate suite --suite_file suite.json --image_folder data --base_model_name checkpoints/llava-7b-v1.5-224-sft \\
        --adapter runs/rl_model --output_dir runs/suite

`suite` asks the questions of several benchmarks in one go and scores the answers. Only `answer` and `suite` need the model (and a GPU); `--help` behind an action lists its flags.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from llava_rlhf.engines.arguments import ServerArguments
from llava_rlhf.engines.judge_client import JudgeError
from llava_rlhf.evaluation.answer_files import read_settings
from llava_rlhf.evaluation.arguments import (
    AnswerArguments,
    BenchmarkDataArguments,
    CompareArguments,
    JudgeArguments,
    QuestionArguments,
    ScoreArguments,
    StatisticsArguments,
    name_and_file,
)
from llava_rlhf.evaluation.benchmark_arguments import BenchmarkArguments
from llava_rlhf.evaluation.benchmarks.items import Benchmark, Item, Record, checked_items, read_objects
from llava_rlhf.evaluation.comparison import Comparison, check_comparable, compare, group_runs
from llava_rlhf.evaluation.prompt_files import write_prompts
from llava_rlhf.evaluation.registry import Scoring, make_benchmark
from llava_rlhf.evaluation.score_files import ScoreFile, format_summary, read_score_file, summarise
from llava_rlhf.evaluation.suite_arguments import SuiteAnswerArguments, SuiteArguments
from llava_rlhf.evaluation.suite_tables import SuiteRow, suite_json, suite_markdown, suite_rows
from llava_rlhf.evaluation.suites import (
    Entry,
    check_each_keeps_one,
    check_earlier_answers,
    read_suite,
    split_answers,
    unique_questions,
    write_answers_of,
)
from llava_rlhf.evaluation.tables import as_json, latex, markdown
from llava_rlhf.runs.arguments import DataArguments, ModelArguments
from llava_rlhf.runs.parsing import StrictParser, run_program, split_action
from llava_rlhf.runs.run_folder import write_text_whole

if TYPE_CHECKING:
    from llava_rlhf.evaluation.answer_runs import AnswerRun

ARGUMENTS = {
    "answer": (
        AnswerArguments,
        BenchmarkArguments,
        QuestionArguments,
        BenchmarkDataArguments,
        ModelArguments,
        ServerArguments,
    ),
    "score": (BenchmarkArguments, ScoreArguments, JudgeArguments),
    "compare": (CompareArguments,),
    "suite": (
        SuiteArguments,
        SuiteAnswerArguments,
        BenchmarkDataArguments,
        ModelArguments,
        ServerArguments,
        JudgeArguments,
    ),
}


@dataclass(frozen=True)
class ScoreRun:
    """Checked answers to a benchmark."""

    arguments: ScoreArguments
    benchmark: Benchmark
    name: str
    answers: Sequence[Record]


@dataclass(frozen=True)
class CompareRun:
    """Checked score files: benchmark → run → file."""

    arguments: CompareArguments
    groups: Mapping[str, Mapping[str, ScoreFile]]
    first: str
    notes: Sequence[str]


@dataclass(frozen=True)
class SuiteRun:
    """A checked suite: its entries, what they ask together, and who will answer."""

    arguments: SuiteArguments
    entries: Sequence[Entry]
    questions: Sequence[Item]
    answering: AnswerRun


def prepare(argv: Sequence[str]) -> tuple[str, Any]:
    """The action and what it needs, checked before a model is loaded or a judge asked. Raises ValueError."""
    action, flags = split_action(argv, ARGUMENTS, __doc__)
    parsed = StrictParser(
        ARGUMENTS[action], description=__doc__, prog=f"python -m llava_rlhf.evaluate {action}"
    ).parse(flags)
    steps: Mapping[str, Callable[..., Any]] = {
        "answer": prepare_answer,
        "score": prepare_score,
        "compare": prepare_compare,
        "suite": prepare_suite,
    }
    return action, steps[action](*parsed)


def prepare_answer(
    arguments: AnswerArguments,
    benchmark: BenchmarkArguments,
    questions: QuestionArguments,
    data: BenchmarkDataArguments,
    model: ModelArguments,
    engine: ServerArguments,
) -> AnswerRun:
    """Write the prompts of the benchmark beside the answers, and check them like any file of prompts."""
    from llava_rlhf.evaluation.answer_runs import prepare_answers

    items = checked_items(make_benchmark(benchmark).items())
    prompts = Path(f"{arguments.output_file}.prompts.json")
    write_prompts(items, questions.question_suffix, prompts)
    return prepare_answers(arguments, _data_of(data, prompts), model, engine)


def _data_of(data: BenchmarkDataArguments, prompts: Path) -> DataArguments:
    values = {item.name: getattr(data, item.name) for item in fields(DataArguments)}
    return DataArguments(**(values | {"dataset_path": str(prompts)}))


def prepare_score(
    benchmark: BenchmarkArguments, arguments: ScoreArguments, judge: JudgeArguments
) -> ScoreRun:
    """Read the benchmark's files and the answers, and look whether they fit and the judge can be asked."""
    given = [answer for _, answer in read_objects(arguments.answers, "--answers")]
    if not given:
        raise ValueError(f"--answers {arguments.answers}: holds no answers")
    cache = Path(arguments.output_file).parent / "judge_cache.jsonl"
    made = make_benchmark(benchmark, Scoring(arguments.answers, cache, arguments.judge_device, judge))
    answers = made.own_layout(given)
    made.check(answers, arguments.missing_items == "leave_out")
    return ScoreRun(arguments, made, benchmark.benchmark, answers)


def prepare_compare(arguments: CompareArguments) -> CompareRun:
    """Read the score files and look whether they can be compared."""
    named = [(name, read_score_file(path)) for name, path in map(name_and_file, arguments.runs)]
    groups = group_runs(named)
    leave_out = arguments.missing_items == "leave_out"
    notes = check_comparable(groups, arguments.allow_other_conditions, leave_out)
    return CompareRun(arguments, groups, named[0][0], notes)


def prepare_suite(
    arguments: SuiteArguments,
    answering: SuiteAnswerArguments,
    data: BenchmarkDataArguments,
    model: ModelArguments,
    engine: ServerArguments,
    judge: JudgeArguments,
) -> SuiteRun:
    """Read all benchmarks, get their judges ready, and check the questions of all of them like any file of prompts."""
    from llava_rlhf.evaluation.answer_runs import prepare_answers

    entries = read_suite(arguments, judge)
    questions = unique_questions(entries)
    folder = Path(arguments.output_dir)
    check_earlier_answers(folder / answering.output_file, questions)
    write_prompts(questions, "", folder / "prompts.json")
    values = {item.name: getattr(answering, item.name) for item in fields(AnswerArguments)}
    checked = AnswerArguments(**(values | {"output_file": str(folder / answering.output_file)}))
    run = prepare_answers(checked, _data_of(data, folder / "prompts.json"), model, engine)
    if len(run.prompts) < len(questions) and arguments.missing_items == "refuse":
        raise ValueError(
            f"{len(questions) - len(run.prompts)} of {len(questions)} questions are dropped (--skip_invalid True) and would "
            "have no answer; mend them, or score the others with --missing_items leave_out"
        )
    check_each_keeps_one(entries, questions, run.prompts.column("id"))
    return SuiteRun(arguments, entries, questions, run)


def run(prepared: tuple[str, Any]) -> None:
    """Do what was prepared."""
    action, checked = prepared
    actions = {"answer": run_answer, "score": run_score, "compare": run_compare, "suite": run_suite}
    actions[action](checked)


def run_answer(prepared: AnswerRun) -> None:
    """Load the model and answer."""
    from llava_rlhf.evaluation.answer_runs import write_answers

    write_answers(prepared)


def run_score(prepared: ScoreRun) -> None:
    """Score, write the numbers and print them."""
    arguments = prepared.arguments
    settings = read_settings(arguments.answers)
    output = Path(arguments.output_file)
    file, table = _score(
        prepared.benchmark, prepared.name, prepared.answers, arguments.answers, arguments, settings, output
    )
    print(format_summary(table))
    counts = {name: f"{n:.3f}" if isinstance(n, float) else n for name, n in file.scores.counts.items() if n}
    print("".join(f"{name}: {count}\n" for name, count in counts.items()), end="")
    print(f"wrote {arguments.output_file}")


def _score(
    benchmark: Benchmark,
    name: str,
    answers: Sequence[Record],
    path: str,
    statistics: StatisticsArguments,
    settings: Mapping[str, Any] | None,
    output: Path,
) -> tuple[ScoreFile, dict[str, Any]]:
    """Score answers, which lie in `path`, and write the file of numbers."""
    try:
        scores = benchmark.score(answers, statistics.missing_items == "leave_out")
    except JudgeError as error:
        raise SystemExit(
            f"error: {error}\nReplies so far are kept: the same command goes on from there"
        ) from None
    table = summarise(scores.items, list(benchmark.metrics), statistics.resamples, statistics.statistics_seed)
    file = ScoreFile(name, benchmark.metrics, path, settings, scores)
    file.write(output, table)
    return file, table


def run_suite(prepared: SuiteRun) -> None:
    """Answer what is not answered yet, score every entry, write the table and print it."""
    run_answer(prepared.answering)
    folder, arguments = Path(prepared.arguments.output_dir), prepared.arguments
    settings = read_settings(prepared.answering.output.path)
    given = [answer for _, answer in read_objects(prepared.answering.output.path, "answers")]
    files: dict[str, ScoreFile] = {}
    rows: list[SuiteRow] = []
    answers = split_answers(prepared.entries, prepared.questions, given)
    for entry in tqdm(prepared.entries, desc="scoring", unit="entry", disable=None):
        path = folder / "answers" / f"{entry.name}.jsonl"
        made = {**(settings or {}), "question_suffix": entry.suffix}
        write_answers_of(path, answers[entry.name], made)
        output = folder / "scores" / f"{entry.name}.json"
        files[entry.name], table = _score(
            entry.made, entry.benchmark, answers[entry.name], str(path), arguments, made, output
        )
        rows += suite_rows(entry.name, files[entry.name], table)
    text = suite_markdown(rows, files)
    write_text_whole(folder / "table.md", text)
    write_text_whole(folder / "table.json", suite_json(rows, files, settings))
    print(text, end="")
    print(f"wrote table.md, table.json, answers/ and scores/ in {folder}")


def run_compare(prepared: CompareRun) -> None:
    """Compare, write the tables and print the first of them."""
    arguments = prepared.arguments
    found = compare(prepared.groups, arguments.resamples, arguments.statistics_seed)
    rows = list(tqdm(found, desc="comparing", unit="row", disable=None))
    comparison = Comparison(rows, prepared.notes)
    meanings = {name: next(iter(runs.values())).metrics for name, runs in prepared.groups.items()}
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(comparison, meanings, prepared.first)
    write_text_whole(folder / "table.md", text)
    write_text_whole(folder / "table.tex", latex(comparison, prepared.first))
    write_text_whole(folder / "table.json", as_json(comparison, meanings, prepared.first))
    print(text, end="")
    print(f"wrote table.md, table.tex and table.json in {folder}")


if __name__ == "__main__":
    run_program(prepare, run)

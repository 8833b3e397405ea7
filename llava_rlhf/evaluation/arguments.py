"""Settings of `llava_rlhf.evaluate` and `answer_prompts`: who answers, the benchmark, the judge, what is compared."""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llava_rlhf.engines.judge_client import Endpoint
from llava_rlhf.runs.arguments import DataArguments
from llava_rlhf.runs.output_place import check_writable

DEFAULT_JUDGE_OPTIONS = '{"temperature": 0, "max_tokens": 512}'


@dataclass
class AnswerArguments:
    """Who answers, and how."""

    _argument_group_name = "answering"

    base_model_name: str = field(metadata={"help": "Model directory in Hugging Face format, or its hub id."})
    output_file: str = field(
        metadata={"help": "JSON Lines file; while answers are missing they are in OUTPUT_FILE.partial."}
    )
    adapter: str | None = field(
        default=None, metadata={"help": "Policy run folder, checkpoint or PEFT folder, or its hub id."}
    )
    temperature: float = field(default=0.0, metadata={"help": "0: the most likely token; else sample."})
    samples: int = field(default=1, metadata={"help": "Answers per prompt."})
    batch_size: int = field(default=64, metadata={"help": "Answers at once."})
    seed: int = field(default=0, metadata={"help": "Of sampling."})
    bf16: bool = field(default=False, metadata={"help": "Weights and activations in bfloat16."})
    use_cpu: bool = field(default=False, metadata={"help": "Stay on the CPU even where CUDA is present."})

    def __post_init__(self):
        if self.temperature < 0 or self.samples < 1 or self.batch_size < 1:
            raise ValueError("--temperature must be at least 0, --samples and --batch_size at least 1")
        if self.samples > 1 and not self.temperature:
            raise ValueError(
                f"--samples {self.samples} with --temperature 0: all would be alike; set a temperature, or one sample"
            )


@dataclass
class QuestionArguments:
    """How the questions of a benchmark are put."""

    _argument_group_name = "questions"

    question_suffix: str = field(
        default="",
        metadata={"help": 'Text behind every question, with a line break before it; "" for none.'},
    )


@dataclass
class BenchmarkDataArguments(DataArguments):
    """Images and limits; the prompts are the benchmark's."""

    dataset_path: str = field(init=False)  # no flag: see `prompt_files`

    def __post_init__(self):
        self.dataset_path = __file__  # some file, until the prompts are written
        super().__post_init__()


@dataclass
class JudgeArguments:
    """Who rates the answers (mmhal, hallusionbench, object_halbench)."""

    _argument_group_name = "judge"

    judge_url: str | None = field(
        default=None,
        metadata={
            "help": "OpenAI-compatible endpoint, such as http://localhost:8000/v1; the key comes from the environment "
            "variable OPENAI_API_KEY."
        },
    )
    judge_model: str | None = field(default=None, metadata={"help": "The model as the endpoint calls it."})
    judge_model_path: str | None = field(
        default=None, metadata={"help": "Instead of an endpoint: folder of a Hugging Face language model."}
    )
    verdict: Literal["judge", "rule"] | None = field(
        default=None,
        metadata={
            "help": "hallusionbench, object_halbench: who reads the answers, a judge or a rule of words; must be said."
        },
    )
    judge_prompt_file: str | None = field(
        default=None,
        metadata={
            "help": "Prompt (default: the benchmark's in prompts/) with {question}, {answer}, and of mmhal {image_content} and "
            "{reference}, of hallusionbench {reference}; or as many {} in the order that docs/evaluation.md says."
        },
    )
    judge_options: str = field(
        default=DEFAULT_JUDGE_OPTIONS,
        metadata={
            "help": "JSON object of further request fields (a local judge: temperature and max_tokens)."
        },
    )
    judge_repeats: int = field(default=1, metadata={"help": "Verdicts an answer."})
    judge_cache: str | None = field(
        default=None,
        metadata={"help": "JSON Lines file of replies (default: judge_cache.jsonl beside --output_file)."},
    )
    judge_workers: int = field(default=4, metadata={"help": "Requests at once."})
    judge_retries: int = field(
        default=6, metadata={"help": "Retries, with back-off, of a busy or broken endpoint."}
    )

    def __post_init__(self):
        if self.judge_repeats < 1:
            raise ValueError(f"--judge_repeats {self.judge_repeats}: must be at least 1")
        if self.judge_url is not None or self.judge_model is not None:
            self.endpoint()
        self.options()

    def options(self) -> dict[str, Any]:
        """`judge_options` as a dictionary. Raises ValueError."""
        try:
            options = json.loads(self.judge_options)
        except ValueError as error:
            raise ValueError(f"--judge_options {self.judge_options}: no JSON ({error})") from None
        if not isinstance(options, dict):
            raise ValueError(f"--judge_options {self.judge_options}: must be a JSON object")
        return options

    def endpoint(self) -> Endpoint | None:
        """Where the judge is, None for a local one. Raises ValueError where it is not said, or said twice."""
        remote = self.judge_url is not None and self.judge_model is not None
        if remote == (self.judge_model_path is not None) or (
            not remote and (self.judge_url or self.judge_model)
        ):
            raise ValueError("a judge is needed: either --judge_url and --judge_model, or --judge_model_path")
        if not remote:
            return None
        try:
            return Endpoint(
                self.judge_url, self.judge_model, self.options(), self.judge_workers, self.judge_retries
            )
        except ValueError as error:
            raise ValueError(f"--judge_url, --judge_model, --judge_options …: {error}") from None


@dataclass
class StatisticsArguments:
    """How sure the numbers are."""

    _argument_group_name = "statistics"

    missing_items: Literal["refuse", "leave_out"] = field(
        default="refuse",
        metadata={
            "help": "Items without an answer, or that not all runs have: refuse, or leave_out and say so."
        },
    )
    resamples: int = field(
        default=5000, metadata={"help": "Resamples of the bootstrap and of the permutation test."}
    )
    statistics_seed: int = field(default=0, metadata={"help": "Of resampling."})

    def __post_init__(self):
        if self.resamples < 100:
            raise ValueError(f"--resamples {self.resamples}: must be at least 100")


@dataclass(kw_only=True)
class ScoreArguments(StatisticsArguments):
    """What to score."""

    answers: str = field(
        metadata={
            "help": "Answers (JSON Lines) of `evaluate answer`; benchmarks of rewards: scores of llava_rlhf.score."
        },
    )
    output_file: str = field(metadata={"help": "JSON file of numbers to write."})
    judge_device: str = field(default="auto", metadata={"help": "Of a local judge: auto, cpu, cuda …"})

    def __post_init__(self):
        super().__post_init__()
        if not Path(self.answers).is_file():
            raise ValueError(f"--answers {self.answers}: no such file")
        if not self.output_file or Path(self.output_file).is_dir():
            raise ValueError(f"--output_file {self.output_file}: must name a file")
        if Path(self.output_file).resolve() == Path(self.answers).resolve():
            raise ValueError(f"--output_file {self.output_file} is the file of answers; choose another")
        check_writable("--output_file", Path(self.output_file).parent)  # before a judge is paid


@dataclass(kw_only=True)
class CompareArguments(StatisticsArguments):
    """What to compare."""

    runs: list[str] = field(
        metadata={
            "help": "NAME=SCORES.json of each run, the reference first; a run may have one file for each benchmark."
        },
    )
    output_dir: str = field(metadata={"help": "Folder for table.md, table.tex and table.json."})
    allow_other_conditions: bool = field(
        default=False,
        metadata={"help": "Print runs side by side that had another judge or other files, with a note."},
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.output_dir or Path(self.output_dir).is_file():
            raise ValueError(f"--output_dir {self.output_dir}: must name a folder")
        check_writable("--output_dir", self.output_dir)
        wrong = [run for run in self.runs if not all(run.partition("=")) or not run.isprintable()]
        if wrong:
            raise ValueError(
                f"--runs {' '.join(map(repr, wrong))}: each must be NAME=FILE, without line breaks"
            )


def name_and_file(run: str) -> tuple[str, str]:
    """`NAME=FILE` in two; where there are more signs, at the first one with a file behind it."""
    parts = run.split("=")
    splits = [("=".join(parts[:place]), "=".join(parts[place:])) for place in range(1, len(parts))]
    return next((split for split in splits if Path(split[1]).is_file()), splits[0])

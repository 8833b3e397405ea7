"""Settings of `llava_rlhf.evaluate suite`: several benchmarks in one go."""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
from dataclasses import dataclass, field
from pathlib import Path

from llava_rlhf.evaluation.arguments import AnswerArguments, StatisticsArguments
from llava_rlhf.runs.output_place import check_writable


@dataclass(kw_only=True)
class SuiteArguments(StatisticsArguments):
    """Which benchmarks, and where everything goes."""

    _argument_group_name = "suite"

    suite_file: str = field(
        metadata={
            "help": "JSON object: a name of your own for each scoring → an object of flags of `answer` and `score` (benchmark, "
            "benchmark_files, image_subfolder, question_suffix, verdict, judge_model …)."
        }
    )
    output_dir: str = field(
        metadata={"help": "Folder for answers, scores, judges' replies, table.md and table.json."}
    )
    judge_device: str = field(default="auto", metadata={"help": "Of a local judge: auto, cpu, cuda …"})

    def __post_init__(self):
        super().__post_init__()
        if not Path(self.suite_file).is_file():
            raise ValueError(f"--suite_file {self.suite_file}: no such file")
        if not self.output_dir or Path(self.output_dir).is_file():
            raise ValueError(f"--output_dir {self.output_dir}: must name a folder")
        check_writable("--output_dir", self.output_dir)


@dataclass
class SuiteAnswerArguments(AnswerArguments):
    """Who answers all questions, and how."""

    output_file: str = field(init=False)  # no flag: answers.jsonl in the suite's folder

    def __post_init__(self):
        super().__post_init__()
        self.output_file = "answers.jsonl"


@dataclass
class SuiteEntryArguments:
    """What an entry of a suite has besides flags of `answer` and `score`."""

    _argument_group_name = "entry"

    image_subfolder: str = field(
        default="", metadata={"help": "Folder of the entry's images within --image_folder."}
    )

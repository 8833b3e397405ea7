"""Settings of the collection program."""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llava_rlhf.engines.judge_client import Endpoint
from llava_rlhf.runs.arguments import DataArguments
from llava_rlhf.runs.output_place import check_writable


@dataclass
class CollectArguments:
    """Who answers, who judges, and where it goes."""

    _argument_group_name = "collection"

    output_dir: str = field(metadata={"help": "Folder of the collection; started again, it goes on there."})
    base_model_name: str | None = field(
        default=None, metadata={"help": "Model directory that answers; not needed where answers are given."}
    )
    adapter: str | None = field(
        default=None, metadata={"help": "Policy run folder, checkpoint or PEFT folder, or its hub id."}
    )
    annotator: Literal["human", "judge"] = field(
        default="human",
        metadata={"help": "human: a page for people; judge: an AI annotator (see --judge_url)."},
    )
    image_to_caption_file: str | None = field(
        default=None,
        metadata={
            "help": "JSON object: image file name → captions, for the AI annotator, and for people who ask for them."
        },
    )
    temperature: float = field(default=0.7, metadata={"help": "Of sampling; must be above 0."})
    samples: int = field(
        default=4, metadata={"help": "Answers per prompt; the first two that differ become the pair."}
    )
    prompts_per_batch: int = field(default=16, metadata={"help": "Prompts answered at once."})
    pairs_ahead: int = field(
        default=32, metadata={"help": "Sample on while fewer pairs than this wait to be judged."}
    )
    max_prompts: int = field(default=0, metadata={"help": "Only the first so many prompts; 0 for all."})
    shared_share: float = field(
        default=0.1,
        metadata={"help": "Share of pairs shown to every annotator, to measure agreement (0 to 1)."},
    )
    goal: int = field(
        default=0, metadata={"help": "Judgements asked of each person, 0 for all pairs; going on is allowed."}
    )
    seed: int = field(default=0, metadata={"help": "Of sampling, orders and label noise."})
    bf16: bool = field(default=False, metadata={"help": "Weights and activations in bfloat16."})
    use_cpu: bool = field(default=False, metadata={"help": "Stay on the CPU even where CUDA is present."})

    def __post_init__(self):
        if not 0 < self.temperature < float("inf"):
            raise ValueError(
                f"--temperature {self.temperature}: must be above 0, or all answers would be alike"
            )
        least = {"samples": 2, "prompts_per_batch": 1, "pairs_ahead": 1, "max_prompts": 0, "goal": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"--{name} {getattr(self, name)}: must be at least {value}")
        if not 0 <= self.shared_share <= 1:
            raise ValueError(f"--shared_share {self.shared_share}: must be from 0 to 1")
        if self.image_to_caption_file is not None and not Path(self.image_to_caption_file).is_file():
            raise ValueError(f"--image_to_caption_file {self.image_to_caption_file}: no such file")
        if Path(self.output_dir).exists() and not Path(self.output_dir).is_dir():
            raise ValueError(f"--output_dir {self.output_dir}: exists and is no folder")
        check_writable("--output_dir", self.output_dir)


@dataclass
class CollectedDataArguments(DataArguments):
    """What is asked."""

    dataset_path: str = field(
        metadata={
            "help": "Prompts (published format), or answers of answer_prompts.py, two or more a prompt."
        }
    )


@dataclass
class PreferenceJudgeArguments:
    """The AI annotator; its key is read from OPENAI_API_KEY."""

    _argument_group_name = "AI annotator (--annotator judge)"

    judge_url: str | None = field(
        default=None, metadata={"help": "OpenAI-compatible endpoint that reads images, up to and with /v1."}
    )
    judge_model: str | None = field(default=None, metadata={"help": "Model, as the endpoint calls it."})
    judge_options: str = field(
        default='{"temperature": 0}', metadata={"help": "JSON object: further fields of each request."}
    )
    judge_prompt_file: str | None = field(
        default=None,
        metadata={"help": "Own prompt with {question}, {captions}, {answer_a}, {answer_b} (default: ours)."},
    )
    judge_workers: int = field(default=4, metadata={"help": "Requests under way at once."})
    label_noise: float = field(
        default=0.0, metadata={"help": "Probability of flipping each preference (AlpacaFarm: 0.25)."}
    )

    def __post_init__(self):
        if not 0 <= self.label_noise <= 0.5:
            raise ValueError(f"--label_noise {self.label_noise}: must be from 0 to 0.5")

    def endpoint(self) -> Endpoint:
        """Where the judge is. Raises ValueError when it is not said, or wrongly."""
        if self.judge_url is None or self.judge_model is None:
            raise ValueError("--annotator judge needs --judge_url and --judge_model")
        endpoint = Endpoint(self.judge_url, self.judge_model, self.options(), self.judge_workers)
        endpoint.key()
        return endpoint

    def options(self) -> dict[str, Any]:
        """Further fields of each request. Raises ValueError when they are no JSON object."""
        try:
            options = json.loads(self.judge_options)
        except ValueError as error:
            raise ValueError(f"--judge_options {self.judge_options}: {error}") from None
        if not isinstance(options, dict):
            raise ValueError(f"--judge_options {self.judge_options}: must be a JSON object")
        return options

    def refuse_without_judge(self) -> None:
        """Raise ValueError when an AI annotator was described although people judge."""
        if self.judge_url is not None or self.judge_model is not None or self.label_noise:
            raise ValueError("--judge_url, --judge_model and --label_noise are of --annotator judge")

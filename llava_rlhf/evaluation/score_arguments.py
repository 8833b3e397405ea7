"""Settings of `llava_rlhf.score`."""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from data_utils.conversation import VERSIONS
from data_utils.facts import MissingCaptions
from llava_rlhf.runs.arguments import DataArguments, FactArguments
from llava_rlhf.runs.output_place import check_writable


@dataclass
class ScoringArguments:
    """Who scores, and where the scores go."""

    _argument_group_name = "scoring"

    reward_model_name_or_path: str = field(
        metadata={"help": "Reward model: a folder with reward_model.json, trained here or converted."}
    )
    output_file: str = field(
        metadata={"help": "JSON Lines file of scores; the numbers go to OUTPUT_FILE.summary.json."}
    )
    base_model_name: str | None = field(
        default=None, metadata={"help": "Base of the reward model (default: the one in reward_model.json)."}
    )
    batch_size: int = field(default=16, metadata={"help": "Pairs or answers at once."})
    seed: int = field(default=42, metadata={"help": "Of the caption order; the one of training or PPO."})
    bf16: bool = field(default=False, metadata={"help": "Weights and activations in bfloat16."})
    use_cpu: bool = field(default=False, metadata={"help": "Stay on the CPU even where CUDA is present."})

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"--batch_size {self.batch_size}: must be at least 1")
        if Path(self.output_file).is_dir():
            raise ValueError(f"--output_file {self.output_file} is a directory; name a file")
        check_writable("--output_file", Path(self.output_file).parent)

    @property
    def summary_file(self) -> Path:
        """Where the numbers go."""
        return Path(f"{self.output_file}.summary.json")


@dataclass
class ScoredDataArguments(DataArguments):
    """Pairs or answers to score; template and image mode are the reward model's."""

    dataset_path: str = field(
        metadata={"help": "Preference file (published format), or answers as answer_prompts.py writes them."}
    )
    version: str | None = field(
        default=None,
        metadata={
            "help": "Conversation template; must be the reward model's (default: it is).",
            "choices": sorted(VERSIONS),
        },
    )
    image_aspect_ratio: Literal["pad", "square"] | None = field(
        default=None, metadata={"help": "How images are made square; as above."}
    )
    min_pixels: int | None = field(default=None, metadata={"help": "Smallest size of a picture; as above."})
    max_pixels: int | None = field(default=None, metadata={"help": "Largest size of a picture; as above."})


@dataclass
class ScoredFactArguments(FactArguments):
    """What the reward model is told besides the image; the criteria are the reward model's."""

    reward_prompt_file: str | None = field(
        default=None, metadata={"help": "Criteria it reads; must be the reward model's (default: they are)."}
    )
    facts: bool | None = field(
        default=None, metadata={"help": "Whether the reward model sees captions; must be as in training."}
    )

    def __post_init__(self):
        self.missing_captions = MissingCaptions(self.missing_captions)

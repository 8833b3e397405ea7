"""Settings of the reward service."""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
from dataclasses import dataclass, field

from data_utils.facts import MissingCaptions
from llava_rlhf.runs.missing_paths import require_file, require_folder


@dataclass
class RewardServiceArguments:
    """Who scores, and how much at once."""

    _argument_group_name = "reward service"

    reward_model: str = field(
        metadata={"help": "Reward model: a folder with reward_model.json, trained here or converted."}
    )
    base_model_name: str | None = field(
        default=None, metadata={"help": "Base of the reward model (default: the one in reward_model.json)."}
    )
    batch_size: int = field(
        default=16,
        metadata={"help": "Rows of one forward, at most; a row of several pictures counts as as many."},
    )
    wait_ms: float = field(
        default=5.0,
        metadata={"help": "How long a forward waits for rows of other requests, in milliseconds."},
    )
    bf16: bool = field(default=False, metadata={"help": "Weights and activations in bfloat16."})
    use_cpu: bool = field(default=False, metadata={"help": "Stay on the CPU even where CUDA is present."})

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"--batch_size {self.batch_size}: must be at least 1")
        if not 0 <= self.wait_ms <= 10_000:
            raise ValueError(f"--wait_ms {self.wait_ms}: must be from 0 to 10000")


@dataclass
class ServedRowArguments:
    """What rows may name, and how their facts are read."""

    _argument_group_name = "rows"

    image_folders: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Folders that the `image` of a row is looked for in, one after the other; without any, pictures come with "
            "the request."
        },
    )
    image_to_caption_file: str | None = field(
        default=None,
        metadata={"help": "JSON object: image name → list of captions, for rows that bring none."},
    )
    image_to_facts_file: str | None = field(
        default=None, metadata={"help": "JSON object: image name → list of facts beside captions."}
    )
    missing_captions: MissingCaptions = field(
        default=MissingCaptions.ERROR,
        metadata={
            "help": "A row with an image of which nothing is known: error refuses it, no_fact scores it without facts."
        },
    )
    seed: int = field(
        default=42, metadata={"help": "Of the caption order of rows that have a prompt_row, as for score."}
    )
    query_len: int = field(
        default=1280, metadata={"help": "Longest question in tokens (one image = one token)."}
    )
    response_len: int = field(default=768, metadata={"help": "Longest answer in tokens."})
    model_max_length: int = field(
        default=2048, metadata={"help": "Longest whole sequence in tokens (an image of a LLaVA = one)."}
    )
    answer_ends: list[str] = field(
        default_factory=list,
        metadata={
            "help": "OpenRLHF: texts of the policy's stop token, which say that an answer is complete (default: that of the "
            "reward model's template)."
        },
    )

    def __post_init__(self):
        for folder in self.image_folders:
            require_folder("--image_folders", folder)
        for name in ("image_to_caption_file", "image_to_facts_file"):
            if getattr(self, name) is not None:
                require_file(f"--{name}", getattr(self, name))
        self.missing_captions = MissingCaptions(self.missing_captions)
        if self.missing_captions is MissingCaptions.SKIP:
            raise ValueError(
                "--missing_captions skip: every row of a request is owed a score; choose error or no_fact"
            )
        for name in ("query_len", "response_len", "model_max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)}: must be at least 1")
        if "" in self.answer_ends:
            raise ValueError("--answer_ends: an empty text ends every answer; leave it out")

    def check_read(self, reward_model: str, uses_facts: bool) -> None:
        """Raise ValueError where facts are named that the reward model would not read."""
        for name in ("image_to_caption_file", "image_to_facts_file"):
            if getattr(self, name) is not None and not uses_facts:
                raise ValueError(
                    f"--{name} {getattr(self, name)}: {reward_model} was trained without facts and reads none; leave it out"
                )


@dataclass
class LimitArguments:
    """What a request may cost; what is beyond is refused with status 413, or 429 where waiting helps."""

    _argument_group_name = "limits"

    max_request_bytes: int = field(default=32 * 2**20, metadata={"help": "Longest body of a request."})
    max_rows: int = field(
        default=256,
        metadata={
            "help": "Most rows of a request; a row of several pictures counts as as many, here and in --max_queued_rows."
        },
    )
    max_pixels_a_picture: int = field(
        default=20_000_000, metadata={"help": "Largest picture: width × height."}
    )
    max_queued_rows: int = field(
        default=1024,
        metadata={
            "help": "Most rows that are read, wait or are scored at a time, over all requests; pixels of all are in memory."
        },
    )
    max_queued_bytes: int = field(
        default=256 * 2**20,
        metadata={
            "help": "Longest bodies of all requests that are received, wait or are scored at a time, together."
        },
    )
    max_connections: int = field(
        default=512, metadata={"help": "Most connections; those of clients that wait for an answer count."}
    )

    def __post_init__(self):
        for name in vars(self):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)}: must be at least 1")
        if self.max_queued_bytes < self.max_request_bytes:
            raise ValueError(
                f"--max_queued_bytes {self.max_queued_bytes}: a request of --max_request_bytes {self.max_request_bytes} would "
                "never be let in"
            )
        if self.max_queued_rows < self.max_rows:
            raise ValueError(
                f"--max_queued_rows {self.max_queued_rows}: a request of --max_rows {self.max_rows} would never be let in"
            )

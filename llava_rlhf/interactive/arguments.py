"""Settings of the programs that answer while somebody waits."""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from data_utils.conversation import VERSIONS
from data_utils.image_choices import ImageChoices
from llava_rlhf.runs.arguments import (
    SYSTEM_HELP,
    VERSION_HELP,
    ModelArguments,
    check_system_message,
    cuda_is_available,
)
from llava_rlhf.runs.help_texts import ASPECT_HELP, MAX_PIXELS_HELP, MIN_PIXELS_HELP

if TYPE_CHECKING:
    from models.vlm import BaseSettings


@dataclass
class GenerationArguments:
    """How answers are made."""

    _argument_group_name = "answering"

    version: str = field(
        default="v1",
        metadata={"help": VERSION_HELP, "choices": sorted(VERSIONS)},
    )
    system_message: str | None = field(default=None, metadata={"help": SYSTEM_HELP})
    image_aspect_ratio: Literal["pad", "square"] | None = field(default=None, metadata={"help": ASPECT_HELP})
    min_pixels: int | None = field(default=None, metadata={"help": MIN_PIXELS_HELP})
    max_pixels: int | None = field(default=None, metadata={"help": MAX_PIXELS_HELP})
    temperature: float = field(default=0.0, metadata={"help": "0: the most likely token; else sample."})
    response_len: int = field(default=768, metadata={"help": "Longest answer in tokens."})
    model_max_length: int = field(
        default=2048,
        metadata={"help": "Longest conversation with its answer, in tokens (an image of a LLaVA = one)."},
    )
    seed: int = field(default=0, metadata={"help": "Of sampling."})
    bf16: bool = field(default=False, metadata={"help": "Weights and activations in bfloat16."})
    use_cpu: bool = field(default=False, metadata={"help": "Stay on the CPU even where CUDA is present."})

    def __post_init__(self):
        check_system_message(self.version, self.system_message)
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"--temperature {self.temperature}: must be 0 or more")
        if not 1 <= self.response_len < self.model_max_length:
            raise ValueError(
                f"--response_len {self.response_len}: must be at least 1 and below --model_max_length "
                f"{self.model_max_length}"
            )
        self.image_choices()

    def image_choices(self) -> ImageChoices:
        """How pictures become pixels. Raises ValueError for what is none."""
        return ImageChoices(self.image_aspect_ratio, self.min_pixels, self.max_pixels)

    @property
    def template(self) -> tuple[str, str | None]:
        """Name of the conversation template, and the system message in it."""
        return self.version, self.system_message

    @property
    def lengths(self) -> tuple[int, int]:
        """Longest answer, and longest conversation with it."""
        return self.response_len, self.model_max_length

    def base_settings(self, model: ModelArguments) -> "BaseSettings":
        """How the bases are loaded."""
        device = "cuda" if cuda_is_available() and not self.use_cpu else "cpu"
        return model.base_settings(self.bf16, False, device)

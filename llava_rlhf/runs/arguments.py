"""Settings shared by the programs: base and adapter, data, and what all runs have.

The settings of PPO are in `ppo/arguments.py`, those of the Trainer in `training_flags.py`. Names are those of the
published scripts where the meaning is the same. Every class checks itself; what depends on the number of processes is
checked by the program, before a model is loaded. `--help` shows all this, so nothing here loads torch before it is used.
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from data_utils.conversation import CHAT, TEMPLATES, VERSIONS
from data_utils.facts import MissingCaptions
from data_utils.image_choices import ImageChoices
from data_utils.images import ImageChecks
from llava_rlhf.runs.help_texts import ASPECT_HELP, MAX_PIXELS_HELP, MIN_PIXELS_HELP
from llava_rlhf.runs.missing_paths import require_file, require_folder
from models.settings import LANGUAGE_MODEL_LINEAR_LAYERS, LoraSettings

if TYPE_CHECKING:
    import torch

    from models.vlm import BaseSettings


VERSION_HELP = (
    f"Conversation template: {', '.join(TEMPLATES)}, or {CHAT}: the chat template that the base itself has."
)
SYSTEM_HELP = (
    f"With --version {CHAT}: system message (default: what the template writes where none is given)."
)


@dataclass
class ModelArguments:
    """How bases are loaded."""

    _argument_group_name = "base and adapters"

    bits: int = field(
        default=16, metadata={"help": "16 (or 32): unquantised; 8: LLM.int8; 4: QLoRA (bitsandbytes)."}
    )
    double_quant: bool = field(
        default=True, metadata={"help": "Quantise the 4-bit quantisation constants too."}
    )
    quant_type: Literal["nf4", "fp4"] = field(default="nf4", metadata={"help": "4-bit number format."})
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = field(
        default="sdpa", metadata={"help": "Attention kernels; flash_attention_2 needs CUDA and its package."}
    )

    def __post_init__(self):
        if self.bits not in (4, 8, 16, 32):
            raise ValueError(f"--bits {self.bits}: choose 4, 8, 16 or 32")

    def check_attention(self, bf16: bool, fp16: bool, use_cpu: bool) -> None:
        """Raise ValueError for attention kernels that the machine or the number format can't run."""
        if self.attn_implementation != "flash_attention_2":
            return
        if use_cpu or not cuda_is_available() or find_spec("flash_attn") is None or not (bf16 or fp16):
            raise ValueError(
                "--attn_implementation flash_attention_2 needs CUDA, the package flash-attn, and --bf16 or --fp16; "
                "use sdpa"
            )

    def base_settings(self, bf16: bool, fp16: bool, device: "torch.device | str") -> "BaseSettings":
        """How to load a base: weights and activations in bfloat16 / float16 when asked for, else float32."""
        import torch

        from models.vlm import BaseSettings

        dtype = torch.bfloat16 if bf16 else torch.float16 if fp16 else torch.float32
        return BaseSettings(
            self.bits, dtype, self.quant_type, self.double_quant, self.attn_implementation, str(device)
        )


@dataclass
class AdapterArguments(ModelArguments):
    """The base, and the shape of the new adapter that a program trains on it."""

    lora_r: int = field(default=64, metadata={"help": "Rank of new adapters."})
    lora_alpha: float = field(
        default=16.0, metadata={"help": "Scale numerator: an adapter is scaled by alpha / r."}
    )
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before new adapters (probability)."})
    lora_modules: list[str] = field(
        default_factory=lambda: list(LANGUAGE_MODEL_LINEAR_LAYERS),
        metadata={"help": "Linear layers of the language model that get an adapter."},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.lora_r < 1:
            raise ValueError(f"--lora_r {self.lora_r}: must be at least 1")
        unknown = sorted(set(self.lora_modules) - set(LANGUAGE_MODEL_LINEAR_LAYERS))
        if unknown:
            raise ValueError(
                f"--lora_modules: unknown {', '.join(unknown)}; choose from {', '.join(LANGUAGE_MODEL_LINEAR_LAYERS)}"
            )

    def lora_settings(self) -> LoraSettings:
        """Shape of a new adapter."""
        return LoraSettings(self.lora_r, self.lora_alpha, self.lora_dropout, tuple(self.lora_modules))


@dataclass
class DataArguments:
    """The records, their images and their limits."""

    _argument_group_name = "data"

    dataset_path: str = field(
        metadata={"help": "Records in the published format: a JSON list or JSON Lines, gzip or not."}
    )
    image_folder: str = field(metadata={"help": "Folder that the `image` fields are relative to."})
    version: str = field(
        default="v1",
        metadata={"help": VERSION_HELP, "choices": sorted(VERSIONS)},
    )
    system_message: str | None = field(default=None, metadata={"help": SYSTEM_HELP})
    image_aspect_ratio: Literal["pad", "square"] | None = field(default=None, metadata={"help": ASPECT_HELP})
    min_pixels: int | None = field(default=None, metadata={"help": MIN_PIXELS_HELP})
    max_pixels: int | None = field(default=None, metadata={"help": MAX_PIXELS_HELP})
    query_len: int = field(
        default=1280, metadata={"help": "Longest query in tokens (one image = one token)."}
    )
    response_len: int = field(default=768, metadata={"help": "Longest response in tokens."})
    model_max_length: int = field(
        default=2048, metadata={"help": "Longest whole sequence in tokens (an image of a LLaVA = one)."}
    )
    skip_invalid: bool = field(
        default=False, metadata={"help": "Drop and count invalid rows instead of refusing."}
    )
    verify_images: bool = field(
        default=False,
        metadata={
            "help": "Decode every image before a model is loaded (minutes to hours); else, of whole files, the header."
        },
    )
    follow_image_links: bool = field(
        default=False, metadata={"help": "Accept symbolic links that lead out of --image_folder."}
    )

    def __post_init__(self):
        check_system_message(self.version, self.system_message)
        require_file("--dataset_path", self.dataset_path)
        require_folder("--image_folder", self.image_folder)
        for name in ("query_len", "response_len", "model_max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)}: must be at least 1")
        self.image_choices()

    def image_choices(self) -> ImageChoices:
        """How pictures become pixels. Raises ValueError for what is none."""
        return ImageChoices(self.image_aspect_ratio, self.min_pixels, self.max_pixels)

    def image_checks(self) -> ImageChecks:
        """How images are checked before a model is loaded."""
        return ImageChecks(decode_all=self.verify_images, follow_links=self.follow_image_links)


@dataclass
class FactArguments:
    """Factual augmentation: what the reward model is told besides the image."""

    _argument_group_name = "factual augmentation"

    reward_prompt_file: str = field(
        metadata={
            "help": "Criteria that the reward model reads after the conversation; with {factual_prompt}, captions go there."
        }
    )
    image_to_caption_file: str | None = field(
        default=None, metadata={"help": "JSON object: image file name → list of captions."}
    )
    image_to_facts_file: str | None = field(
        default=None,
        metadata={
            "help": "JSON object: image file name → list of facts beside captions, of detectors and others (docs/facts.md); or "
            "COCO's instances_*.json."
        },
    )
    missing_captions: MissingCaptions = field(
        default=MissingCaptions.ERROR,
        metadata={
            "help": "A row without captions: refuse the file, skip the row, or score it without facts."
        },
    )
    facts: bool = field(
        default=True,
        metadata={"help": "False leaves {factual_prompt} empty: the reward model sees no captions."},
    )

    def __post_init__(self):
        require_file("--reward_prompt_file", self.reward_prompt_file)
        if self.image_to_caption_file is not None:
            require_file("--image_to_caption_file", self.image_to_caption_file)
        if self.image_to_facts_file is not None:
            require_file("--image_to_facts_file", self.image_to_facts_file)
        self.missing_captions = MissingCaptions(self.missing_captions)


@dataclass
class RunArguments:
    """What all runs have."""

    _argument_group_name = "run"

    resume: str = field(
        default="auto",
        metadata={
            "help": "auto: continue from the newest complete checkpoint of --output_dir, if any; no; or its path."
        },
    )
    feature_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder that keeps the features of images, for later epochs and runs: neither decoded nor encoded again. "
            "They are rounded to bfloat16, which changes numbers unless --bf16 does so anyway."
        },
    )
    allow_changed_arguments: bool = field(
        default=False,
        metadata={"help": "Continue although settings or data are not those of the checkpoint."},
    )
    summary_only: bool = field(
        default=False,
        metadata={
            "help": "Validate the data, print the summary and stop. Needs no GPU and no weights: of a base its "
            "configuration, tokenizer and image processor."
        },
    )
    verbose: bool = field(
        default=False,
        metadata={"help": "Before the run, print three examples and the whole plan of memory."},
    )

    @property
    def shows_all(self) -> bool:
        """Whether the summary of the data has all its examples."""
        return self.verbose or self.summary_only


def check_system_message(version: str | None, system_message: str | None) -> None:
    """Raise ValueError for a system message that the template of this name has no place for; None: named elsewhere."""
    if system_message is not None and version not in (None, CHAT):
        raise ValueError(
            f"--system_message {system_message!r}: --version {version} has a system message of its own or none; use "
            f"--version {CHAT} or leave it out"
        )


def cuda_is_available() -> bool:
    """Whether torch, which is loaded for it, sees a GPU."""
    import torch

    return torch.cuda.is_available()

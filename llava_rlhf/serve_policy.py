"""Start a vLLM server that answers prompts with a base and the adapters that training gives it (docs/vllm.md).

    python -m llava_rlhf.serve_policy --base_model_name checkpoints/llava-7b-v1.5-224-sft --lora_rank 64

What stands behind `--` goes to vLLM as it is, and wins.
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_utils.image_choices import ImageChoices
from llava_rlhf.engines.serving import (
    KEY,
    TESTED_VERSIONS,
    ServerSettings,
    check_build,
    check_served,
    find_vllm,
    served_length,
    served_rank,
    server_command,
    server_environment,
)
from llava_rlhf.pages.arguments import PageArguments
from llava_rlhf.runs.parsing import StrictParser, run_program


@dataclass
class AddressArguments(PageArguments):
    """Where the server listens."""

    _argument_group_name = "address"

    host: str = field(
        default="127.0.0.1",
        metadata={"help": f"Address to listen on; any but this machine's own asks for a key in {KEY}."},
    )
    port: int = field(default=8000, metadata={"help": "Port to listen on."})


@dataclass
class ServeArguments:
    """What is served, and how much of it at once."""

    _argument_group_name = "server"

    base_model_name: str = field(metadata={"help": "The base that the policy is trained on."})
    vllm_venv: str = field(default=".venv-vllm", metadata={"help": "Environment of scripts/setup_vllm.sh."})
    lora_rank: int = field(default=64, metadata={"help": "Highest rank of the adapters."})
    max_model_len: int | None = field(
        default=None,
        metadata={
            "help": "Tokens of a prompt, with those of its pictures, and of its answer; default: what the base can, up to "
            "4096."
        },
    )
    images_per_prompt: int = field(default=1, metadata={"help": "Pictures of a prompt, at most."})
    min_pixels: int | None = field(
        default=None, metadata={"help": "Qwen: smallest size of a picture, as in training."}
    )
    max_pixels: int | None = field(default=None, metadata={"help": "The same of the largest."})
    max_num_seqs: int = field(default=256, metadata={"help": "Answers that are written at once."})
    dtype: str = field(
        default="auto",
        metadata={
            "help": "Number format; auto: bfloat16 for a base stored so, float16 for any other.",
            "choices": ["auto", "bfloat16", "float16", "float32"],
        },
    )
    gpu_memory: float = field(default=0.9, metadata={"help": "Share of each GPU's memory that is taken."})
    tensor_parallel: int = field(default=1, metadata={"help": "GPUs that share the model."})
    sleep: bool = field(
        default=False,
        metadata={"help": "Offer /sleep and /wake_up, which leave the GPU to others for a while."},
    )
    seed: int = field(default=0, metadata={"help": "Of requests that bring none; those of training do."})

    def __post_init__(self):
        for name in ("images_per_prompt", "max_num_seqs", "tensor_parallel", "max_model_len"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"--{name} {value}: must be at least 1")
        if not 0 < self.gpu_memory < 1:
            raise ValueError(
                f"--gpu_memory {self.gpu_memory}: must be between 0 and 1, a share of the memory"
            )

    def settings(self, address: AddressArguments) -> ServerSettings:
        """How the server is started. Raises ValueError for a rank or a length that can't be."""
        limits = {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        return ServerSettings(
            base=str(Path(self.base_model_name).resolve()),
            host=address.host,
            port=address.port,
            lora_rank=served_rank(self.lora_rank),
            max_model_len=served_length(self.base_model_name, self.max_model_len),
            images_per_prompt=self.images_per_prompt,
            max_num_seqs=self.max_num_seqs,
            dtype=self.dtype,
            gpu_memory=self.gpu_memory,
            tensor_parallel=self.tensor_parallel,
            sleep=self.sleep,
            seed=self.seed,
            image_settings={name: limit for name, limit in limits.items() if limit is not None},
        )


ARGUMENTS = (ServeArguments, AddressArguments)


@dataclass(frozen=True)
class Server:
    """A checked server.

    Attributes:
        command: of the server.
        environment: of its process.
    """

    command: list[str]
    environment: dict[str, str]


def prepare(argv: Sequence[str]) -> Server:
    """Parse and check everything before vLLM is started. Raises ValueError for what a user can get wrong."""
    words = list(argv)
    at = words.index("--") if "--" in words else len(words)
    arguments, address = StrictParser(ARGUMENTS, description=__doc__).parse(words[:at])
    from llava_rlhf.assembly.image_choices import check_choices

    check_reach(address)
    family = check_served(arguments.base_model_name)
    choices = ImageChoices(min_pixels=arguments.min_pixels, max_pixels=arguments.max_pixels)
    check_choices(choices, arguments.base_model_name, family)
    settings = arguments.settings(address)
    vllm = find_vllm(Path(arguments.vllm_venv))
    check_build(vllm, arguments.base_model_name, arguments.sleep, arguments.tensor_parallel)
    address.check_free()
    if vllm.version not in TESTED_VERSIONS:
        tested = ", ".join(TESTED_VERSIONS)
        print(f"vLLM {vllm.version} was never tested with this repository: {tested} was", flush=True)
    return Server(server_command(vllm, settings) + words[at + 1 :], server_environment(vllm, settings))


def check_reach(address: AddressArguments) -> None:
    """Refuse to let just anybody load adapters from this machine's disks, and ask. Raises ValueError."""
    if address.local:
        return
    if not os.environ.get(KEY):
        raise ValueError(
            f"--host {address.host}: other machines could load adapters and ask; choose a key and set it in {KEY}, here and "
            "where training runs, or listen on 127.0.0.1"
        )


def run(server: Server) -> None:
    """Become the server: whoever ends this process, or its group, ends it."""
    os.execve(server.command[0], server.command, server.environment)


if __name__ == "__main__":
    run_program(prepare, run)

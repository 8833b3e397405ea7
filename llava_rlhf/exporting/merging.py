"""W + BA·α/r, file by file: at most one file of the base is in memory."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from llava_rlhf.conversion.published_names import publish_index
from models.adapter_files import read_adapter_config, read_adapter_tensors
from models.adapter_names import HF_MODEL
from models.base_files import read_family
from models.base_weights import weight_files
from models.families.base import Family

CONFIG = "config.json"
BUILD_RECORD = "build.json"  # how the bundled tiny base was made, which is nothing of what is made from it
WEIGHT_FILES = ("model", "pytorch_model")  # how the names of weight files and their indices begin
_PLAIN = {"use_dora": False, "bias": "none", "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}}


def is_quantized(base: str | Path) -> bool:
    """Whether the weights of a model directory are stored in a quantised format."""
    return "quantization_config" in json.loads((Path(base) / CONFIG).read_text(encoding="utf-8"))


def check_plain(adapter: Path) -> LoraConfig:
    """The adapter's settings. Raises ValueError unless it is plain LoRA, which is what the formula above merges."""
    config = read_adapter_config(adapter)
    for name, plain in _PLAIN.items():
        if (getattr(config, name) or plain) != plain:
            raise ValueError(
                f"{adapter}/adapter_config.json: {name} is {getattr(config, name)!r}; only plain LoRA can be merged here"
            )
    return config


@dataclass(frozen=True)
class LoraUpdate:
    """What an adapter adds to the weights of a base.

    Attributes:
        factors: module name in the model → (A float[r, inputs], B float[outputs, r]).
        config: whose `lora_alpha`, and whether it is divided by r or √r.
    """

    factors: Mapping[str, tuple[Tensor, Tensor]]
    config: LoraConfig

    @classmethod
    def read(cls, adapter: Path) -> LoraUpdate:
        """Read a PEFT folder. Raises ValueError unless it is plain LoRA."""
        config = check_plain(adapter)
        tensors = read_adapter_tensors(adapter)
        ends = (".lora_A.weight", ".lora_B.weight")
        modules = sorted(
            name.removeprefix(HF_MODEL).removesuffix(ends[0]) for name in tensors if name.endswith(ends[0])
        )
        return cls({m: tuple(tensors[HF_MODEL + m + end] for end in ends) for m in modules}, config)

    def add_to(self, module: str, weight: Tensor) -> Tensor:
        """`weight` float[outputs, inputs] plus the update of that module, in float32 (arXiv 2106.09685)."""
        down, up = (factor.float() for factor in self.factors[module])
        rank = down.shape[0]
        scale = self.config.lora_alpha / (math.sqrt(rank) if self.config.use_rslora else rank)
        return weight.float().addmm(up, down, alpha=scale)


def merge_files(base: Path, adapter: Path, target: Path, dtype: torch.dtype | None) -> None:
    """Write base + adapter to the folder `target`, in files as the base has them, under names that every server reads.

    Args:
        base: model directory with unquantised safetensors files.
        adapter: plain LoRA.
        target: exists; receives weights, configuration, and every other file of the base as it is.
        dtype: of the written weights; None: as each is stored.

    Raises:
        ValueError: a module of the adapter is not among the weights of the base.
    """
    update = LoraUpdate.read(adapter)
    waiting, total = set(update.factors), 0
    files, family = weight_files(base), read_family(base)
    with tqdm(
        total=sum(file.stat().st_size for file in files), unit="B", unit_scale=True, disable=None
    ) as progress:
        progress.set_description("merging")
        for file in files:
            tensors = {}
            for name, tensor in _tensors(file):
                module = _module(name, family)
                if module in waiting:
                    waiting.remove(module)
                    # Rounded once, after the sum.
                    tensor = update.add_to(module, tensor).to(dtype or tensor.dtype)
                elif tensor.is_floating_point() and dtype is not None:
                    tensor = tensor.to(dtype)
                tensors[family.published_name(name)] = tensor.contiguous()
            _save(tensors, target / file.name)
            total += sum(tensor.nbytes for tensor in tensors.values())
            progress.update(file.stat().st_size)
    if waiting:
        raise ValueError(f"{base} has no weights for {len(waiting)} modules of {adapter}: {min(waiting)}, …")
    _copy_other_files(base, target, dtype)
    publish_index(base, target, total, family.published_name)


def dequantize(base: Path, target: Path, dtype: torch.dtype) -> None:
    """Write a quantised base as an unquantised one: the rounded weights that its adapters were trained over."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    family = read_family(base)
    model = family.model_class().from_pretrained(
        base, device_map={"": device}, dtype=dtype, use_safetensors=True
    )
    model = model.dequantize(dtype=dtype)
    # Not `model.save_pretrained`: it would turn the way of loading around, which 4-bit files have no reverse of.
    save_torch_state_dict(
        {family.published_name(name): value for name, value in model.state_dict().items()}, target
    )
    config = json.loads((base / CONFIG).read_text(encoding="utf-8"))
    del config["quantization_config"]
    (target / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for file in base.iterdir():
        if file.is_file() and not (target / file.name).exists() and not file.name.startswith(WEIGHT_FILES):
            shutil.copy2(file, target / file.name)


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    """With the permissions of any new file: safetensors leaves those of a private temporary one."""
    file.touch()
    mode = file.stat().st_mode
    save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(mode)


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    with safe_open(file, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - not a dict
            yield name, opened.get_tensor(name)


def _module(name: str, family: Family) -> str | None:
    """The module in the model to which a stored weight belongs; files may use the older names. None: no weight matrix."""
    if not name.endswith(".weight"):
        return None
    return f"model.{family.present_name(name)}".removesuffix(".weight")


def _copy_other_files(base: Path, target: Path, dtype: torch.dtype | None) -> None:
    for file in base.iterdir():
        if file.is_file() and file.name != BUILD_RECORD and not file.name.startswith(WEIGHT_FILES):
            shutil.copy2(file, target / file.name)
    if dtype is not None:
        config = json.loads((target / CONFIG).read_text(encoding="utf-8"))
        config.pop("torch_dtype", None)  # the older name
        config["dtype"] = str(dtype).removeprefix("torch.")
        (target / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

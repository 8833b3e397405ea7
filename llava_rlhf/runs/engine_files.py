"""DeepSpeed writes its engine's state with pickle and loads it without restrictions: what a file names is looked at first."""

from __future__ import annotations

from pathlib import Path

import torch

# What its own files name besides tensors and plain values; all of them are classes that hold numbers.
KNOWN_CLASSES = frozenset(
    (
        "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
        "deepspeed.runtime.fp16.loss_scaler.LossScaler",
        "deepspeed.runtime.zero.config.ZeroStageEnum",
        "deepspeed.utils.tensor_fragment.fragment_address",
    )
)


def check_engine_files(checkpoint: Path) -> None:
    """Raise ValueError for a pickle below a checkpoint that names anything but `KNOWN_CLASSES`; nothing is loaded."""
    for path in sorted(path for path in checkpoint.rglob("*") if path.suffix in (".pt", ".pth", ".bin")):
        try:
            named = set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        except Exception as error:  # whatever a file that is no checkpoint leads to
            raise ValueError(f"{path} is not a file that torch.save wrote whole ({error})") from error
        if named - KNOWN_CLASSES:
            raise ValueError(
                f"{path} would run {', '.join(sorted(named - KNOWN_CLASSES))} when it is loaded, which DeepSpeed does not "
                "write: continue only from checkpoints that this program made"
            )

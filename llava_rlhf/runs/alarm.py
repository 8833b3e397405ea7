"""How a run stops itself: on all processes at the same place, with the rows that were at work in a file."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from llava_rlhf.runs.save_errors import SaveError
from llava_rlhf.runs.run_folder import write_text_whole

logger = logging.getLogger(__name__)


class GuardError(RuntimeError):
    """A run stopped itself, rather than go on to a model that nobody wants."""


class NonFiniteError(GuardError):
    """A logit, score, loss or gradient became infinite or NaN."""


class LimitError(GuardError):
    """The policy went past a limit that the user set. It is whole, but no checkpoint is made of it."""


class Alarm:
    """What guards tell the other processes, and write down.

    Args:
        accelerator: processes.
        output_dir: run folder; files of rows are written there.
    """

    def __init__(self, accelerator: Accelerator, output_dir: str | Path):
        self.accelerator = accelerator
        self.output_dir = Path(output_dir)

    def anywhere(self, found: Mapping[str, bool]) -> list[str]:
        """Those of the names that are true on any process; the same answer on all, which must all ask."""
        flags = torch.tensor(list(found.values()), dtype=torch.int32, device=self.accelerator.device)
        totals = self.accelerator.reduce(flags, reduction="sum").tolist()
        return [name for name, total in zip(found, totals, strict=True) if total]

    def stop_on_non_finite(
        self, found: Mapping[str, bool], step: int, rows: Callable[[], list[Mapping[str, Any]]]
    ) -> None:
        """Raise NonFiniteError on every process if any of the named things is true on any.

        Args:
            found: what is not finite → whether it happened on this process.
            step: counted from 0.
            rows: describes the rows of this process; called where it happened.
        """
        what = self.anywhere(found)
        if not what:
            return
        if any(found.values()):
            self.write_rows(f"nonfinite-step{step + 1}", rows())
        raise NonFiniteError(
            f"step {step + 1}: {', '.join(what)} not finite; the rows are in "
            f"{self.output_dir}/nonfinite-step{step + 1}-process*.json"
        )

    def write_rows(self, name: str, rows: list[Mapping[str, Any]]) -> None:
        """Write `<name>-process<rank>.json`; where that fails it is said, and the guard's own message follows."""
        path = self.output_dir / f"{name}-process{self.accelerator.process_index}.json"
        try:
            write_text_whole(path, json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
        except SaveError as error:
            logger.error("%s", error)

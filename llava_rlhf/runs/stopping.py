"""How a run stops before its end, on all processes at the same step: when a signal asks it to, or by itself.

SIGTERM and SIGINT ask a run to save and stop. A guard that finds what nobody wants stops it, with the rows that were at
work in a file.
"""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkContext, ForkProcess
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `ablate` heeds signals too, and has no use for torch
    from accelerate import Accelerator
    from torch.utils.data import DataLoader

from llava_rlhf.runs.run_folder import write_text_whole
from llava_rlhf.runs.save_errors import SaveError

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A launcher passes on the Ctrl-C that its processes got themselves; a person who means it presses again later.
IMPATIENT_AFTER_S = 5.0

logger = logging.getLogger(__name__)


class StoppedBySignal(SystemExit):
    """Ends the process after its state was saved, with the exit status of a process that the signal ended: 128 + number.

    Not 0, so that a script does not go on to the next stage with an unfinished model.
    """

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.number = number


class StopSignals:
    """While it is entered, SIGTERM and SIGINT are noted instead of ending the process.

    A second SIGINT after `IMPATIENT_AFTER_S` seconds raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.received = 0
        self._since = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def agreed(self, accelerator: Accelerator) -> int:
        """The signal that any process received so far, the same answer on all of them; 0: none. Called on every process."""
        import torch

        mine = torch.tensor([self.received], device=accelerator.device)
        return int(accelerator.gather(mine).max())

    def stop_if_agreed(self, accelerator: Accelerator) -> None:
        """Raise StoppedBySignal on every process once any of them received a signal. Called on every process."""
        number = self.agreed(accelerator)
        if number:
            raise StoppedBySignal(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self.received and now - self._since > IMPATIENT_AFTER_S:
            raise KeyboardInterrupt
        if not self.received:
            self.received, self._since = number, now
            logger.warning("%s: the run saves its state and stops", signal.Signals(number).name)


def shield_workers_from_signals(loader: DataLoader) -> None:
    """Keep a signal to the whole process group from ending a loader's workers before the run has saved.

    They ignore signals, and signals wait while one of them starts: torch first gives it a handler that would end it.
    """
    loader = getattr(
        loader, "base_dataloader", loader
    )  # accelerate's loaders ask one inside them for batches
    loader.worker_init_fn = _WorkerStart(loader.worker_init_fn)
    if loader.num_workers > 0:
        loader.multiprocessing_context = _SignalsBlockedContext()


class _WorkerStart:
    """`worker_init_fn` of a data loader: its own, then signals are ignored. Can be sent to a process."""

    def __init__(self, first: Callable[[int], None] | None):
        self.first = first

    def __call__(self, worker: int) -> None:
        if self.first is not None:
            self.first(worker)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


class _SignalsBlockedProcess(ForkProcess):
    """Starts with `SIGNALS` blocked, which a child inherits."""

    def start(self) -> None:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class _SignalsBlockedContext(ForkContext):
    Process = _SignalsBlockedProcess


class GuardError(RuntimeError):
    """A run stopped itself, rather than go on to a model that nobody wants."""


class NonFiniteError(GuardError):
    """A logit, score, loss or gradient became infinite or NaN."""


class LimitError(GuardError):
    """The policy went past a limit that the user set. It is whole, but no checkpoint is made of it."""


class EngineError(RuntimeError):
    """Who answers prompts can't be asked any more, or answered something else than it was asked. The message says what to do."""


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
        import torch

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

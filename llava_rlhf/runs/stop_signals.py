"""SIGTERM and SIGINT ask a run to save and stop; all processes stop at the same step."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkContext, ForkProcess
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

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


def shelter_workers(loader: DataLoader) -> None:
    """Keep a signal to the whole process group from ending a loader's workers before the run has saved.

    They ignore signals, and signals wait while one of them starts: torch first gives it a handler that would end it.
    """
    loader = getattr(
        loader, "base_dataloader", loader
    )  # accelerate's loaders ask one inside them for batches
    loader.worker_init_fn = _WorkerStart(loader.worker_init_fn)
    if loader.num_workers > 0:
        loader.multiprocessing_context = _ShelteredContext()


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


class _ShelteredProcess(ForkProcess):
    """Starts with `SIGNALS` blocked, which a child inherits."""

    def start(self) -> None:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class _ShelteredContext(ForkContext):
    Process = _ShelteredProcess

"""Run the stages of a study, several at a time; what is done is not done again."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from llava_rlhf.ablation.study import Stage
from llava_rlhf.runs.save_errors import explaining_failures
from llava_rlhf.runs.stopping import StoppedBySignal, StopSignals

POLL_S = 0.05
SHOWN_LINES = 12


@dataclass
class Running:
    """A started stage."""

    stage: Stage
    process: subprocess.Popen
    since: float


class Scheduler:
    """Starts stages in order, each as soon as what it needs is done.

    Args:
        stages: all of them; the done ones are passed over.
        jobs: how many run at a time.
        lock: an open file that the stages inherit.
    """

    def __init__(self, stages: Sequence[Stage], jobs: int, lock: int):
        self.waiting = [stage for stage in stages if not stage.done]
        self.jobs, self.lock = jobs, lock
        self.running: list[Running] = []
        self.failed: list[Stage] = []
        self.bar = tqdm(
            total=len(stages),
            initial=len(stages) - len(self.waiting),
            desc="ablation",
            unit="run",
            disable=None,
        )

    def run(self) -> list[Stage]:
        """Run everything that can be run. Returns the stages that failed; their dependents were left out.

        Raises:
            StoppedBySignal: a signal came. The running stages were sent it; training programs save before they end.
        """
        with StopSignals() as signals, self.bar:
            try:
                while self.waiting or self.running:
                    if signals.received:
                        self._stop(signals.received)
                        raise StoppedBySignal(signals.received)
                    self._start_ready()
                    if not self.running:
                        break
                    time.sleep(POLL_S)
                    self._reap()
            except Exception:  # a full disk, for example: no run may go on without us
                self._stop(signal.SIGTERM)
                raise
            except KeyboardInterrupt:  # a second Ctrl-C, which the runs too take for impatience
                self._send(signal.SIGINT)
                raise StoppedBySignal(signal.SIGINT) from None
        return self.failed

    def _start_ready(self) -> None:
        while len(self.running) < self.jobs:
            stage = next((stage for stage in self.waiting if stage.ready), None)
            if stage is None:
                return
            self.waiting.remove(stage)
            with explaining_failures("the log", stage.log):
                stage.folder.mkdir(parents=True, exist_ok=True)
                stage.log.parent.mkdir(parents=True, exist_ok=True)
                log = stage.log.open("ab")
            with log:
                process = subprocess.Popen(
                    ["bash", str(stage.script), *stage.flags],
                    env=stage.environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # a signal to us is passed on to the whole group, once
                    pass_fds=(self.lock,),
                )
            self.running.append(Running(stage, process, time.monotonic()))
            self.bar.write(f"{stage.name}: started; its output: {stage.log}")
            self.bar.set_postfix_str("; ".join(one.stage.name for one in self.running))

    def _reap(self) -> None:
        for one in list(self.running):
            if one.process.poll() is None:
                continue
            self.running.remove(one)
            seconds = time.monotonic() - one.since
            if one.process.returncode == 0:
                one.stage.mark_done(seconds)
                self.bar.update()
                self.bar.write(f"{one.stage.name}: {seconds:.0f} s")
            else:
                self.failed.append(one.stage)
                self.bar.write(f"{one.stage.name}: FAILED with exit status {one.process.returncode}")

    def _stop(self, number: int) -> None:
        self._send(number)
        self.bar.write(
            f"{signal.Signals(number).name}: waiting for runs to save and end ({len(self.running)}); the same command goes on",
            file=sys.stderr,
        )
        for one in self.running:
            one.process.wait()

    def _send(self, number: int) -> None:
        for one in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(one.process.pid, number)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold the study's folder. Stages inherit the lock, so that a killed program's last runs still hold it.

    Raises:
        SystemExit: somebody else has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(
                f"error: --output_dir {folder}: another process works there (or a run that it had started); wait for it, or "
                "end it"
            ) from None
        yield file.fileno()


def wait_for_children(folder: Path) -> None:
    """Wait until nothing holds the lock: bash ends at once at a signal, the program that it had started saves first."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


def last_lines(log: Path) -> str:
    """The end of a log, without the redrawn states of progress bars."""
    lines = log.read_text(encoding="utf-8", errors="replace").rstrip("\n").split("\n")
    return "\n".join(line.rsplit("\r", 1)[-1] for line in lines[-SHOWN_LINES:])

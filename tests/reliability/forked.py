"""Run the real programs in processes that can be killed: forked from a server that has imported everything once."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import cycle
from pathlib import Path
from typing import Any

from tests.distributed.processes import POLICY_INIT, PPO, REWARD
from tests.support.forking import forked_processes

__all__ = ["POLICY_INIT", "PPO", "REWARD", "Kill", "Run", "finish", "start"]

# Innermost first: which functions of the program tell what it was doing.
PHASES = {
    "written_whole": "save",
    "_save": "save",
    "_save_checkpoint": "save",
    "written_into": "result",
    "collect": "sampling",
    "update": "update",
    "training_step": "update",
    "step": "update",
}


@dataclass(frozen=True)
class Kill:
    """A signal at the program's `event`-th operation (from 1) on files of its run folder, or at the first on a file whose
    name ends so.

    With a `phase`, when the program is next seen in it; then `delay_s` later.
    """

    event: int | str
    phase: str = ""
    delay_s: float = 0.0
    number: int = signal.SIGKILL


@dataclass
class Run:
    """A started program: its processes and what they leave in `notes` (their output, and where they were killed)."""

    processes: list[Any]
    notes: Path

    def exit_codes(self, timeout_s: float = 120) -> list[int]:
        """Wait for all; −9 is SIGKILL. A process that does not end in time is killed, and an error."""
        for process in self.processes:
            process.join(timeout_s)
        late = [process for process in self.processes if process.is_alive()]
        for process in late:
            process.kill()
            process.join()
        assert not late, f"did not end in {timeout_s} s:\n{self.output()}"
        return [process.exitcode for process in self.processes]

    def output(self) -> str:
        """What all processes printed so far."""
        return "\n".join(path.read_text() for path in sorted(self.notes.glob("output-*.txt")))

    def phase(self) -> str:
        """What the process was doing when it was killed."""
        path = self.notes / "phase.txt"
        return path.read_text() if path.exists() else ""

    def events(self) -> int:
        """How many operations on files of its run folder a process that was not killed did."""
        return int((self.notes / "events.txt").read_text())


def start(
    program: str,
    argv: list[str],
    run_folder: Path,
    notes: Path,
    world_size: int = 1,
    kill: Kill | None = None,
    prepare: Callable[[], None] | None = None,
) -> Run:
    """Start a program; `kill` holds for process 0. `prepare`, of a module, is called in each process first."""
    context = forked_processes()
    notes.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        context.Process(
            target=_process,
            args=(program, argv, rank, world_size, port, str(run_folder), notes, kill, prepare),
        )
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    return Run(processes, notes)


def finish(program: str, argv: list[str], run_folder: Path, notes: Path, world_size: int = 1) -> Run:
    """Run a program to its end, which must be a good one."""
    run = start(program, argv, run_folder, notes, world_size)
    assert run.exit_codes() == [0] * world_size, run.output()
    return run


def _process(
    program: str,
    argv: list[str],
    rank: int,
    world_size: int,
    port: int,
    run_folder: str,
    notes: Path,
    kill: Kill | None,
    prepare: Callable[[], None] | None,
) -> None:
    if world_size > 1:
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
        ranks |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in ranks.items()})
    import torch

    torch.set_num_threads(1)
    with (notes / f"output-{rank}.txt").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    # The server's method would start another server, with all its imports, for each worker of a data loader.
    multiprocessing.set_start_method("fork", force=True)
    counter = _FileEvents(run_folder, notes, kill if rank == 0 else None)
    sys.addaudithook(counter)
    if prepare is not None:
        prepare()
    sys.argv = [program, *argv]
    module = import_module(program)
    module.run_program(module.prepare, module.run)
    if rank == 0:
        (notes / "events.txt").write_text(str(counter.seen))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class _FileEvents:
    """Python's audit hook: counts what is done to the run folder, and kills this process at the wanted place."""

    def __init__(self, folder: str, notes: Path, kill: Kill | None):
        self.folder, self.notes, self.kill = folder, notes, kill
        self.seen, self.armed = 0, False

    def reached(self, path: str) -> bool:
        """Whether this is the operation that the signal waits for."""
        event = self.kill.event
        return path.endswith(event) if isinstance(event, str) else self.seen == event

    def __call__(self, event: str, arguments: tuple) -> None:
        if event not in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"):
            return
        if not str(arguments[0]).startswith(self.folder):
            return
        self.seen += 1
        if self.kill is not None and not self.armed and self.reached(str(arguments[0])):
            self.armed = True
            if self.kill.phase:
                threading.Thread(target=self.wait_and_die, daemon=True).start()
            else:
                self.die()

    def wait_and_die(self) -> None:
        """Die in the wanted phase, or a little later."""
        (self.notes / "phase.txt").write_text(self.kill.phase)
        while self.phase() != self.kill.phase:
            time.sleep(0.001)
        if not self.kill.delay_s:  # writing a note would take too long
            os.kill(os.getpid(), self.kill.number)
            return
        time.sleep(self.kill.delay_s)
        self.die()

    def phase(self) -> str:
        """What the main thread is doing."""
        frame = sys._current_frames()[threading.main_thread().ident]
        while frame is not None:
            if frame.f_code.co_name in PHASES:
                return PHASES[frame.f_code.co_name]
            frame = frame.f_back
        return "elsewhere"

    def die(self) -> None:
        """Note the phase; then the signal."""
        (self.notes / "phase.txt").write_text(self.phase())
        os.kill(os.getpid(), self.kill.number)


def random_kills(seed: int, events: int, phases: Sequence[str]) -> Iterator[Kill]:
    """Endless random kills: every second one at an operation on files, the others in each phase in turn."""
    draw = random.Random(seed)
    for phase in cycle(phases):
        yield Kill(draw.randint(1, events))
        yield Kill(draw.randint(1, events // 2), phase, draw.uniform(0, 0.02))

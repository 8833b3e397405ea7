"""Where each process is: a hang ends with that answer instead of an endless wait, and a failure ends all processes.

Every process writes what it does to torch's key-value store, through which the processes met. A thread of each looks at
the clock, and at the store for a process that has failed. torch's own means were not enough: a collective that times out
says that others did not come, not where they are; `monitored_barrier` names them, but only with gloo and only at the
barrier; torchrun ends the processes of its own node only.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from torch.distributed import DistNetworkError, DistStoreError, PrefixStore, Store, TCPStore
from transformers import TrainerCallback

HANG_EXIT_CODE = 124  # as of `timeout`
ROOT = Path(__file__).resolve().parents[2]
# By name: an environment with other people's packages may lie in the same folder.
OURS = tuple(str(ROOT / name) + os.sep for name in ("llava_rlhf", "models", "data_utils", "tests"))
SHARE_OF_TIMEOUT = 0.8  # before the waiting collectives of the others give up, whose errors say less
SECONDS_TO_LEAVE = 15.0  # for a process to end by itself once another has failed


class Watchdog:
    """A context manager around the work of one process of several; with one process it does nothing.

    On an exception the traceback of the process that failed first is printed, and the others, which fail because of it,
    say so in one line and exit with status 1.

    Args:
        timeout_s: what processes wait for one another (`--ddp_timeout`). Without any `progress` for 0.8 of it, the
            process prints where all of them are, and exits with `HANG_EXIT_CODE`.
    """

    def __init__(self, timeout_s: float):
        self.rank = int(os.environ.get("RANK", 0))
        self.world_size = int(os.environ.get("WORLD_SIZE", 1))
        self.limit_s = SHARE_OF_TIMEOUT * timeout_s
        self.interval_s = min(5.0, self.limit_s / 20)
        self._phase, self._since = "starting", time.monotonic()
        self._done = threading.Event()
        self._main_thread = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._store: Store | None = None

    def progress(self, phase: str) -> None:
        """Say what begins now, for example "update, step 12"; to be called again as long as there is progress."""
        self._phase, self._since = phase, time.monotonic()

    def __enter__(self) -> Watchdog:
        if self.world_size > 1:
            self._store = _join_store(self.world_size)
            self._post()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._store is None:
            return
        self._thread.join()
        if error is None or isinstance(error, SystemExit):
            return
        mine = f"rank {self.rank} failed with {kind.__name__}: {error}"
        try:
            first = self._store.compare_set("failed", "", mine).decode()
        except (
            DistNetworkError,
            DistStoreError,
        ):  # whoever kept the store is gone: all that is known is this error
            return
        if first != mine:
            self._say_goodbye(first)
            raise SystemExit(1) from None

    def _watch(self) -> None:
        while not self._done.wait(self.interval_s):
            try:
                self._post()
                failed = self._store.get("failed").decode() if self._store.check(["failed"]) else None
                if time.monotonic() - self._since > self.limit_s:
                    self._end_hang()
            except (DistNetworkError, DistStoreError):
                failed = f"nobody answers at {os.environ['MASTER_ADDR']}, where the processes met"
            if failed is not None:
                self._leave_after(failed)
                return

    def _post(self) -> None:
        where = _where(sys._current_frames().get(self._main_thread))
        # Seconds, not a time: clocks of several machines differ.
        content = {"phase": self._phase, "seconds": time.monotonic() - self._since, "where": where}
        self._store.set(f"rank{self.rank}", json.dumps(content))

    def _leave_after(self, failed: str) -> None:
        # The failure may be every process's own, and this one may still be writing.
        if self._done.wait(SECONDS_TO_LEAVE):
            return
        self._say_goodbye(failed)
        os._exit(1)

    def _say_goodbye(self, failed: str) -> None:
        _say(f"rank {self.rank} stops in {self._phase!r}: {failed}")

    def _end_hang(self) -> None:
        """Print where all processes are and exit; nothing happens if there was progress at the last moment."""
        earlier = [self._read(rank) for rank in range(self.world_size)]
        if self._done.wait(2 * self.interval_s) or time.monotonic() - self._since < self.limit_s:
            return
        self._post()
        lines = [f"no progress for {self.limit_s:.0f} s: all processes end (see --ddp_timeout)"]
        for rank, before in enumerate(earlier):
            now = self._read(rank)
            lines.append(
                f"rank {rank} has been in {now['phase']!r} for {now['seconds']:.0f} s: {now['where']}"
            )
            lines[-1] += "; it is stopped or gone" if now == before else ""
        stack = traceback.format_stack(sys._current_frames()[self._main_thread])
        _say("\n".join(lines) + f"\nrank {self.rank} is here:\n" + "".join(stack))
        # Every process says so before the first exit makes a launcher end the others.
        if not self._done.wait(2 * self.interval_s):
            os._exit(HANG_EXIT_CODE)

    def _read(self, rank: int) -> dict[str, Any]:
        if not self._store.check([f"rank{rank}"]):
            return {"phase": "starting", "seconds": float("inf"), "where": "unknown"}
        return json.loads(self._store.get(f"rank{rank}"))


class WatchdogCallback(TrainerCallback):
    """Tells a watchdog what `transformers.Trainer` does."""

    def __init__(self, watchdog: Watchdog):
        self.watchdog = watchdog

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step begins."""
        self.watchdog.progress(f"training, step {state.global_step + 1}")

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An accumulated batch is done."""
        self.watchdog.progress(f"training, step {state.global_step + 1}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step is done: it is logged and, perhaps, saved."""
        self.watchdog.progress(f"after step {state.global_step}")

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A batch is evaluated."""
        self.watchdog.progress(f"evaluation after step {state.global_step}")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint is written."""
        self.watchdog.progress(f"after the checkpoint of step {state.global_step}")


def _join_store(world_size: int) -> Store:
    """A connection of our own to the store at which torch's processes met: a blocked call there can't block this one."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, world_size, is_master=False, wait_for_workers=False)
    return PrefixStore("watchdog", store)


def _where(frame: FrameType | None) -> str:
    """The innermost line of this repository, and the function that it called in the end."""
    inside, ours = frame, frame
    while ours is not None and not ours.f_code.co_filename.startswith(OURS):
        ours = ours.f_back
    if inside is None or ours is None:
        return "unknown"
    name = os.path.relpath(ours.f_code.co_filename, ROOT)
    called = (
        "" if inside is ours else f", in {inside.f_code.co_name} of {Path(inside.f_code.co_filename).name}"
    )
    return f"{name}:{ours.f_lineno} {ours.f_code.co_name}{called}"


def _say(text: str) -> None:
    # One write, so that the lines of several processes do not mix.
    os.write(2, (text.rstrip("\n") + "\n").encode())

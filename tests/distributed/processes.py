"""Run the programs in one or two processes (gloo, CPU), forked from a server that has imported everything once."""

from __future__ import annotations

import os
import socket
import time
import traceback
from importlib import import_module
from multiprocessing.connection import wait
from pathlib import Path

from tests.support.forking import forked_processes

REWARD = "llava_rlhf.train_reward_model"
POLICY_INIT = "llava_rlhf.initialize_policy_model"
PPO = "llava_rlhf.train_rl_model"


def run_in_processes(
    program: str,
    argv: list[str],
    world_size: int,
    run_folder: Path,
    timeout_s: float = 240,
    stop_at_failure: bool = True,
) -> None:
    """Run `program` (one of those above, or a module like them) with `argv` in `world_size` processes; what they print goes to `run_folder`/logs.

    Raises:
        RuntimeError: a process failed; the message holds its traceback (the others are then stopped, if `stop_at_failure`). Or
            they took longer than `timeout_s`; it holds what they said last.
    """
    context = forked_processes()
    log_folder = run_folder / "logs"
    log_folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    processes = [
        context.Process(target=_one_process, args=(program, argv, rank, world_size, port, log_folder))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + timeout_s
    running = list(processes)
    while running and time.monotonic() < deadline:
        if stop_at_failure and any(process.exitcode for process in processes):
            break
        wait([process.sentinel for process in running], timeout=1)
        running = [process for process in running if process.is_alive()]
    late = bool(running) and not any(process.exitcode for process in processes)
    for process in running:
        process.kill()
        process.join()
    if any(process.exitcode for process in processes):
        how = f"ended after {timeout_s:.0f} s, saying last" if late else "failed"
        files = sorted(log_folder.glob("output-*.txt" if late else "error-*.txt"))
        said = [path.read_text()[-2000 if late else 0 :] for path in files]
        codes = [process.exitcode for process in processes]
        raise RuntimeError(
            f"{program} in {world_size} processes {how}: exit codes {codes}\n" + "\n".join(said)
        )


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _one_process(
    program: str, argv: list[str], rank: int, world_size: int, port: int, log_folder: Path
) -> None:
    try:
        if world_size > 1 or "--deepspeed" in argv:
            os.environ.update(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(world_size),
                LOCAL_WORLD_SIZE=str(world_size),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(port),
            )
        import torch

        torch.set_num_threads(1)
        if "--deepspeed" in argv:
            import deepspeed

            # Its shared-memory collectives are compiled at first use, which takes minutes.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        with (log_folder / f"output-{rank}.txt").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        module = import_module(program)
        module.run(module.prepare(argv))
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    except BaseException:
        (log_folder / f"error-{rank}.txt").write_text(traceback.format_exc())
        raise

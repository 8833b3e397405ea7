"""The programs with a fault in one process: `FAULT RANK PROGRAM FLAGS…`, started like any of them.

FAULT is "raise", "sleep" or "stop" (the signal); it happens to process RANK in the second training forward, while the others go on.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from llava_rlhf.ppo.actor_critic import ActorCritic
from llava_rlhf.runs.parsing import run_program
from llava_rlhf.supervised.reward_trainer import PairScorer
from llava_rlhf.supervised.sft_trainer import DialogueLoss
from tests.distributed.processes import POLICY_INIT, PPO, REWARD

TRAINING_FORWARDS = {
    PPO: (ActorCritic, "value_outputs"),
    REWARD: (PairScorer, "forward"),
    POLICY_INIT: (DialogueLoss, "forward"),
}
MESSAGE = "the fault of this test"


def happen(fault: str) -> None:
    """Fail, or never come back."""
    if fault == "raise":
        raise OSError(MESSAGE)
    if fault == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(10_000)


def prepare(argv: Sequence[str]) -> tuple[Any, Any]:
    """Put the fault in, and prepare the program."""
    fault, rank, program, *rest = argv
    if os.environ["RANK"] == rank:
        place, name = TRAINING_FORWARDS[program]
        forward, calls = getattr(place, name), []

        def faulty(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(None)
            if len(calls) == 2:
                happen(fault)
            return forward(self, *args, **kwargs)

        setattr(place, name, faulty)
    module = import_module(program)
    return module, module.prepare(rest)


def run(prepared: tuple[Any, Any]) -> None:
    """Run the program."""
    module, ready = prepared
    module.run(ready)


if __name__ == "__main__":
    assert len(sys.argv) > 3, __doc__
    run_program(prepare, run)

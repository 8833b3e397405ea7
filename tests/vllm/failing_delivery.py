"""PPO whose main process can't write the adapter for the servers."""

from __future__ import annotations

from typing import NoReturn

from llava_rlhf import train_rl_model
from llava_rlhf.engines.adapters import ServedAdapter
from llava_rlhf.runs.stopping import EngineError

prepare = train_rl_model.prepare


def run(prepared) -> None:
    """Run until the first adapter is written."""

    def fail(self, step, state) -> NoReturn:
        raise EngineError("as the test says")

    ServedAdapter._write = fail
    train_rl_model.run(prepared)

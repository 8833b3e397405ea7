"""A server that is killed again and again while a run asks it: nothing is lost."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Semaphore

import pytest
import torch

from llava_rlhf.engines import pool
from llava_rlhf.engines.vllm_engine import VLLMEngine
from llava_rlhf.runs.run_folder import read_json_lines
from tests.support.ppo_world import metrics_of, run_ppo, trained
from tests.support.vllm_server import TINY_BASE, VLLMServer
from tests.vllm.served_world import make_world

# A start takes the server most of a minute, and test_served_runs.py kills one once.
pytestmark = [pytest.mark.vllm, pytest.mark.nightly]
KILLS = 10


class Killer:
    """Kills a server once in each step (SIGKILL to its group) and starts it again.

    Args:
        moments: seconds from the step's begin, or from the server's return where that is later.
    """

    def __init__(self, server: VLLMServer, moments: Sequence[float]):
        self.server, self.moments = server, moments
        self.kills: list[Future[None]] = []
        self._worker, self._died = ThreadPoolExecutor(1), Semaphore(0)

    def step_begins(self) -> None:
        """Called by the run, which is held until the kill of the step before has happened."""
        if self.kills:
            self._died.acquire()
        if len(self.kills) < len(self.moments):
            self.kills.append(self._worker.submit(self._kill, self.moments[len(self.kills)]))

    def _kill(self, moment: float) -> None:
        time.sleep(moment)
        self.server.kill()
        self._died.release()
        self.server.start()


def test_a_server_that_is_killed_in_every_step_loses_nothing(start_vllm, tmp_path, monkeypatch):
    """At seeded moments of delivery, answers and updates, in ten steps: the run is the unbroken one, bit for bit."""
    world, server = make_world(tmp_path / "world", TINY_BASE), start_vllm()
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_ppo(world.command(whole, server.url, max_steps=KILLS + 1))
    lines = read_json_lines(whole / "metrics.jsonl")
    seconds = statistics.median(line["time/rollout"] + line["time/update"] for line in lines)
    chance = random.Random(16)
    killer = Killer(server, [chance.uniform(0, seconds) for _ in range(KILLS)])
    begin_step = VLLMEngine.begin_step

    def begin(engine: VLLMEngine, step: int) -> None:
        killer.step_begins()
        begin_step(engine, step)

    monkeypatch.setattr(VLLMEngine, "begin_step", begin)
    monkeypatch.setattr(pool, "LONGEST_REST", 1.0)  # so that kills find the run asking, not resting
    run_ppo(world.command(broken, server.url, max_steps=KILLS + 1))
    assert len([kill.result() for kill in killer.kills]) == KILLS
    assert metrics_of(broken) == metrics_of(whole) and len(lines) == KILLS + 1
    for file in sorted((whole / "rollouts").glob("*.jsonl")):
        assert read_json_lines(broken / "rollouts" / file.name) == read_json_lines(file)
    first, second = trained(broken), trained(whole)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    names = [card["id"] for card in server.call("/v1/models")[1]["data"]]
    assert not [name for name in names if name.startswith("policy")]

"""When servers sleep and when they are woken, told by a scripted one; what a real one does then: tests/vllm."""

from __future__ import annotations

import time

import pytest

from llava_rlhf.engines import pool, sleep
from llava_rlhf.engines.arguments import EngineArguments
from llava_rlhf.engines.loading import LOAD, UNLOAD, Version, load_everywhere, unload_everywhere
from llava_rlhf.engines.making import make_room
from llava_rlhf.engines.request import GENERATE
from llava_rlhf.engines.sleep import SLEEP, WAKE, sleep_everywhere
from llava_rlhf.engines.vllm_engine import VLLMEngine
from llava_rlhf.runs.stopping import EngineError
from tests.support.ppo_world import random_numbers

ROWS = [0, 1, 2, 3]


class Keeper:
    """As `ServedAdapter`, without weights to compare what a server says with."""

    def __init__(self, servers, probe, folder):
        self._servers, self._probe, self._folder = servers, probe, folder
        self._name = ""

    def deliver(self, step, until):
        old, self._name = self._name, f"policy-step{step + 1}"
        load_everywhere(self._servers, Version(self._name, self._folder, False), self._probe, until)
        if old:
            unload_everywhere(self._servers, old)
        return self._name

    def shown(self, server):
        return True

    def end(self):
        unload_everywhere(self._servers, self._name)


@pytest.fixture
def engine(parts, writer, probe, tmp_path):
    """engine(servers): asks them."""

    def engine(servers):
        settings = parts.trainer.collector.engine.settings
        vocabulary = parts.roles.policy.bank.vlm.vocab_size
        return VLLMEngine(servers, writer, settings, vocabulary, Keeper(servers, probe, tmp_path), 20.0)

    return engine


def test_a_step_wakes_asks_and_sends_to_sleep(parts, scripted, engine):
    fakes, servers = scripted(2, sleeps=True)
    for fake in fakes:
        fake.asleep = True
    served, batch = engine(servers), parts.batch(ROWS)
    for step in range(2):
        served.begin_step(step)
        assert served.start(batch, random_numbers(ROWS), None)().mask.any()
        assert not any(fake.asleep for fake in fakes)
        served.rest()
        assert all(fake.asleep for fake in fakes)
    served.end()
    probed = [WAKE, LOAD, GENERATE, GENERATE]  # with the adapter, and without
    rows = [GENERATE] * (len(ROWS) // 2)
    for fake in fakes:
        assert fake.posted == [*probed, *rows, SLEEP, *probed, UNLOAD, *rows, SLEEP, WAKE, UNLOAD]
        assert not fake.asleep and fake.loaded == {}


def test_servers_that_are_not_shared_are_left_awake(parts, scripted, engine):
    fakes, servers = scripted(1)
    fakes[0].asleep = False
    served = engine(servers)
    served.begin_step(0)
    served.start(parts.batch(ROWS), random_numbers(ROWS), None)()
    served.rest()
    served.end()
    assert not {SLEEP, WAKE} & set(fakes[0].posted)


def test_a_server_that_can_not_sleep_any_more_stops_the_run(scripted):
    """As one that was started again without it."""
    fakes, servers = scripted(2, sleeps=True)
    fakes[0].asleep = False
    with pytest.raises(EngineError, match=f"{fakes[1].url} can't be sent to sleep: .*SLEEP=True"):
        sleep_everywhere(servers)


def test_a_server_that_is_gone_is_not_waited_for(scripted, monkeypatch, caplog):
    monkeypatch.setattr(pool, "FIRST_REST", 0.02)
    monkeypatch.setattr(sleep, "PATIENCE_SECONDS", 0.3)
    fakes, servers = scripted(2, sleeps=True)
    fakes[0].asleep = False
    fakes[1].__exit__()
    begun = time.monotonic()
    sleep_everywhere(servers)
    assert fakes[0].asleep and time.monotonic() - begun < 10
    assert "could not be sent to sleep" in caplog.text and "keeps its memory" in caplog.text


def test_a_server_that_is_busy_is_asked_again(scripted, monkeypatch):
    monkeypatch.setattr(pool, "FIRST_REST", 0.02)
    fakes, servers = scripted(1, sleeps=True)
    fakes[0].asleep = False
    fakes[0].said[SLEEP] = [(503, "")] * 3
    sleep_everywhere(servers)
    assert fakes[0].asleep and fakes[0].posted == [SLEEP] * 4


def test_a_server_that_finds_no_memory_says_what_to_do(scripted, engine, monkeypatch):
    monkeypatch.setattr(pool, "FIRST_REST", 0.02)
    fakes, servers = scripted(1, sleeps=True)
    fakes[0].asleep = True
    fakes[0].said[WAKE] = (500, {"error": {"message": "CUDA out of memory"}})
    with pytest.raises(EngineError, match=r"/wake_up: HTTP 500, CUDA out of memory; .* a lower GPU_MEMORY"):
        engine(servers).begin_step(0)


def test_room_is_made_before_models_are_loaded(scripted):
    fakes, _ = scripted(1)
    fakes[0].asleep = False
    flags = {"rollout_engine": "vllm", "vllm_servers": [fakes[0].url]}
    make_room(EngineArguments(**flags))
    assert not fakes[0].asleep
    make_room(EngineArguments(**flags, vllm_sleep=True))
    assert fakes[0].asleep

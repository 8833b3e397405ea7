"""Several servers share questions, and what fails at one is asked elsewhere, or again, or said."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager

import pytest

from llava_rlhf.engines import pool as pools
from llava_rlhf.engines.http import Server
from llava_rlhf.engines.pool import ServerPool, rest_after
from llava_rlhf.engines.request import GENERATE, generate_body, sampling_params
from llava_rlhf.runs.stopping import EngineError
from models.generation import SamplingSettings
from tests.support.fake_vllm import FakeVLLM

SETTINGS = SamplingSettings(4, (2,), 0)


@contextmanager
def servers(count: int, in_flight: int = 8, timeout: float = 20.0):
    """Fake servers and a pool of them."""
    with ExitStack() as stack:
        fakes = [stack.enter_context(FakeVLLM()) for _ in range(count)]
        pool = ServerPool([Server(fake.url, None, timeout, in_flight) for fake in fakes], in_flight)
        stack.callback(pool.close)
        yield fakes, pool


def ask(pool: ServerPool, questions: int, seconds: float = 20.0) -> list[list[int]]:
    """Tokens of the answers to so many questions, which differ in their seeds."""
    until = time.monotonic() + seconds
    bodies = [generate_body("base", [1, 7], (), sampling_params(SETTINGS, seed)) for seed in range(questions)]
    works = [
        pool.begin(pool.ask(lambda server, body=body: server.post(GENERATE, body), until)) for body in bodies
    ]
    return [work.result()["choices"][0]["token_ids"] for work in works]


@pytest.fixture
def impatient(monkeypatch):
    """Rests are short."""
    monkeypatch.setattr(pools, "FIRST_REST", 0.02)


def test_questions_are_under_way_together_and_shared():
    with servers(2, in_flight=4) as (fakes, pool):
        for fake in fakes:
            fake.pause = 0.2
        answers = ask(pool, 16)
    assert [fake.at_once for fake in fakes] == [4, 4]
    assert [len(fake.questions) for fake in fakes] == [8, 8]
    with servers(1) as (_, pool):
        assert ask(pool, 16) == answers


@pytest.mark.parametrize("failure", ["drop", 500, 503, "hang"])
def test_what_fails_is_asked_again(impatient, failure):
    with servers(2) as (_, pool):
        expected = ask(pool, 6)
    with servers(2, timeout=0.5 if failure == "hang" else 20.0) as (fakes, pool):
        fakes[0].script = [failure, failure]
        assert ask(pool, 6) == expected
        assert sum(len(fake.questions) for fake in fakes) >= 8


def test_a_question_that_one_server_refuses_is_asked_of_another(impatient):
    """A server that refuses is soon free again: it must not be asked all there is, and asked again."""
    with servers(2) as (_, pool):
        expected = ask(pool, 12)
    with servers(2, in_flight=2) as (fakes, pool):
        fakes[0].script = [500] * 1000
        fakes[1].pause = 0.05
        assert ask(pool, 12) == expected
        seeds = [body["sampling_params"]["seed"] for body in fakes[0].questions]
    assert seeds and len(seeds) == len(set(seeds)) and len(fakes[1].questions) == 12


def test_a_server_that_has_failed_is_asked_one_question_until_it_answers(impatient):
    others = []
    with servers(1, in_flight=4) as (fakes, pool):
        fakes[0].pause = 0.1
        fakes[0].script = [503] * 4 + [lambda reply: others.append(fakes[0]._now) or reply]
        ask(pool, 8)
        assert others == [0] and fakes[0].at_once == 4
        fakes[0].at_once = 0
        ask(pool, 8)
        assert fakes[0].at_once == 4


def test_questions_that_fail_together_are_one_failure():
    place = pools._Place(Server("http://127.0.0.1:9", None, 1.0))
    for _ in range(64):
        place.failed(0)
    assert place.failures == 1 and place.rests_until <= time.monotonic() + rest_after(1)
    place.failed(1)
    assert place.failures == 2 and place.rests_until > time.monotonic() + rest_after(1)


def test_a_dead_servers_questions_go_to_others(impatient):
    with servers(2) as (fakes, pool):
        fakes[0].__exit__()
        assert len(ask(pool, 6)) == 6
        assert len(fakes[1].questions) == 6


def test_a_question_that_is_no_good_stops_at_once(impatient):
    with servers(1) as (fakes, pool):
        fakes[0].script = [400]
        with pytest.raises(EngineError, match=r"a question was refused: .* HTTP 400, as the test says"):
            ask(pool, 1)
        fakes[0].script = [500] * 9
        with pytest.raises(EngineError, match=r"refused 4 times, the last time: .* HTTP 500"):
            ask(pool, 1)
        assert len(fakes[0].questions) == 5


def test_nobody_answers_in_time(impatient):
    with servers(1) as (fakes, pool):
        fakes[0].script = [503] * 1000
        started = time.monotonic()
        with pytest.raises(EngineError, match=r"no server answered in time .* HTTP 503"):
            ask(pool, 1, seconds=1.0)
        assert 0.9 < time.monotonic() - started < 10
    with servers(1, timeout=30) as (fakes, pool):
        fakes[0].script = ["hang"]
        with pytest.raises(EngineError, match=r"no server answered in time .* no answer in time"):
            ask(pool, 1, seconds=0.5)


@pytest.mark.parametrize("said", ["busy", ["busy"], None, {"error": "busy"}, {"detail": ["busy"]}])
def test_whatever_a_failure_says_it_is_asked_again(impatient, said):
    """As proxies write theirs in many ways."""
    with servers(1) as (fakes, pool):
        fakes[0].said[GENERATE] = [(503, said)] * 2
        assert len(ask(pool, 1)) == 1


def test_a_key_that_is_wrong_is_named():
    with servers(1) as (fakes, pool):
        fakes[0].script = [401]
        with pytest.raises(EngineError, match=r"asks for another key .* set VLLM_API_KEY"):
            ask(pool, 1)


def test_rests_grow_up_to_a_limit():
    assert [rest_after(failures) for failures in (1, 2, 3, 7, 5000)] == [0.5, 1.0, 2.0, 30.0, 30.0]

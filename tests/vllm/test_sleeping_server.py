"""Sleep as far as vLLM's build for processors goes: it says that it sleeps, and answers nothing; it gives no memory back."""

from __future__ import annotations

import asyncio
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llava_rlhf import train_rl_model
from llava_rlhf.engines.http import Server
from llava_rlhf.engines.loading import LOAD, UNLOAD
from llava_rlhf.engines.request import GENERATE
from llava_rlhf.engines.serving import SERVED_NAME
from llava_rlhf.engines.sleep import ASLEEP, SLEEP, WAKE, sleep_problem
from llava_rlhf.runs.checkpoints import complete_checkpoints, step_of
from llava_rlhf.runs.stopping import StoppedBySignal
from tests.distributed.processes import PPO, run_in_processes
from tests.support.forking import forked_processes
from tests.support.ppo_world import largest_difference, metrics_of, run_ppo, trained
from tests.support.relay import Relay
from tests.vllm.conftest import STEPS
from tests.vllm.served_world import assert_whole, left_on

pytestmark = pytest.mark.vllm
BODY = {
    "model": SERVED_NAME,
    "token_ids": [1, 5, 6, 7],
    "sampling_params": {"temperature": 0, "max_tokens": 4, "logprobs": 0},
}


@pytest.fixture(autouse=True)
def awake(vllm_server):
    """Whatever a test leaves, the others find the server awake."""
    yield
    vllm_server.call(WAKE, {})


def sleeps(server) -> bool:
    return server.call(ASLEEP)[1]["is_sleeping"]


@pytest.mark.slow
def test_a_server_says_that_it_sleeps_and_keeps_questions_until_it_is_woken(vllm_server, caplog):
    assert asyncio.run(sleep_problem(Server(vllm_server.url, None, 60.0))) is None
    (said,) = [record.getMessage() for record in caplog.records if record.name == "llava_rlhf.engines.sleep"]
    assert "runs on a processor" in said and not sleeps(vllm_server)
    expected = vllm_server.call(GENERATE, BODY)[1]["choices"]
    for _ in range(2):  # the second time it sleeps already
        assert vllm_server.call(SLEEP, {}) == (200, {"status": "sleeping", "level": 1})
        assert sleeps(vllm_server) and vllm_server.healthy()
    with ThreadPoolExecutor(1) as asking:
        answer = asking.submit(vllm_server.call, GENERATE, BODY)
        with pytest.raises(TimeoutError):
            answer.result(1.0)
        for _ in range(2):
            assert vllm_server.call(WAKE, {}) == (200, {"status": "awake", "tags": None})
        assert answer.result(60)[1]["choices"] == expected
    assert not sleeps(vllm_server)


@pytest.mark.slow
def test_a_run_whose_server_sleeps_between_steps_is_the_run_without(world, whole_run, vllm_server, tmp_path):
    """It finds the server asleep, as a run leaves it that was killed while it computed."""
    vllm_server.call(SLEEP, {})
    with pytest.raises(ValueError, match="sleeps, as a run with --vllm_sleep leaves it"):
        train_rl_model.prepare(world.command(tmp_path / "run", vllm_server.url))
    with Relay(vllm_server.url) as relay:
        run_ppo(world.command(tmp_path / "run", relay.url, **STEPS, vllm_sleep=True))
    assert_whole(tmp_path / "run", whole_run)
    assert in_short(relay.passed) == [
        *(WAKE, LOAD, UNLOAD, GENERATE, SLEEP),  # the look before models are loaded, and room for them
        *(WAKE, LOAD, GENERATE, SLEEP),
        *(WAKE, LOAD, GENERATE, UNLOAD, GENERATE, SLEEP) * 2,
        *(WAKE, UNLOAD),
    ]
    assert not sleeps(vllm_server) and left_on(vllm_server) == []


def in_short(paths: list[str]) -> list[str]:
    """Without those that repeat the one before."""
    return [path for path, before in zip(paths, ["", *paths], strict=False) if path != before]


@pytest.mark.nightly
def test_a_run_that_is_killed_while_its_server_sleeps_goes_on(world, whole_run, vllm_server, tmp_path):
    folder = tmp_path / "run"
    with Relay(vllm_server.url) as relay:
        settings = {**STEPS, "save_steps": 1, "vllm_sleep": True, "resume": "auto"}
        command = world.command(folder, relay.url, **settings)
        running = forked_processes().Process(target=run_ppo, args=(command,))

        def trouble(path: str, body: dict, times: int) -> None:
            if path == SLEEP and times == 3:  # the second step's
                running.kill()

        relay.trouble = trouble
        running.start()
        running.join(200)
        assert running.exitcode == -9 and sleeps(vllm_server)
        assert [step_of(one) for one in complete_checkpoints(folder)] == [1]
        relay.trouble = lambda *what: None
        run_ppo(command)
    assert_whole(folder, whole_run)
    assert not sleeps(vllm_server) and left_on(vllm_server) == []


@pytest.mark.nightly
def test_a_run_that_a_signal_stops_leaves_its_server_awake_and_empty(world, whole_run, vllm_server, tmp_path):
    folder = tmp_path / "run"
    with Relay(vllm_server.url) as relay:
        command = world.command(folder, relay.url, **STEPS, vllm_sleep=True, resume="auto")

        def trouble(path: str, body: dict, times: int) -> None:
            if path == LOAD and body["lora_name"].startswith("policy-step2-"):
                os.kill(os.getpid(), signal.SIGTERM)

        relay.trouble = trouble
        with pytest.raises(StoppedBySignal):
            run_ppo(command)
        assert not sleeps(vllm_server) and left_on(vllm_server) == []
        assert not (folder / "served_adapters").exists()
        relay.trouble = lambda *what: None
        run_ppo(command)
    assert_whole(folder, whole_run)


@pytest.mark.nightly
@pytest.mark.distributed
def test_two_processes_agree_when_their_server_sleeps(world, vllm_server, tmp_path):
    """One of them says so, once both have their answers; no row is asked of a server that sleeps."""
    found: dict[bool, Path] = {}
    for sleeping in (False, True):
        found[sleeping] = tmp_path / f"sleeping {sleeping}"
        with Relay(vllm_server.url) as relay:
            settings = {**STEPS, "rollout_per_device_batch_size": 2, "vllm_sleep": sleeping}
            run_in_processes(PPO, world.command(found[sleeping], relay.url, **settings), 2, found[sleeping])
    assert metrics_of(found[True]) == metrics_of(found[False])
    assert largest_difference(trained(found[True]), trained(found[False])) == 0
    steps = in_short([path for path in relay.passed if path in (SLEEP, WAKE, GENERATE)])
    # Both processes look at the server before either of them goes on.
    assert steps == [GENERATE, SLEEP, *(WAKE, GENERATE, SLEEP) * 3, WAKE]
    assert relay.passed.count(SLEEP) == 4 and relay.passed.count(WAKE) == 4

"""Runs of PPO whose prompts servers answer: to the end, on several servers, through a server's death, and on from there."""

from __future__ import annotations

import threading

import pytest

from llava_rlhf import initialize_policy_model, train_rl_model
from llava_rlhf.runs.run_folder import read_json_lines
from tests.distributed.launching import ROOT
from tests.distributed.processes import PPO, run_in_processes
from tests.support.ppo_world import largest_difference, metrics_of, run_ppo, trained
from tests.support.tiny_data import policy_command
from tests.support.vllm_server import TINY_BASE
from tests.vllm.served_world import pair, rows_of

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def test_a_run_ends_and_leaves_nothing_behind(whole_run, vllm_server):
    assert [line["step"] for line in metrics_of(whole_run)] == [1, 2, 3]
    assert not (whole_run / "served_adapters").exists()
    names = [card["id"] for card in vllm_server.call("/v1/models")[1]["data"]]
    assert not [name for name in names if name.startswith(("policy", "trial"))]


@pytest.mark.nightly
def test_what_is_drawn_differs_from_the_policys_own_but_not_what_is_asked(world, whole_run, tmp_path):
    run_ppo(world.command(tmp_path / "local", max_steps=1))
    own, served = (
        [row["question"] for row in first_rollouts(folder)] for folder in (tmp_path / "local", whole_run)
    )
    assert own == served


def first_rollouts(folder):
    return read_json_lines(next((folder / "rollouts").glob("*1.jsonl")))


def test_servers_share_rows_and_take_those_of_one_that_dies(world, vllm_server, start_vllm, tmp_path):
    """One server, two, and two of which one is killed in mid-step and started again: the same answers."""
    rows = list(range(96))
    with pair(world.command(tmp_path / "one", vllm_server.url)) as one:
        one.served.begin_step(0)
        expected = rows_of(one.answers(one.served, rows))
    other = start_vllm()
    command = world.command(tmp_path / "two", vllm_server.url, other.url, vllm_request_timeout=60)
    with pair(command) as two:
        two.served.begin_step(0)
        assert rows_of(two.answers(two.served, rows)) == expected
        killer = threading.Timer(0.3, other.kill)
        killer.start()
        assert rows_of(two.answers(two.served, rows)) == expected
        killer.join()
        two.served.begin_step(1)  # goes on with the one that is left
        assert rows_of(two.answers(two.served, rows[:8])) == expected[:8]
        other.start()  # as it knows nothing of the adapter
        for _ in range(3):
            assert rows_of(two.answers(two.served, rows)) == expected
        assert any(card["id"] == two.served._model for card in other.call("/v1/models")[1]["data"])


def test_a_rank_that_the_server_does_not_hold_is_refused_before_a_model_is_loaded(
    world, vllm_server, tmp_path
):
    folder = tmp_path / "policy"
    argv = policy_command(world.data, TINY_BASE, folder, lora_r=64, max_steps=1)
    initialize_policy_model.run(initialize_policy_model.prepare(argv))
    command = world.command(tmp_path / "run", vllm_server.url, policy_model_name_or_path=folder)
    with pytest.raises(ValueError, match="start the server with a higher LORA_RANK"):
        train_rl_model.prepare(command)


@pytest.mark.nightly
@pytest.mark.distributed
def test_two_processes_ask_what_one_asks(world, vllm_server, tmp_path):
    """The main process delivers adapters for both, and every row has the answer that it has in one process."""
    zero3 = {"deepspeed": ROOT / "scripts" / "zero3.json"}
    for name, processes, changes in (("one", 1, {}), ("two", 2, {}), ("two, the base divided", 2, zero3)):
        folder = tmp_path / name
        argv = world.command(folder, vllm_server.url, max_steps=1, rollout_per_device_batch_size=2, **changes)
        run_in_processes(PPO, argv, processes, folder)
        answers = [row["response"] for row in first_rollouts(folder)]
        assert len(answers) == 8 and answers == [row["response"] for row in first_rollouts(tmp_path / "one")]
        assert largest_difference(trained(folder), trained(tmp_path / "one")) < 1e-5


@pytest.mark.distributed
def test_a_failure_of_the_main_process_is_that_of_all(world, vllm_server, tmp_path):
    folder = tmp_path / "run"
    argv = world.command(folder, vllm_server.url, max_steps=1)
    with pytest.raises(RuntimeError) as error:
        run_in_processes("tests.vllm.failing_delivery", argv, 2, folder, stop_at_failure=False)
    text = str(error.value)  # who failed second says whom it follows
    assert "exit codes [1, 1]" in text and "EngineError: as the test says" in text

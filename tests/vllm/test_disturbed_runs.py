"""Runs between which and a real server something stands that fails, and then lets everything through again."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llava_rlhf import train_rl_model
from llava_rlhf.engines.loading import LOAD, UNLOAD
from llava_rlhf.engines.request import GENERATE
from llava_rlhf.runs.checkpoints import complete_checkpoints, step_of
from llava_rlhf.runs.parsing import run_program
from llava_rlhf.runs.role_files import find_policy_adapter
from llava_rlhf.runs.save_errors import folder_bytes
from tests.support.ppo_world import run_ppo
from tests.support.relay import BROKEN, BUSY, CUT, DROP, HANG, Relay, Trouble
from tests.vllm.conftest import STEPS
from tests.vllm.served_world import assert_whole, left_on

pytestmark = pytest.mark.vllm
SHORT = {"vllm_request_timeout": 4, "vllm_step_timeout": 12}  # seconds


@pytest.fixture
def relay(vllm_server) -> Iterator[Relay]:
    with Relay(vllm_server.url) as relay:
        yield relay


@pytest.fixture
def stopped(monkeypatch, capsys):
    """Runs the program as a shell does, until it stops itself; returns what it says, which is one message."""

    def stopped(argv: list[str]) -> str:
        monkeypatch.setattr(sys, "argv", ["train_rl_model", *argv])
        with pytest.raises(SystemExit) as ending:
            run_program(train_rl_model.prepare, train_rl_model.run)
        said = capsys.readouterr().err
        assert ending.value.code == 1 and "Traceback" not in said
        (message,) = [line for line in said.splitlines() if line.startswith("error: ")]
        return message

    return stopped


def is_row(path: str, body: dict) -> bool:
    """Whether this asks for a row's answer, and not for that of the probe or the handshake."""
    return path == GENERATE and body["sampling_params"]["seed"] > 1


def step_asked(body: dict) -> int | None:
    """The step (counted from 1) whose adapter is asked, loaded or unloaded; None: it is no step's."""
    found = re.match(r"policy-step(\d+)-", body.get("model", body.get("lora_name", "")))
    return found and int(found[1])


def always(step: int, fault: int | str) -> Trouble:
    """From a step on no row is answered."""
    reached = []

    def trouble(path: str, body: dict, times: int) -> int | str | None:
        if is_row(path, body) and step_asked(body) == step:
            reached.append(path)
        return fault if reached and path != LOAD else None

    return trouble


def saved(folder: Path) -> list[int]:
    return [step_of(checkpoint) for checkpoint in complete_checkpoints(folder)]


@pytest.mark.slow
def test_a_run_through_all_kinds_of_failures_loses_nothing(world, whole_run, vllm_server, relay, tmp_path):
    """Rows are refused, cut off and held back, adapters come only when asked for again: nothing of it is seen in the run."""
    loading, rows = {1: BUSY, 2: CUT, 3: DROP}, (BUSY, BROKEN, CUT, None)

    def trouble(path: str, body: dict, times: int) -> int | str | None:
        step = step_asked(body)
        if step is None:
            return None
        if path == UNLOAD:
            return DROP
        if times > 1:
            return None
        if path == LOAD:
            return loading[step]
        if not is_row(path, body):
            return BROKEN if step == 2 else None
        if step == 2 and HANG not in relay.met:
            return HANG
        return rows[body["sampling_params"]["seed"] % len(rows)]

    relay.trouble, begun = trouble, time.monotonic()
    run_ppo(world.command(tmp_path / "run", relay.url, **STEPS, vllm_request_timeout=4, vllm_step_timeout=60))
    assert_whole(tmp_path / "run", whole_run)
    assert relay.met[HANG] == 1 and time.monotonic() - begun > 4
    assert min(relay.met[kind] for kind in (BUSY, BROKEN, CUT, DROP)) >= 2, relay.met
    for name in left_on(vllm_server):  # whose unloading was cut off
        vllm_server.call(UNLOAD, {"lora_name": name})


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param("gone", "no server answered in time", marks=pytest.mark.slow),
        pytest.param(HANG, "no answer in time", marks=pytest.mark.nightly),
        pytest.param(BUSY, "HTTP 503, as the test says", marks=pytest.mark.nightly),
        pytest.param(BROKEN, "a question was refused 4 times", marks=pytest.mark.nightly),
        pytest.param(CUT, "peer closed connection", marks=pytest.mark.nightly),
    ],
)
def test_a_run_that_nobody_answers_is_saved_and_goes_on_bit_for_bit(
    fault, reason, world, whole_run, vllm_server, relay, stopped, tmp_path
):
    """In the second step the server falls silent; the same command goes on when it answers again."""
    folder, silent = tmp_path / "run", always(2, DROP if fault == "gone" else fault)

    def trouble(*what) -> int | str | None:
        met = silent(*what)
        relay.gone = relay.gone or (met is not None and fault == "gone")
        return met

    relay.trouble = trouble
    command = world.command(folder, relay.url, **STEPS, **SHORT, resume="auto")
    assert reason in stopped(command)
    assert saved(folder) == [1]
    relay.gone, relay.trouble = False, lambda *what: None
    run_ppo(command)
    assert_whole(folder, whole_run)
    assert left_on(vllm_server) == [] and not (folder / "served_adapters").exists()


@pytest.mark.nightly
@pytest.mark.parametrize("fault", [HANG, BUSY, BROKEN, CUT])
def test_another_server_takes_the_rows_of_one_that_never_answers(
    fault, world, whole_run, vllm_server, relay, tmp_path
):
    relay.trouble = lambda path, body, times: fault if is_row(path, body) else None
    limits = {"vllm_request_timeout": 4, "vllm_step_timeout": 120}
    run_ppo(world.command(tmp_path / "run", relay.url, vllm_server.url, **STEPS, **limits))
    assert_whole(tmp_path / "run", whole_run)
    assert relay.met.total() >= 2 and left_on(vllm_server) == []


@pytest.mark.nightly
def test_an_adapter_that_is_gone_before_the_server_reads_it_stops_the_run(
    world, whole_run, vllm_server, relay, stopped, tmp_path
):
    """As on a disk that somebody tidies, or that the server's machine does not see any more; the server itself refuses."""
    folder = tmp_path / "run"

    def trouble(path: str, body: dict, times: int) -> None:
        if path == LOAD and step_asked(body) == 2:
            shutil.rmtree(body["lora_path"], ignore_errors=True)

    relay.trouble = trouble
    command = world.command(folder, relay.url, **STEPS, resume="auto")
    message = stopped(command)
    assert "no server takes the adapter" in message and "does not take the adapter" in message
    assert "--vllm_adapter_folder" in message and saved(folder) == [1]
    assert not any((folder / "served_adapters").rglob("*policy-step2*"))
    relay.trouble = lambda *what: None
    run_ppo(command)
    assert_whole(folder, whole_run)
    assert left_on(vllm_server) == []


@pytest.mark.nightly
def test_a_server_that_comes_back_with_too_low_a_rank_stops_the_run_or_is_left_out(
    world, whole_run, vllm_server, start_vllm, relay, stopped, tmp_path
):
    folder, lower = tmp_path / "run", start_vllm(LORA_RANK="1")

    def trouble(path: str, body: dict, times: int) -> None:
        if path == LOAD and step_asked(body) == 2:
            relay.target = lower.url

    relay.trouble = trouble
    command = world.command(folder, relay.url, **STEPS, resume="auto")
    message = stopped(command)
    assert "start the server with a higher LORA_RANK" in message and saved(folder) == [1]
    relay.trouble, relay.target = (lambda *what: None), vllm_server.url
    run_ppo(command)
    assert_whole(folder, whole_run)
    # Beside another server it is left out.
    relay.trouble = trouble
    run_ppo(world.command(tmp_path / "two", relay.url, vllm_server.url, **STEPS))
    assert_whole(tmp_path / "two", whole_run)
    assert relay.target == lower.url and left_on(vllm_server) == left_on(lower) == []


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[[int], Path]]:
    """disk(size): a real one of so many bytes, a file system in memory; asked again it has another size."""
    place = tmp_path / "disk"
    place.mkdir()

    def disk(size: int) -> Path:
        options = f"{'remount,' if place.is_mount() else ''}size={size}"
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("file systems can't be mounted here: root is needed")
        return place

    yield disk
    if place.is_mount():
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.nightly
def test_a_disk_too_small_for_the_next_adapter_stops_the_run(
    world, whole_run, vllm_server, stopped, disk, tmp_path
):
    """It holds the one of the handshake, which the server keeps open, and the first step's, and no third."""
    size, folder = folder_bytes(find_policy_adapter(world.folder / "policy")), tmp_path / "run"
    place = disk(size * 5 // 2)
    command = world.command(folder, vllm_server.url, **STEPS, resume="auto", vllm_adapter_folder=place)
    message = stopped(command)
    assert "policy-step2-" in message and "could not be written to" in message and "error 28" in message
    assert saved(folder) == [1]
    (left,) = {path.parent.name for path in place.rglob("*") if path.is_file()}
    assert left.startswith("policy-step1-")
    disk(6 * size)
    run_ppo(command)
    assert not any(path.is_file() for path in place.rglob("*"))
    assert_whole(folder, whole_run)
    assert left_on(vllm_server) == []


@pytest.mark.nightly
def test_a_disk_too_small_for_one_adapter_is_told_before_a_model_is_loaded(
    world, vllm_server, stopped, disk, tmp_path
):
    place = disk(4096)
    command = world.command(tmp_path / "run", vllm_server.url, vllm_adapter_folder=place)
    assert "an adapter for the servers could not be written" in stopped(command)
    assert not any(place.iterdir()) and not (tmp_path / "run").exists()

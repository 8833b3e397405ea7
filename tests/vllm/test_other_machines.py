"""Two training nodes and a server on machines of their own: the network between them is real, and is cut."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import pytest
import torch

from llava_rlhf.runs.run_folder import read_json_lines
from tests.distributed.launching import start
from tests.distributed.processes import PPO
from tests.support.machines import DEVICE, Machines, NoMachinesError
from tests.support.ppo_world import metrics_of, trained
from tests.support.vllm_server import TINY_BASE, VLLMServer, new_server
from tests.vllm.served_world import ServedWorld, make_world

pytestmark = [pytest.mark.vllm, pytest.mark.distributed]
NODES, SERVER = ("first", "second"), "server"
# Gloo would look for the machine's name otherwise, which is that of the real one.
NETWORK = {"VLLM_API_KEY": "secret", "GLOO_SOCKET_IFNAME": DEVICE, "MASTER_PORT": "29500"}
CUT = 10.0  # seconds
LIMIT = 300.0  # seconds for what must happen


@dataclass(frozen=True)
class Cluster:
    """Machines, the server on one of them, and a folder that all see."""

    machines: Machines
    server: VLLMServer
    world: ServedWorld
    shared: Path

    def command(self, folder: Path, **changes) -> list[str]:
        """Command line of three steps in two processes."""
        settings = {"max_steps": 3, "save_steps": 3, "rollout_per_device_batch_size": 2, **changes}
        settings["vllm_adapter_folder"] = self.shared / "adapters"
        return self.world.command(folder, self.server.url, **settings)

    def start(self, argv: list[str]) -> list[Popen[str]]:
        """A process on each of the nodes."""
        nodes = []
        for rank, name in enumerate(NODES):
            with self.machines.inside(name):
                place = {"NODE_RANK": str(rank), "MASTER_ADDR": self.machines.addresses[NODES[0]]}
                nodes.append(start(PPO, argv, NNODES="2", NUM_PROCESSES="1", **place, **NETWORK))
        return nodes

    def cut_in_step(self, nodes: list[Popen[str]], folder: Path, step: int) -> None:
        """Pull the server's cable while it writes answers of a step (counted from 1)."""
        metrics, until = folder / "metrics.jsonl", time.monotonic() + LIMIT
        while not metrics.is_file() or len(metrics.read_text().splitlines()) < step - 1:
            if time.monotonic() > until or any(node.poll() is not None for node in nodes):
                pytest.fail(f"nothing is asked: {outcomes(nodes)}")
            time.sleep(0.01)
        # A step may be over before a busy machine sees it at work: then the adapter is what the server misses first.
        seen = time.monotonic() + 0.3
        while time.monotonic() < seen and not self._busy():
            pass
        self.machines.plug(SERVER, False)

    def _busy(self) -> bool:
        with self.machines.inside(SERVER):
            text = self.server.call("/metrics")[1]
        running = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running")]
        return any(float(line.split()[-1]) > 0 for line in running)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    machines = Machines((*NODES, SERVER))
    server = new_server(folder, VLLM_API_KEY=NETWORK["VLLM_API_KEY"], HOST=machines.addresses[SERVER])
    try:
        machines.start()
    except NoMachinesError as error:
        pytest.skip(str(error))
    try:
        with machines.inside(SERVER):
            server.start()
        yield Cluster(machines, server, make_world(folder / "world", TINY_BASE), folder)
    finally:
        server.kill()
        machines.end()


@pytest.fixture(autouse=True)
def nothing_left(cluster) -> Iterator[None]:
    """Of a test that fails, too."""
    yield
    for name in NODES:
        cluster.machines.empty(name)
    cluster.machines.plug(SERVER, True)


@pytest.fixture(scope="module")
def here(cluster) -> Path:
    """The same run with both processes on the machine of the server."""
    folder = cluster.shared / "here"
    with cluster.machines.inside(SERVER):
        address = cluster.machines.addresses[SERVER]
        argv = cluster.command(folder)
        process = start(PPO, argv, NUM_PROCESSES="2", MASTER_ADDR=address, **NETWORK)
    assert ended([process]) == [0]
    return folder


def ended(processes: list[Popen[str]]) -> list[int]:
    """Exit statuses; what was said is shown where a test fails."""
    return [status for status, _ in outcomes(processes)]


def outcomes(processes: list[Popen[str]]) -> list[tuple[int, str]]:
    """Exit status and output of each; none is left."""
    try:
        said = [process.communicate(timeout=LIMIT)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    print(*said, sep="\n")
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def assert_same_run(folder: Path, expected: Path) -> None:
    first, second = trained(folder), trained(expected)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert metrics_of(folder) == metrics_of(expected)


@pytest.mark.nightly  # the next one has a cut besides
def test_three_machines_are_as_one(cluster, here, tmp_path):
    assert ended(cluster.start(cluster.command(tmp_path / "run"))) == [0, 0]
    assert_same_run(tmp_path / "run", here)


@pytest.mark.nightly
def test_a_network_that_is_gone_for_ten_seconds_is_waited_for(cluster, here, tmp_path):
    nodes = cluster.start(cluster.command(tmp_path / "run"))
    cluster.cut_in_step(nodes, tmp_path / "run", 2)
    time.sleep(CUT)
    cluster.machines.plug(SERVER, True)
    assert ended(nodes) == [0, 0]
    assert max(line["time/rollout"] for line in read_json_lines(tmp_path / "run" / "metrics.jsonl")) >= CUT
    assert_same_run(tmp_path / "run", here)


@pytest.mark.nightly  # of one machine in test_served_runs
def test_a_network_that_stays_away_ends_a_run_that_goes_on_bit_for_bit(cluster, here, tmp_path):
    folder = tmp_path / "run"
    limits = {"vllm_request_timeout": 10, "vllm_step_timeout": 20}
    command = cluster.command(folder, save_steps=1, resume="auto", **limits)
    nodes = cluster.start(command)
    cluster.cut_in_step(nodes, folder, 2)
    left = outcomes(nodes)
    assert all(status != 0 for status, _ in left)
    # Answers that the server had ready are kept, so that the next step's adapter may be the first that misses it.
    assert all("no server" in text and "the same command again" in text for _, text in left)
    assert (folder / "checkpoint-1" / "COMPLETE").is_file() and not (folder / "checkpoint-3").exists()
    cluster.machines.plug(SERVER, True)
    assert ended(cluster.start(command)) == [0, 0]
    assert_same_run(folder, here)

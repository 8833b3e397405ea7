"""An adapter onto several servers: who does not take it is left out, and who comes to it later is looked at first."""

from __future__ import annotations

import time

import pytest

from llava_rlhf.engines import loading, pool
from llava_rlhf.engines.holders import Holders
from llava_rlhf.engines.http import TryAgainError
from llava_rlhf.engines.loading import LOAD, NotTakenError, Version, load_everywhere
from llava_rlhf.engines.request import GENERATE
from llava_rlhf.runs.stopping import EngineError

RANK = (500, {"error": {"message": "LoRA rank 64 is greater than max_lora_rank 16."}})


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Rests are short."""
    monkeypatch.setattr(pool, "FIRST_REST", 0.02)
    monkeypatch.setattr(loading, "GRACE_SECONDS", 5.0)


@pytest.fixture
def version(tmp_path) -> Version:
    return Version("policy-step1", tmp_path, False)


def soon() -> float:
    return time.monotonic() + 20


def test_a_server_that_refuses_an_adapter_is_left_out(scripted, probe, version, caplog):
    fakes, servers = scripted(2)
    fakes[0].said[LOAD] = RANK
    (said,) = load_everywhere(servers, version, probe, soon())
    assert said.url == fakes[1].url and fakes[1].loaded == {version.name: str(version.folder)}
    assert fakes[0].posted == [LOAD] * pool.REFUSALS
    (warning,) = [record.getMessage() for record in caplog.records]
    assert fakes[0].url in warning and "higher LORA_RANK" in warning


def test_an_adapter_that_nobody_takes_stops(scripted, probe, version):
    fakes, servers = scripted(2)
    for fake in fakes:
        fake.said[LOAD] = RANK
    with pytest.raises(EngineError, match=r"no server takes the adapter; .* higher LORA_RANK"):
        load_everywhere(servers, version, probe, soon())


@pytest.mark.parametrize("path", [LOAD, GENERATE])
def test_what_is_refused_for_a_moment_is_asked_again(path, scripted, probe, version):
    """The adapter itself, as on a disk that shows it late, and the first question."""
    fakes, servers = scripted(1)
    fakes[0].said[path] = [(500, {"error": {"message": "out of luck"}})] * 2
    (said,) = load_everywhere(servers, version, probe, soon())
    assert said.url == fakes[0].url and fakes[0].posted.count(path) >= 3


def give(servers, holders, version, times: int = 1) -> list[BaseException | None]:
    """How each of so many rows fares that come to the first server at once."""
    server = servers.servers[0]
    works = [servers.begin(holders.give(server, version, lambda said: None)) for _ in range(times)]
    return [work.exception(20) for work in works]


def test_a_server_that_was_late_is_asked_the_probe_before_rows(scripted, probe, version):
    """Loaded behind our back, as where we gave up waiting before it was through."""
    fakes, servers = scripted(1)
    fakes[0].loaded[version.name] = str(version.folder)
    holders = Holders(servers, probe)
    holders.begin([])
    assert fakes[0].url not in holders
    assert give(servers, holders, version, 5) == [None] * 5
    assert fakes[0].url in holders and fakes[0].posted == [GENERATE] * 2  # with the adapter, and without
    assert give(servers, holders, version) == [None] and len(fakes[0].posted) == 2
    holders.begin([])
    assert fakes[0].url not in holders


def test_rows_that_wait_for_an_adapter_fail_together(scripted, probe, version):
    fakes, servers = scripted(2)
    fakes[0].said[LOAD] = RANK
    holders = Holders(servers, probe)
    found = give(servers, holders, version, 5)
    assert all(isinstance(error, NotTakenError) and error.server_is_ill for error in found)
    assert fakes[0].posted == [LOAD]
    for _ in range(pool.REFUSALS):
        (error,) = give(servers, holders, version)
        assert isinstance(error, TryAgainError)  # the other server may take it
    del fakes[0].said[LOAD]
    assert give(servers, holders, version) == [None] and fakes[0].url in holders


def test_an_adapter_that_nobody_takes_any_more_stops(scripted, probe, version):
    fakes, servers = scripted(1)
    fakes[0].said[LOAD] = RANK
    holders = Holders(servers, probe)
    for _ in range(pool.REFUSALS - 1):
        assert isinstance(give(servers, holders, version)[0], NotTakenError)
    (error,) = give(servers, holders, version)
    assert isinstance(error, EngineError) and "higher LORA_RANK" in str(error)

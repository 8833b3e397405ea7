"""Behind a real port: bodies that find no room or never come whole, connections, and clients that are gone."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPResponse

import pytest

from llava_rlhf.reward_service import intake
from llava_rlhf.reward_service.client import RewardClient
from llava_rlhf.reward_service.scoring import Scorer
from tests.support.reward_service import health, service_command, service_listening

ROW = {"question": "what is in the picture?", "answer": "a cat.", "captions": ["a red cat"]}
LIMITS = {"batch_size": 1, "max_request_bytes": 10_000, "max_queued_bytes": 10_000, "max_connections": 4}


@pytest.fixture(scope="module")
def listening(tiny_data, reward_run) -> Iterator[str]:
    with service_listening(service_command(tiny_data, reward_run, **LIMITS)) as url:
        yield url


@contextmanager
def connection(url: str) -> Iterator[socket.socket]:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as made:
        yield made


def request(rows, fill: int = 0, told: bool = True) -> tuple[bytes, bytes]:
    """Header and body, filled up to a length; without `told` in one chunk of unknown length."""
    body = json.dumps({"rows": rows}).encode().ljust(fill)
    length = f"Content-Length: {len(body)}" if told else "Transfer-Encoding: chunked"
    head = f"POST /v1/score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{length}\r\n\r\n"
    return head.encode(), body if told else b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def asked(url: str, rows, **how) -> tuple[int, str]:
    """Status and text of the answer to a request that is sent whole."""
    with connection(url) as made:
        made.sendall(b"".join(request(rows, **how)))
        return answer(made)


def answer(made: socket.socket) -> tuple[int, str]:
    reply = HTTPResponse(made)
    reply.begin()
    return reply.status, f"{reply.headers}{reply.read().decode()}"


def until(true) -> None:
    """Wait for it."""
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("told", [True, False])
def test_bodies_find_room_before_they_are_read(listening, told):
    with connection(listening) as first:
        head, body = request([ROW], fill=7000, told=told)
        first.sendall(head + body[:6000])
        until(lambda: health(listening)["bytes_at_work"] == (7000 if told else 6000 - len(b"1b58\r\n")))
        status, text = asked(listening, [ROW], fill=4500, told=told)
        assert status == 429 and "of 10000 bytes are at work (--max_queued_bytes)" in text
        assert "retry-after: 1" in text.lower()
        assert asked(listening, [ROW], fill=2500, told=told)[0] == 200  # which there is room for
        first.sendall(body[6000:])
        assert answer(first)[0] == 200
    assert asked(listening, [ROW], fill=10_000, told=told)[0] == 200
    assert health(listening)["bytes_at_work"] == 0


def test_a_body_that_does_not_come_gives_its_room_back(listening, monkeypatch):
    monkeypatch.setattr(intake, "READ_SECONDS", 0.1)
    with connection(listening) as slow:
        head, body = request([ROW], fill=9000)
        slow.sendall(head + body[:100])
        status, text = answer(slow)
        assert status == 408 and "did not come whole within 0.1 s" in text
    assert health(listening)["bytes_at_work"] == 0


def test_a_client_that_goes_while_it_sends_gives_its_room_back(listening):
    with connection(listening) as first:
        head, body = request([ROW], fill=9000)
        first.sendall(head + body[:100])
        until(lambda: health(listening)["bytes_at_work"] == 9000)
    until(lambda: health(listening)["bytes_at_work"] == 0)


def test_there_are_only_so_many_connections(listening):
    with connection(listening), connection(listening), connection(listening):
        assert RewardClient(listening, patience=20).score([ROW])  # the fourth
        with (
            connection(listening),
            pytest.raises(RuntimeError, match="HTTP 503, Service Unavailable"),
        ):
            RewardClient(listening, patience=0).score([ROW])
    assert RewardClient(listening, patience=20).score([ROW])


def test_rows_of_a_client_that_is_gone_are_not_scored(listening, monkeypatch):
    """A forward is held; meanwhile another client asks for rows, and goes."""
    begun, go_on, score, scored = threading.Event(), threading.Event(), Scorer.__call__, []

    def held(self, items):
        begun.set()
        assert go_on.wait(60)
        scored.extend(items)
        return score(self, items)

    monkeypatch.setattr(Scorer, "__call__", held)
    with ThreadPoolExecutor(1) as pool:
        stays = pool.submit(RewardClient(listening).score, [ROW])
        assert begun.wait(60)
        try:
            with connection(listening) as goes:
                goes.sendall(b"".join(request([ROW] * 3)))
                until(lambda: health(listening)["rows_at_work"] == 4)
            until(lambda: health(listening)["rows_at_work"] == 1)
        finally:
            go_on.set()
        assert len(stays.result(60)) == 1
    assert RewardClient(listening).score([ROW]) == stays.result() and len(scored) == 2

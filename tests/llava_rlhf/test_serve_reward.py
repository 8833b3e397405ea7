"""The reward service as users start it: many clients at once, one that is killed, a signal at work, a new start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from llava_rlhf.reward_service.client import RewardClient
from tests.support.reward_service import ROOT, service_command, service_process

CLIENTS, ROUNDS = 8, 4
# A client that asks for a row again and again, until it is killed.
ENDLESS = """
import sys
from llava_rlhf.reward_service.client import RewardClient
client = RewardClient(sys.argv[1])
while True: client.score([{"question": "what is in the picture?", "answer": "a cat.", "captions": ["a red cat"]}]); print("1", flush=True)
"""


@pytest.mark.slow
def test_many_clients_get_the_scores_of_the_program(tiny_data, reward_run, scored_rows, tmp_path):
    rows, wanted = scored_rows.rows, scored_rows.scores
    with service_process(service_command(tiny_data, reward_run), tmp_path / "log") as (url, process):
        words = [sys.executable, "-c", ENDLESS, url]
        killed = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE)
        assert killed.stdout.readline()  # it is at work

        def ask(client: int) -> list[tuple[int, float]]:
            asking = RewardClient(url)
            order = [(place + client) % len(rows) for place in range(len(rows))]
            return [(place, asking.score([rows[place]])[0]) for place in order]

        with ThreadPoolExecutor(CLIENTS) as pool:
            first = list(pool.map(ask, range(CLIENTS)))
            killed.kill()
            memory = psutil.Process(process.pid).memory_info().rss
            rest = list(pool.map(ask, range(CLIENTS * (ROUNDS - 1))))
        grown = psutil.Process(process.pid).memory_info().rss - memory
        got = [reply for replies in first + rest for reply in replies]
        assert len(got) == CLIENTS * ROUNDS * len(rows) == 1024
        assert all(score == wanted[place] for place, score in got)
        assert RewardClient(url).describe()["model"] == reward_run.name
        assert grown < 100 * 2**20
        killed.wait(10)


@pytest.mark.slow
def test_a_client_outlives_a_new_start_of_the_service(tiny_data, reward_run, scored_rows, tmp_path):
    argv = service_command(tiny_data, reward_run)
    rows, wanted = scored_rows.rows, scored_rows.scores
    got: list[float] = []
    with service_process(argv, tmp_path / "first") as (url, process):
        got += RewardClient(url).score(rows[:8])
        os.kill(process.pid, signal.SIGTERM)
        process.wait(30)
    asking = threading.Thread(target=lambda: got.extend(RewardClient(url, rows_a_request=4).score(rows[8:])))
    asking.start()  # nobody listens yet
    time.sleep(0.5)
    with service_process(argv, tmp_path / "second"):
        asking.join(60)
    assert got == wanted

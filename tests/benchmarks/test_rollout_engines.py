"""The comparison of engines: what its processes are charged, and its table."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from benchmarks import rollout_engines

SPIN = "import time\nwhile time.process_time() < 0.6: pass"


def test_a_process_group_is_charged_with_what_its_children_take():
    own = time.process_time()
    start = rollout_engines.cpu_seconds(-1)  # this process alone
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-S', '-c', {SPIN + chr(10) + 'time.sleep(60)'!r}]); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=True)
    try:
        until = time.monotonic() + 60
        while (spent := rollout_engines.cpu_seconds(process.pid) - start) < 0.5 and time.monotonic() < until:
            time.sleep(0.1)
    finally:
        subprocess.run(["kill", "-9", "--", f"-{process.pid}"], check=True)
        process.wait()
    assert spent - (time.process_time() - own) > 0.3


def test_the_table_divides_tokens_by_cpu_seconds():
    one = {
        "base": "mid",
        "engine": "vllm",
        "adapter": "no",
        "mean length": 39.6,
        "tokens": 1200,
        "cpu s": 8.0,
    }
    assert rollout_engines.table([one]).splitlines()[-1] == "| mid | vllm | no | 40 | 1200 | 8.0 | 150 |"


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="--rounds 0: must be at least 1"):
        rollout_engines.prepare(["--output_file", "x.json", "--rounds", "0"])

"""`python -m llava_rlhf` lists every program with one line, without importing any."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.house.rooms import ROOT, programs


def test_every_program_has_its_line():
    code = "import runpy, sys; runpy.run_module('llava_rlhf', run_name='__main__'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    *lines, torch_loaded = done.stdout.splitlines()
    assert torch_loaded == "False"
    listed = {words[0]: words[1].strip() for line in lines if len(words := line.split(maxsplit=1)) == 2}
    names = [path.stem for path in programs()]
    assert set(names) <= listed.keys()
    assert all(listed[name] for name in names)
    assert max(map(len, lines)) <= 160


def test_a_program_behind_a_space_is_told_how_it_is_written():
    words = [sys.executable, "-m", "llava_rlhf", "train_rl_model", "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: write python -m llava_rlhf.train_rl_model\n"


@pytest.mark.parametrize("program", ["plan_memory", "train_rl_model", "chat"])
def test_before_the_installation_there_is_one_message(program):
    """Without site-packages; a program of the standard library alone would not need them."""
    words = [sys.executable, "-S", "-m", f"llava_rlhf.{program}", "--help"]
    environment = {"PATH": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.endswith("run bash scripts/setup_venv.sh, then source .venv/bin/activate\n")

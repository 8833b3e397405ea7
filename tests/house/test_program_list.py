"""`python -m llava_rlhf` lists every program with one line, without importing any."""

from __future__ import annotations

import subprocess
import sys

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

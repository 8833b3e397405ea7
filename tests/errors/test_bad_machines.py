"""What the machine or the shell that starts a script does not offer."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from llava_rlhf.runs import training_arguments
from tests.errors.documented import ROOT, documented

CASES = ("no-gpu-for-bf16", "bad-dry-run")


@pytest.mark.parametrize("case", CASES)
def test_documented(case, prepare, monkeypatch):
    row = documented(__file__, case)
    if case == "no-gpu-for-bf16":
        monkeypatch.setattr(training_arguments, "_has_bf16_device", lambda: False)
        with pytest.raises(ValueError, match=row.pattern):
            prepare("reward", bf16=True, use_cpu=False)
        return
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "score.sh")],
        env={**os.environ, "DRY_RUN": "ture"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and not done.stdout
    assert re.search(row.pattern, done.stderr)

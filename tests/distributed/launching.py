"""Programs as the scripts launch them: `launch` of scripts/common.sh, on one "node" or several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.forking import QUIET_CPU

ROOT = Path(__file__).parents[2]
LAUNCH = 'source scripts/common.sh; launch "$@"'


def start(module: str, argv: list[str], **environment: str) -> subprocess.Popen[str]:
    """Start `module` with the variables that scripts/common.sh reads; standard error joins the output."""
    return subprocess.Popen(
        ["bash", "-c", LAUNCH, "launch", module, *argv],
        cwd=ROOT,
        env={**os.environ, **QUIET_CPU, "PYTHON": sys.executable, "HF_HUB_OFFLINE": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def launch(module: str, argv: list[str], timeout_s: float = 200, **environment: str) -> tuple[int, str]:
    """Run to the end; returns exit status and output."""
    process = start(module, argv, **environment)
    try:
        output, _ = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
    return process.returncode, output

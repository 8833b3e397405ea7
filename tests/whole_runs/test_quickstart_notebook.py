"""docs/quickstart.ipynb: clean in the repository, and every cell runs on what the quickstart leaves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"
# The quickstart itself, smaller than --short.
SMALL = {
    "JOBS": "1",
    "TRAIN_IMAGES": "300",
    "INIT_IMAGES": "64",
    "PREFERENCE_IMAGES": "100",
    "PPO_IMAGES": "64",
    "EVAL_IMAGES": "24",
    "EVAL_SIZE": "24",
    "REWARD_MODEL_STEPS": "40",
    "PPO_STEPS": "2",
}
# As a kernel does it: one name space, in order, and the working directory of the notebook.
KERNEL = """
import json, sys
cells = json.load(open(sys.argv[1]))["cells"]
names = {"__name__": "__main__"}
for cell in cells:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
"""


def test_the_notebook_is_clean():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    cells = notebook["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert set(notebook["metadata"]["kernelspec"]) == {"display_name", "language", "name"}


# Continuous integration has a quickstart, and reads that one; to make one more takes minutes.
WITH_QUICKSTART = pytest.mark.slow if "QUICKSTART_RUN" in os.environ else pytest.mark.nightly


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory) -> Path:
    """The run folder that QUICKSTART_RUN names, or one of its own."""
    if "QUICKSTART_RUN" in os.environ:
        return Path(os.environ["QUICKSTART_RUN"])
    run = tmp_path_factory.mktemp("runs") / "quickstart"
    script = ROOT / "scripts" / "tiny" / "run_all.sh"
    start(["bash", script], PYTHON=sys.executable, RUN_DIR=str(run), **SMALL)
    return run


def start(command, cwd: Path = ROOT, **variables: str) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "MPLBACKEND": "Agg",
        **variables,
    }
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@WITH_QUICKSTART
def test_every_cell_runs_on_a_quickstart(quickstart, tmp_path):
    said = start([sys.executable, "-c", KERNEL, NOTEBOOK], tmp_path, RUN_DIR=str(quickstart))
    assert said.count("  before: ") == said.count("  after: ") == 4
    shown, hidden = re.findall(
        r"facts (?:shown|hidden) +right about (\d+) of \d+, mean margin [+-]\d+\.\d\d", said
    )
    assert int(shown) > 20 and int(hidden) <= 40  # of 40; which way round "yes" and "no" are is then right
    steps = re.findall(r"step +(\d+)  reward [+-]\d", said)
    assert len(steps) >= 2 and steps == [str(number + 1) for number in range(len(steps))]
    assert list(tmp_path.iterdir()) == []

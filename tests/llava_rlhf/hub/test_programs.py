"""Programs, the Python interface and a script, all of whose models and data come from a hub on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llava_rlhf import answer_prompts, score
from tests.support.hub_fetching import ROOT
from tests.support.hub_server import HubServer
from tests.support.tiny_data import command_line

LENGTHS = {"query_len": 60, "response_len": 8, "use_cpu": True}


class World:
    """A hub with everything, and commands that know nothing else; one cache for all."""

    def __init__(self, hub: HubServer, folder: Path):
        self.hub, self.folder = hub, folder
        self.commits: dict[str, str] = {}

    def run(self, *words: object, **variables: str) -> subprocess.CompletedProcess:
        environment = self.hub.environment(
            self.folder / "home", PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", **variables
        )
        return subprocess.run(
            [str(word) for word in words],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def program(self, name: str, **flags: object) -> str:
        done = self.run(sys.executable, "-m", f"llava_rlhf.{name}", *command_line(**flags))
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout


@pytest.fixture(scope="module")
def world(tiny_base, tiny_data, policy_run, reward_run, tmp_path_factory):
    with HubServer() as hub:
        found = World(hub, tmp_path_factory.mktemp("world"))
        for name, source in {"base": tiny_base, "policy": policy_run, "reward": reward_run}.items():
            found.commits[name] = hub.add(f"me/tiny-{name}", source)
        files = {
            path.name: path.read_bytes()
            for path in (tiny_data.prompts, tiny_data.preferences, tiny_data.captions)
        }
        found.commits["data"] = hub.add("me/tiny-data", files, "dataset")
        yield found


@pytest.mark.nightly
def test_answers_are_those_of_local_folders(world, tiny_base, tiny_data, policy_run):
    shared = {"image_folder": tiny_data.images, "version": "tiny", **LENGTHS}
    names = {
        "base_model_name": "me/tiny-base",
        "adapter": "me/tiny-policy",
        "dataset_path": "me/tiny-data/prompts.json",
    }
    world.program("answer_prompts", **names, output_file="answers.jsonl", **shared)
    here = {"base_model_name": tiny_base, "adapter": policy_run, "dataset_path": tiny_data.prompts}
    output = world.folder / "local.jsonl"
    answer_prompts.run(answer_prompts.prepare(command_line(**here, output_file=output, **shared)))
    assert (world.folder / "answers.jsonl").read_text() == output.read_text() != ""
    recorded = json.loads((world.folder / "answers.jsonl.settings.json").read_text())
    assert recorded["base_model_name"] == f"me/tiny-base@{world.commits['base']}"
    assert recorded["dataset_path"] == f"me/tiny-data@{world.commits['data']}/prompts.json"
    assert not [name for name in world.hub.downloaded() if "optimizer" in name or name.endswith(".bin")]


@pytest.mark.nightly
def test_scores_are_those_of_local_folders(world, tiny_base, tiny_data, reward_run):
    shared = {"image_folder": tiny_data.images, **LENGTHS}
    names = {
        "reward_model_name_or_path": "me/tiny-reward",
        "base_model_name": "me/tiny-base",
        "dataset_path": "me/tiny-data/preferences.json",
        "image_to_caption_file": "me/tiny-data/captions.json",
    }
    world.program("score", **names, output_file="scores.jsonl", **shared)
    here = {
        "reward_model_name_or_path": reward_run,
        "base_model_name": tiny_base,
        "dataset_path": tiny_data.preferences,
        "image_to_caption_file": tiny_data.captions,
    }
    output = world.folder / "local_scores.jsonl"
    score.run(score.prepare(command_line(**here, output_file=output, **shared)))
    assert (world.folder / "scores.jsonl").read_text() == output.read_text() != ""


@pytest.mark.nightly
def test_python_takes_ids(world):
    program = """
from llava_rlhf import Policy, RewardModel
policy = Policy.load("me/tiny-base", "me/tiny-policy", version="tiny", device="cpu", response_len=4)
print("answered", bool(policy.answer(question="is there a cat?")))
reward = RewardModel.load("me/tiny-reward", "me/tiny-base", device="cpu")
print("scored", reward.score(question="is there a cat?", answer="yes", captions=["a cat"]))
try:
    RewardModel.load("me/nothing")
except ValueError as error:
    print(error)
"""
    done = world.run(sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "answered" in done.stdout and "scored" in done.stdout
    assert "folder me/nothing: no such path here" in done.stdout


@pytest.mark.slow
def test_a_script_trains_on_ids_and_goes_on_from_the_same_commit(world, tiny_data):
    variables = {
        "PYTHON": sys.executable,
        "BASE_MODEL": "me/tiny-base",
        "PREFERENCES": "me/tiny-data/preferences.json",
        "CAPTIONS": "me/tiny-data/captions.json",
        "IMAGE_FOLDER": str(tiny_data.images),
        "REWARD_PROMPT": str(tiny_data.fact_prompt),
        "OUTPUT_DIR": "runs/reward",
        "MAX_STEPS": "2",
        "BATCH_SIZE": "4",
        "EVAL_SIZE": "4",
        "EVAL_STEPS": "1",
        "SAVE_STEPS": "1",
        "QUERY_LEN": "60",
        "LOGGING_STEPS": "1",
    }

    def train(**changes: str) -> subprocess.CompletedProcess:
        return world.run(
            "bash", ROOT / "scripts" / "tiny" / "train_reward_model.sh", **{**variables, **changes}
        )

    done = train()
    assert done.returncode == 0, done.stderr[-3000:]
    run, base = world.folder / "runs" / "reward", f"me/tiny-base@{world.commits['base']}"
    record = json.loads((run / "arguments.json").read_text())
    assert record["hub"]["--model_name_or_path"] == base
    assert record["hub"]["--dataset_path"] == f"me/tiny-data@{world.commits['data']}/preferences.json"
    assert json.loads((run / "reward_model.json").read_text())["base_model"] == base
    adapter = json.loads((run / "lora_reward" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "me/tiny-base"
    # Somebody commits to the base; the run that goes on stays where it was.
    files = world.hub.newest("me/tiny-base")
    newer = world.hub.add("me/tiny-base", {**files, "README.md": b"about"})
    again = train()
    assert again.returncode == 0 and "is finished (2 steps)" in again.stdout, again.stderr[-3000:]
    assert f"at commit {world.commits['base']}, as in the run that goes on" in again.stderr
    other = train(BASE_MODEL=f"me/tiny-base@{newer}")
    assert other.returncode == 2
    assert f"--model_name_or_path: then {base}, now me/tiny-base@{newer}" in other.stderr
    # The result knows its base by its id.
    shared = {"image_folder": tiny_data.images, **LENGTHS, "output_file": "own.jsonl"}
    world.program(
        "score",
        reward_model_name_or_path=run,
        dataset_path="me/tiny-data/preferences.json",
        image_to_caption_file="me/tiny-data/captions.json",
        **shared,
    )
    assert os.path.getsize(world.folder / "own.jsonl")


@pytest.mark.slow
def test_the_planner_reads_the_configuration_alone(world, tmp_path):
    environment = {"HF_HOME": str(tmp_path / "fresh")}
    world.hub.requests.clear()
    words = ["initialize_policy_model", "--model_name_or_path", "me/tiny-base"]
    done = world.run(sys.executable, "-m", "llava_rlhf.plan_memory", *words, **environment)
    assert done.returncode == 0 and "me/tiny-base" in done.stdout, done.stderr[-3000:]
    assert not [name for name in world.hub.downloaded() if not name.endswith(".json")]

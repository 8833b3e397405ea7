"""Every script, run from another directory with a launcher that records: the real parsers read what it passes."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from torch.distributed.run import parse_args as parse_torchrun

from tests.support.recorded_scripts import LARGE, ONE_CARD, ROOT, ScriptRunner, parsed
from tests.support.tiers import tiered

TINY = [
    f"tiny/{name}.sh"
    for name in (
        "make_world train_sft sample_preferences train_reward_model initialize_policy_model train_rl_model evaluate"
    ).split()
]


@pytest.mark.parametrize("script", TINY)
def test_tiny_scripts_are_read_by_the_real_parsers(script, runner, tmp_path):
    for call in runner.run(script, RUN_DIR=str(tmp_path / "my run")):
        settings = parsed(call, tmp_path)
        assert (settings.get("version") or "tiny") == "tiny"  # None: an export asks the run's record
        assert settings.get("use_cpu", True) is True
        paths = [str(settings[name]) for name in ("output_dir", "output_file") if name in settings]
        assert paths and all(path.startswith(str(tmp_path / "my run")) for path in paths)


@pytest.mark.parametrize(
    ("facts", "prompt", "folder"),
    [("True", "tiny_fact_reward_prompt", "fact_"), ("False", "tiny_reward_prompt", "")],
)
def test_tiny_reward_model_with_and_without_facts(facts, prompt, folder, runner, tmp_path):
    run = str(tmp_path / "run")
    (reward_model,) = runner.run("tiny/train_reward_model.sh", RUN_DIR=run, FACTS=facts)
    (policy,) = runner.run("tiny/train_rl_model.sh", RUN_DIR=run, FACTS=facts)
    assert (
        reward_model.value("output_dir")
        == policy.value("reward_model_name_or_path")
        == f"{run}/{folder}reward_model"
    )
    for call in (reward_model, policy):
        assert call.value("reward_prompt_file") == str(runner.checkout / "prompts" / f"{prompt}.txt")


@pytest.mark.parametrize(
    ("said", "settings"),
    [
        ({}, ("modern", True, True, 1e-3)),
        ({"FACTS": "False"}, ("modern", True, False, 1e-3)),
        ({"RECIPE": "published"}, ("published", False, False, 5e-4)),
        ({"RECIPE": "published", "LEARNING_RATE": "2e-4"}, ("published", False, False, 2e-4)),
        ({"LEARNING_RATE": "2e-4"}, ("modern", True, True, 2e-4)),
    ],
)
def test_tiny_ppo_has_the_learning_rate_that_its_recipe_was_measured_at(said, settings, runner, tmp_path):
    (call,) = runner.run("tiny/train_rl_model.sh", RUN_DIR=str(tmp_path / "run"), **said)
    found = parsed(call, tmp_path)
    names = ("recipe", "normalize_returns", "value_sees_facts", "learning_rate")
    assert tuple(found[name] for name in names) == settings


@pytest.mark.parametrize("script", ["13b-v1.5-336", "qwen3-vl-8b", "tiny"])
def test_preferences_in_the_place_of_dialogues(script, runner, tmp_path):
    """OBJECTIVE=dpo: other rows, its two flags, and a folder beside that of policy init."""
    name = f"{script}/initialize_policy_model.sh"
    own = {"PREFERENCES": str(tmp_path / "pairs.json"), "POLICY_MODEL": str(tmp_path / "policy")}
    (plain,) = runner.run(name, **own)
    assert plain.value("dataset_path") != own["PREFERENCES"] and "--objective" not in plain.words
    (call,) = runner.run(name, OBJECTIVE="dpo", DPO_BETA="0.3", **own)
    assert (call.value("objective"), call.value("dpo_beta")) == ("dpo", "0.3")
    assert call.value("dataset_path") == own["PREFERENCES"]
    assert call.value("policy_model_name_or_path") == own["POLICY_MODEL"]
    assert Path(call.value("output_dir")) == Path(plain.value("output_dir")).with_name("dpo")
    (named,) = runner.run(name, OBJECTIVE="dpo", OUTPUT_DIR=str(tmp_path / "mine"), **own)
    assert named.value("output_dir") == str(tmp_path / "mine")


@pytest.mark.parametrize("script", ["13b-v1.5-336/train_rl_model.sh", "tiny/train_rl_model.sh"])
def test_claims_and_facts_beside_captions(script, runner, tmp_path):
    """FACT_REWARD=claims leaves out what mentions alone read."""
    own = {"MORE_FACTS": str(tmp_path / "facts.json"), "UNMENTIONED": "ask_picture"}
    judge = {"CLAIM_JUDGE_URL": "http://127.0.0.1:9/v1", "CLAIM_JUDGE_NAME": "judge-1"}
    (plain,) = runner.run(script)
    assert not {"--image_to_facts_file", "--fact_reward", "--claim_judge_url"} & set(plain.words)
    (call,) = runner.run(script, FACT_REWARD="claims", **own, **judge)
    assert call.value("image_to_facts_file") == own["MORE_FACTS"]
    assert (call.value("fact_reward"), call.value("unmentioned")) == ("claims", "ask_picture")
    assert (call.value("claim_judge_url"), call.value("claim_judge_model")) == tuple(judge.values())
    assert not {"--fact_words", "--picture_question"} & set(call.words)
    reward_script = script.replace("train_rl_model", "train_reward_model")
    (reward,) = runner.run(reward_script, MORE_FACTS=own["MORE_FACTS"])
    assert reward.value("image_to_facts_file") == own["MORE_FACTS"]


def test_facts_must_be_true_or_false(runner):
    done = runner.start("tiny/train_reward_model.sh", FACTS="yes")
    assert done.returncode == 2 and "FACTS=yes" in done.stderr and not runner.calls()


@pytest.mark.parametrize("script", tiered([*LARGE, *ONE_CARD, *TINY], quick=[*LARGE[:3], TINY[0]]))
def test_every_variable_at_the_top_can_be_overridden(script, runner):
    """Each variable gets a value of its own, which must arrive; one that others are built from is set alone."""
    text = (runner.checkout / "scripts" / script).read_text()
    names = set(re.findall(r'="\$\{(\w+):-', text)) - {"FACTS", "NAME"}
    sources = {name for name in names if re.search(rf":-[^\n]*\${name}\b", text)} | {"OUTPUT_DIR"} & names
    if "OBJECTIVE" in names:
        sources.add("DIALOGUES")  # another objective reads PREFERENCES
    assert len(names) >= 8 and "SEED" in names
    for group in [names - sources, *({name} for name in sources)]:
        given = {name: f"/value of/{name}" for name in group}
        calls = runner.run(script, **given)
        words = "\n".join(word for call in calls for word in call.words)
        assert [name for name, value in given.items() if value not in words] == []


@pytest.mark.parametrize("script", tiered([*LARGE, *ONE_CARD, "tiny/train_rl_model.sh"], quick=LARGE[:3]))
def test_several_nodes(script, runner):
    nodes = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "10.0.0.5", "MASTER_PORT": "1234"}
    (call,) = runner.run(script, NUM_GPUS="4", NUM_PROCESSES="4", **nodes)
    topology = parse_torchrun(list(call.words))
    assert (topology.nnodes, topology.nproc_per_node, topology.node_rank) == ("2", "4", 1)
    assert (topology.master_addr, topology.master_port, topology.standalone) == ("10.0.0.5", 1234, False)


def test_deepspeed_can_be_the_launcher(tmp_path):
    runner = ScriptRunner(ROOT, tmp_path)
    nodes = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "10.0.0.5", "MASTER_PORT": "1234"}
    script = "13b-v1.5-336/initialize_policy_model.sh"
    (call,) = runner.run(script, LAUNCHER="deepspeed", NUM_GPUS="4", **nodes)
    words = list(call.words)
    assert Path(words.pop(words.index("--hostfile") + 1)).is_absolute()
    head = "-m deepspeed.launcher.runner --no_local_rank --num_gpus 4 --master_port 1234 --hostfile --no_ssh"
    nodes_flags = "--num_nodes 2 --node_rank 1 --master_addr 10.0.0.5"
    expected = [*head.split(), *nodes_flags.split(), "--module", "llava_rlhf.initialize_policy_model"]
    assert words[: len(expected)] == expected
    (call,) = runner.run(script, LAUNCHER="deepspeed", NUM_GPUS="8")
    assert "--no_ssh" not in call.words and call.value("num_gpus") == "8"


@pytest.mark.parametrize("missing", ["NODE_RANK", "MASTER_ADDR"])
def test_several_nodes_need_to_find_each_other(missing, runner):
    nodes = {"NODE_RANK": "0", "MASTER_ADDR": "10.0.0.5"} | {missing: None}
    done = runner.start(LARGE[0], NNODES="2", **nodes)
    assert done.returncode != 0 and f"set {missing}" in done.stderr and not runner.calls()


def test_torchrun_is_the_default_launcher_and_one_tiny_process_needs_none(runner):
    (large,) = runner.run(LARGE[0], LAUNCHER=None, NUM_GPUS="2")
    assert large.words[:6] == ("-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", "2")
    (tiny,) = runner.run("tiny/train_rl_model.sh", LAUNCHER=None)
    assert tiny.launch == () and tiny.module == "llava_rlhf.train_rl_model"
    (two,) = runner.run("tiny/train_rl_model.sh", LAUNCHER=None, NUM_PROCESSES="2")
    assert two.words[:6] == ("-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", "2")


def test_relative_paths_are_meant_from_where_the_script_is_called(runner):
    (call,) = runner.run(LARGE[0], OUTPUT_DIR="my runs/1", DATA_DIR="../data")
    assert call.value("output_dir") == f"{runner.cwd}/my runs/1"
    assert call.value("dataset_path") == f"{runner.cwd}/../data/llava_7b_v1_preference.json"


def test_ids_of_the_hub_are_passed_on_and_what_is_here_wins(runner):
    ids = {"BASE_MODEL": "me/base@v1/sft", "PREFERENCES": "me/data/rows.json", "CAPTIONS": "me/captions"}
    (call,) = runner.run(LARGE[0], OUTPUT_DIR="runs/new", IMAGE_FOLDER="coco/train2017", **ids)
    names = ("model_name_or_path", "dataset_path", "image_to_caption_file")
    assert tuple(call.value(name) for name in names) == tuple(ids.values())
    assert call.value("output_dir") == f"{runner.cwd}/runs/new"
    assert call.value("image_folder") == f"{runner.cwd}/coco/train2017"
    (runner.cwd / "me" / "base").mkdir(parents=True)
    here = {"BASE_MODEL": "me/base", "PREFERENCES": "data/rows.json", "CAPTIONS": "./me/captions"}
    (call,) = runner.run(LARGE[0], **here)
    assert tuple(call.value(name) for name in names) == tuple(
        f"{runner.cwd}/{path}" for path in here.values()
    )


def test_what_begins_with_a_documented_folder_or_one_that_is_here_is_no_id(runner):
    given = {"BASE_MODEL": "checkpoints/base", "PREFERENCES": "data/rows", "CAPTIONS": "llava/captions"}
    names = ("model_name_or_path", "dataset_path", "image_to_caption_file")
    (call,) = runner.run(LARGE[0], **given)
    assert call.value("image_to_caption_file") == "llava/captions"
    (runner.cwd / "llava").mkdir()
    (call,) = runner.run(LARGE[0], **given)
    assert [call.value(name) for name in names] == [f"{runner.cwd}/{path}" for path in given.values()]
    (call,) = runner.run(LARGE[0], **given | {"CAPTIONS": "llava/captions@main"})
    assert call.value("image_to_caption_file") == "llava/captions@main"


def test_arguments_of_the_script_are_passed_on_as_they_are_and_win(runner, tmp_path):
    extra = ["--learning_rate", "7e-6", "--resume", "a folder/checkpoint-3", "--use_cpu", "True"]
    (call,) = runner.run(LARGE[0], *extra, DATA_DIR=str(tmp_path / "data"))
    assert call.arguments[-6:] == extra
    settings = parsed(call, tmp_path)
    assert (settings["learning_rate"], settings["resume"]) == (7e-6, "a folder/checkpoint-3")


def test_a_failing_program_fails_its_script(runner):
    done = runner.start("tiny/train_sft.sh", FAIL_ON="initialize_policy_model")
    assert done.returncode != 0
    assert [call.module for call in runner.calls()] == ["llava_rlhf.initialize_policy_model"]


def test_scripts_are_valid_executable_and_say_what_they_need():
    found = [*(ROOT / "scripts").rglob("*.sh"), ROOT / ".ci" / "run"]
    assert len(found) > len(LARGE) + len(TINY)
    for path in found:
        text = path.read_text()
        assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0, path
        if path.name != "common.sh" and path.parent.name != "launch":  # sourced
            assert os.access(path, os.X_OK), path
            assert text.startswith("#!/usr/bin/env bash\n") and "\nset -euo pipefail\n" in text, path
    for script in LARGE + TINY:
        header = (ROOT / "scripts" / script).read_text().split("\nset -euo")[0]
        assert re.search(r"# Hardware: .*\d|# Hardware: CPU, one core", header), script
        assert re.search(r"Time: .* \((estimated|measured .*)\)", header, re.DOTALL), script


def test_tiny_scripts_take_somebodys_own_files(runner, tmp_path):
    """Under the names that the large scripts have for them; the run folder is then asked for no world."""
    own = {
        name: str(tmp_path / name) for name in "IMAGE_FOLDER CAPTIONS PREFERENCES DIALOGUES PROMPTS".split()
    }
    calls = {}
    for name in ("train_reward_model", "initialize_policy_model", "train_rl_model"):
        (calls[name],) = runner.run(f"tiny/{name}.sh", RUN_DIR=str(tmp_path / "run"), **own)
        assert calls[name].value("image_folder") == own["IMAGE_FOLDER"]
        assert not any("/world" in word for word in calls[name].words)
    reward_model, dialogues, ppo = calls.values()
    assert reward_model.value("dataset_path") == own["PREFERENCES"]
    assert dialogues.value("dataset_path") == own["DIALOGUES"]
    assert ppo.value("dataset_path") == own["PROMPTS"]
    assert (
        reward_model.value("image_to_caption_file") == ppo.value("image_to_caption_file") == own["CAPTIONS"]
    )

"""What is downloaded from a hub on this machine, from its cache without it, and what is refused."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from datasets import Dataset

from llava_rlhf.hub.flags import places_of
from tests.support.hub_fetching import ROOT
from tests.support.tiers import tiered

MODEL = {
    "config.json": b"{}",
    "model.safetensors": b"weights" * 1000,
    "pytorch_model.bin": b"a pickle",
    "README.md": b"about",
    "tokenizer.model": b"pieces",
    "chat_template.jinja": b"template",
    "checkpoint-5/optimizer.safetensors": b"much",
    "checkpoint-5/lora_policy/adapter_model.safetensors": b"earlier",
    "lora_policy/adapter_config.json": b"{}",
    "lora_policy/adapter_model.safetensors": b"little",
}
ROWS = [{"id": "1", "image": "a.png", "captions": None}, {"id": "2", "image": None, "captions": ["é"]}]
OFFLINE = {"HF_HUB_OFFLINE": "1"}


def test_a_model_is_downloaded_once_without_pickles(hub, fetch):
    commit = hub.add("me/model", MODEL)
    folder = Path(fetch(base_model_name="me/model", seed=3)["base_model_name"])
    assert folder.name == commit and folder.parents[1].name == "models--me--model"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    left = {name for name in MODEL if "checkpoint-5" in name} | {"pytorch_model.bin", "README.md"}
    assert names == set(MODEL) - left
    assert (folder / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    hub.requests.clear()
    assert fetch(adapter="me/model/lora_policy", base_model_name="me/model") == {
        "adapter": str(folder / "lora_policy"),
        "base_model_name": str(folder),
    }
    assert hub.downloaded() == []
    fetch(adapter="me/model/checkpoint-5")
    assert hub.downloaded() == ["checkpoint-5/lora_policy/adapter_model.safetensors"]


def test_of_a_summary_only_configurations_are_downloaded_and_told(hub, fetch):
    hub.add("me/model", MODEL)
    told = fetch(base_model_name="me/model", configurations=True, environment=OFFLINE)
    assert told.endswith("run: hf download me/model --include '*.json'")
    folder = Path(fetch(base_model_name="me/model", configurations=True)["base_model_name"])
    assert {path.name for path in folder.iterdir() if path.is_file()} == {"config.json"}
    assert [name for name in hub.downloaded() if not name.endswith(".json")] == []


@pytest.mark.slow
def test_progress_is_shown_by_one_process_of_a_machine(hub, fetch):
    hub.add("me/model", MODEL)
    fetch(model_name_or_path="me/model", environment={"LOCAL_RANK": "1"})
    assert "Fetching" not in fetch.shown and "%" not in fetch.shown
    hub.add("me/other", MODEL)
    fetch(model_name_or_path="me/other", environment={"LOCAL_RANK": "0"})
    assert "Fetching" in fetch.shown and "100%" in fetch.shown


@pytest.mark.slow
def test_processes_that_start_together_download_every_file_once(hub, fetch):
    hub.add("me/model", MODEL)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: fetch(model_name_or_path="me/model"), range(3)))
    assert len({json.dumps(flags) for flags in found}) == 1
    assert len(hub.downloaded()) == len(set(hub.downloaded()))


def test_a_folder_of_a_repository_and_a_revision(hub, fetch):
    first = hub.add(
        "me/both", {"sft/config.json": b"1", "sft/model.safetensors": b"w", "rm/a.safetensors": b"r"}
    )
    second = hub.add("me/both", {"sft/config.json": b"2", "sft/model.safetensors": b"w"})
    found = fetch(
        base_model_name=f"me/both@{first}/sft", checkpoints=["a=me/both/sft,me/both@main/sft", "b=x"]
    )
    folder = Path(found["base_model_name"])
    assert folder.parts[-2:] == (first, "sft") and (folder / "config.json").read_text() == "1"
    assert not (folder.parent / "rm").exists()
    name, newest = found["checkpoints"][0].split("=")
    assert name == "a" and [Path(path).parts[-2:] for path in newest.split(",")] == [(second, "sft")] * 2
    assert found["checkpoints"][1] == "b=x"


def test_a_run_that_goes_on_keeps_its_commit(hub, fetch):
    first, second = hub.add("me/model", MODEL), hub.add("me/model", {**MODEL, "config.json": b"new"})
    recorded = {"model_name_or_path": f"me/model@{first}"}
    path = fetch(recorded, model_name_or_path="me/model")["model_name_or_path"]
    assert path.endswith(first) and f"at commit {first}, as in the run that goes on" in fetch.shown
    for asked in ("me/model@main", f"me/model@{second}"):
        assert fetch(recorded, model_name_or_path=asked)["model_name_or_path"].endswith(second)
    hub.add("me/other", MODEL)
    assert "at commit" not in str(fetch(recorded, model_name_or_path="me/other")) + fetch.shown


@pytest.mark.slow
def test_models_of_a_list_stay_at_their_own_commits(hub, fetch):
    commits = [hub.add(f"me/member{number}", MODEL) for number in (1, 2)]
    asked = ["me/member1", "/here", "me/member2"]
    paths = fetch(more_reward_models=asked)["more_reward_models"]
    assert [Path(path).name for path in paths] == [commits[0], "here", commits[1]]
    recorded = places_of({"more_reward_models": paths})
    assert recorded == {
        "more_reward_models.0": f"me/member1@{commits[0]}",
        "more_reward_models.2": f"me/member2@{commits[1]}",
    }
    newer = [hub.add(f"me/member{number}", {**MODEL, "README.md": b"newer"}) for number in (1, 2)]
    again = fetch(recorded, more_reward_models=asked)["more_reward_models"]
    assert again == paths
    assert [Path(path).name for path in fetch(more_reward_models=asked)["more_reward_models"]][::2] == newer


def test_what_is_here_is_not_asked_for(hub, fetch, tmp_path):
    (tmp_path / "me" / "model").mkdir(parents=True)
    flags = {
        "base_model_name": "me/model",
        "adapter": None,
        "dataset_path": "data/prompts.json",
        "version": "a/b",
    }
    assert fetch(**flags) == flags and hub.requests == []


def test_without_a_network_the_cache_does(hub, fetch):
    hub.add("me/model", MODEL)
    hub.add("me/data", {"rows.json": b"[]"}, "dataset")
    flags = {"base_model_name": "me/model", "dataset_path": "me/data"}
    found = fetch(**flags)
    hub.requests.clear()
    assert fetch(**flags, environment=OFFLINE) == found and hub.requests == []
    assert fetch(**flags, environment={"HF_ENDPOINT": "http://127.0.0.1:9"}) == found


@pytest.mark.slow
def test_the_command_of_a_refusal_gets_it(hub, fetch, tmp_path):
    """Run as it is printed, then offline."""
    hub.add("me/both", {"sft/config.json": b"1", "sft/model.safetensors": b"w"})
    hub.add("me/data", {"a/rows.json": b"[]", "b.json": b"[]"}, "dataset")
    flags = {"base_model_name": "me/both/sft", "dataset_path": "me/data@main/a/rows.json"}
    for name, value in flags.items():
        told = fetch(**{name: value}, environment=OFFLINE)
        assert f"--{name} {value}: no such path here, HF_HUB_OFFLINE is set" in told
        words = shlex.split(told[told.index("hf download") :])
        done = subprocess.run(
            [sys.executable, "-m", "huggingface_hub.cli.hf", *words[1:]],
            env=hub.environment(tmp_path / "home", PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert Path(fetch(**{name: value}, environment=OFFLINE)[name]).exists()


REFUSED = {
    "gated": (
        "me/model",
        (403, "GatedRepo"),
        r"is gated: ask for access at .*/me/model, then run: hf auth login, and: hf download me/model$",
    ),
    "private": (
        "me/model",
        (401, "RepoNotFound"),
        "shows no model me/model to you: correct the name; if it is a private one, run: hf auth login, and: hf download me/model$",
    ),
    "forbidden": (
        "me/model",
        (403, ""),
        "your token may not read the model me/model: .*hf download me/model$",
    ),
    "broken": ("me/model", (500, ""), "it answers with status 500.* hf download me/model$"),
}


@pytest.mark.parametrize("case", tiered(REFUSED, quick=["gated", "broken"]))
def test_what_the_hub_refuses_is_told_with_the_command(case, hub, fetch):
    import re

    repo, answer, message = REFUSED[case]
    hub.add(repo, MODEL)
    hub.refused[repo] = answer
    told = fetch(base_model_name=repo)
    assert isinstance(told, str) and re.search(message, told), told
    assert told.startswith(f"--base_model_name {repo}: ") and "\n" not in told


def test_what_is_not_there_is_told(hub, fetch):
    hub.add("me/model", MODEL)
    told = fetch(adapter="me/modell")
    assert "no such path here" in told and "shows no model me/modell to you" in told
    told = fetch(adapter="me/model@v9")
    assert "has no revision v9" in told and told.endswith("hf download me/model --revision v9")
    assert "has no folder lora; it has checkpoint-5, checkpoint-5/lora_policy, lora_policy" in fetch(
        adapter="me/model/lora"
    )
    told = fetch(adapter="me/model", environment={"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert "it can't be reached (Connect" in told and told.endswith("hf download me/model")


def test_pickles_alone_are_refused_with_what_to_do(hub, fetch):
    hub.add("me/old", {"config.json": b"{}", "sft/pytorch_model.bin": b"pickle"})
    told = fetch(base_model_name="me/old")
    assert (
        "pickles only (sft/pytorch_model.bin)" in told and "scripts/convert_checkpoint.sh --input DIR" in told
    )
    assert [name for name in hub.downloaded() if name.endswith(".bin")] == []
    hub.add("me/empty", {"config.json": b"{}"})
    assert "no safetensors file among config.json" in fetch(base_model_name="me/empty")


def test_the_only_data_file_needs_no_name_and_of_several_one_does(hub, fetch):
    hub.add("me/data", {"rows.json": b"[1]", "README.md": b"", "dataset_infos.json": b"{}"}, "dataset")
    assert Path(fetch(dataset_path="me/data")["dataset_path"]).read_text() == "[1]"
    hub.add("me/data", {"rows.json": b"[1]", "captions.json": b"{}"}, "dataset")
    told = fetch(dataset_path="me/data")
    assert told.endswith("has 2 data files; write which:\n  me/data/captions.json\n  me/data/rows.json")
    found = fetch(
        image_to_caption_file="me/data/captions.json", benchmark_files=["me/data/rows.json", "x.json"]
    )
    assert [Path(path).name for path in found["benchmark_files"]] == ["rows.json", "x.json"]
    assert Path(found["image_to_caption_file"]).read_text() == "{}"
    told = fetch(dataset_path="me/data/row.json")
    assert "has no file row.json; its data files: captions.json, rows.json" in told
    hub.add("me/none", {"README.md": b""}, "dataset")
    assert "has no JSON, JSON Lines or Parquet file" in fetch(dataset_path="me/none")


def parquet(rows: list[dict]) -> bytes:
    file = io.BytesIO()
    Dataset.from_list(rows).to_parquet(file)
    return file.getvalue()


def test_parquet_becomes_json_lines(hub, fetch):
    shards = {f"data/train-0000{part}-of-00002.parquet": parquet([ROWS[part]]) for part in (0, 1)}
    commit = hub.add("me/table", {**shards, "README.md": b""}, "dataset")
    path = Path(fetch(dataset_path="me/table")["dataset_path"])
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows == [{"id": "1", "image": "a.png"}, {"id": "2", "captions": ["é"]}]
    assert path.name == "train.jsonl" and commit in path.parts
    hub.add("me/pictures", {"rows.parquet": parquet([{"id": "1", "image": {"bytes": b"png"}}])}, "dataset")
    told = fetch(dataset_path="me/pictures")
    assert "me/pictures/rows.parquet holds pictures or other bytes in image" in told

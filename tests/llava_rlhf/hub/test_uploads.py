"""`export_policy --push_to_hub` against a hub on this machine."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from llava_rlhf.exporting.model_card import without_folders
from tests.llava_rlhf.exporting.exports import write_run
from tests.support.hub_fetching import ROOT
from tests.support.hub_server import TOKEN
from tests.support.tiers import tiered
from tests.support.tiny_data import command_line

COMMIT = "0123456789" * 4


@pytest.fixture
def push(hub, tiny_base, tmp_path):
    """Export a policy and send it; (exit status, output); flags are added, `environment` set besides."""
    run = write_run(
        tiny_base, tmp_path / "run", version="tiny", dataset_path=str(tmp_path / "my data" / "rows.json")
    )

    def export(repo: str, environment: dict | None = None, **flags: object) -> tuple[int, str]:
        flags = {"base_model_name": tiny_base, "check_rows": 0, "output_dir": tmp_path / "out", **flags}
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "llava_rlhf.export_policy",
                *command_line(adapter=run, push_to_hub=repo, **flags),
            ],
            cwd=tmp_path,
            # Xet speaks to a store of its own, which a hub of plain files has not.
            env=hub.environment(
                tmp_path / "home",
                **{
                    "PYTHONPATH": str(ROOT),
                    "HF_TOKEN": TOKEN,
                    "HF_HUB_DISABLE_XET": "1",
                    **(environment or {}),
                },
            ),
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
        assert "Traceback" not in done.stderr, done.stderr[-3000:]
        return done.returncode, done.stdout + done.stderr

    return export


@pytest.mark.slow
def test_an_export_goes_up_whole_and_tells_nothing_of_this_machine(hub, push, tiny_base, tmp_path):
    status, shown = push("me/tiny-rlhf", private=True)
    assert status == 0 and f"sent it to {hub.url}/me/tiny-rlhf" in shown and "calls the base tiny" in shown
    files = hub.newest("me/tiny-rlhf")
    folder = tmp_path / "out"
    assert files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "training_arguments.json"} <= files.keys()
    assert [name for name, content in files.items() if str(tmp_path.parent).encode() in content] == []
    assert [name for name, content in files.items() if str(tiny_base.parent).encode() in content] == []
    assert json.loads(files["training_arguments.json"])["DataArguments"]["dataset_path"] == "rows.json"
    card = ModelCard(files["README.md"].decode())
    assert card.data.base_model is None and 'from_pretrained("me/tiny-rlhf")' in card.text


@pytest.mark.slow
def test_an_adapter_names_its_base_by_id_and_can_be_fetched_again(hub, push, fetch, tiny_base):
    hub.add("me/tiny-base", tiny_base)
    status, shown = push("me/tiny-adapter", base_model_name="me/tiny-base", adapter_only=True)
    assert status == 0 and "calls the base" not in shown
    files = hub.newest("me/tiny-adapter")
    assert ModelCard(files["README.md"].decode()).data.base_model == "me/tiny-base"
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "me/tiny-base"
    folder = Path(fetch(adapter="me/tiny-adapter")["adapter"])
    assert (folder / "adapter_model.safetensors").read_bytes() == files["adapter_model.safetensors"]


@pytest.mark.slow
def test_a_failed_upload_leaves_the_export_and_tells_how_to_try_again(hub, push, tmp_path):
    hub.broken.append("/commit/")
    status, shown = push("me/tiny-rlhf", private=True)
    assert status == 1 and (tmp_path / "out" / "model.safetensors").is_file()
    told = next(line for line in shown.splitlines() if line.startswith("error: "))
    words = shlex.split(told[told.index("hf upload") :])
    assert words == ["hf", "upload", "me/tiny-rlhf", str(tmp_path / "out"), ".", "--private"]
    hub.broken.clear()
    subprocess.run(
        [sys.executable, "-m", "huggingface_hub.cli.hf", *words[1:]],
        env=hub.environment(tmp_path / "home", HF_TOKEN=TOKEN, HF_HUB_DISABLE_XET="1"),
        check=True,
        capture_output=True,
    )
    assert "model.safetensors" in hub.newest("me/tiny-rlhf")


REFUSED = {
    "name": ("tiny-rlhf", {}, {}, "write owner/name"),
    "no-token": ("me/x", {"HF_TOKEN": ""}, {}, "there is no token; run: hf auth login"),
    "wrong-token": ("me/x", {"HF_TOKEN": "hf_wrong"}, {}, "does not say who you are"),
    "read-token": ("me/x", {}, {"role": "read"}, "your token may only read"),
    "other-owner": ("you/x", {}, {}, "you are me, who may write to me only"),
    "offline": ("me/x", {"HF_HUB_OFFLINE": "1"}, {}, "HF_HUB_OFFLINE is set"),
}


@pytest.mark.parametrize("case", tiered(REFUSED, quick=["no-token", "other-owner"]))
def test_what_will_not_be_taken_is_told_before_a_model_is_read(case, hub, push, tmp_path):
    repo, environment, server, message = REFUSED[case]
    for name, value in server.items():
        setattr(hub, name, value)
    status, shown = push(repo, environment, base_model_name=tmp_path / "no base is read")
    assert status == 2 and f"--push_to_hub {repo}: " in shown and re.search(message, shown), shown
    assert not (tmp_path / "out").exists()


def test_a_private_model_does_not_go_to_a_public_repository(hub, push):
    hub.add("me/public", {"README.md": b""})
    status, shown = push("me/public", private=True)
    assert status == 2 and "that repository is public already" in shown


def test_paths_of_this_machine_are_cut_off():
    cache = f"/home/me/hub/datasets--me--data/snapshots/{COMMIT}/rows.json"
    record = {"a": "/home/me/runs/x", "b": ["~/c", 3, None, "plain"], "c": {"d": cache, "e": "runs/1"}}
    found = {"a": "x", "b": ["c", 3, None, "plain"], "c": {"d": f"me/data@{COMMIT}/rows.json", "e": "runs/1"}}
    assert without_folders(record) == found

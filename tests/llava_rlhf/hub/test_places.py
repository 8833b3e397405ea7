"""Which texts mean a place on the Hub, and how a downloaded path is named."""

from __future__ import annotations

import pytest

from llava_rlhf.hub.places import (
    DOCUMENTED,
    HubPlace,
    base_name,
    hub_place,
    place_of_download,
    public_name,
)
from models import base_place

COMMIT = "0123456789" * 4


@pytest.mark.parametrize(
    ("text", "place"),
    {
        "me/tiny-base": HubPlace("me/tiny-base"),
        "me/tiny-base/": HubPlace("me/tiny-base"),
        "llava-hf/llava-1.5-7b-hf@v2": HubPlace("llava-hf/llava-1.5-7b-hf", "v2"),
        "me/x@refs/pr/3": HubPlace("me/x", "refs/pr/3"),
        "me/x@refs/pr/3/a": HubPlace("me/x", "refs/pr/3", "a"),
        "me/x/sft_model": HubPlace("me/x", None, "sft_model"),
        "me/data@abc/train/rows.json": HubPlace("me/data", "abc", "train/rows.json"),
    }.items(),
)
def test_what_is_a_place(text, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub_place(text) == place
    assert hub_place(str(place)) == place


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "./me/x",
        "../me/x",
        "/me/x",
        "~/me/x",
        "me/../x",
        "me/x/../y",
        "me/x//y",
        "data/prompts.json",
        "me/x.bin",
        "",
        "me/a--b",
        "https://huggingface.co/me/x",
        "a b/c",
    ],
)
def test_what_is_a_path(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub_place(text) is None


def test_what_is_here_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "reward").mkdir(parents=True)
    assert hub_place("runs/reward") is None and hub_place("runs/reward/checkpoint-9") is None
    assert hub_place("runs/rewards") is None
    (tmp_path / "runs" / "gone").symlink_to(tmp_path / "nowhere")
    assert hub_place("runs/gone") is None


@pytest.mark.parametrize("text", ["checkpoints/llava-7b-v1.5-224-sft", "runs/7b/reward_model", "data/rows"])
def test_what_begins_with_a_documented_folder_is_a_path(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub_place(text) is None


def test_of_every_documented_folder_it_is_known_why_something_may_be_missing():
    assert base_place.DOCUMENTED.keys() == DOCUMENTED


def test_what_begins_with_a_folder_that_is_here_is_a_path_unless_it_has_a_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub_place("llava/base") == HubPlace("llava/base")
    (tmp_path / "llava").mkdir()
    assert hub_place("llava/base") is None and hub_place("llava/base/lora") is None
    assert hub_place("llava/base@main") == HubPlace("llava/base", "main")


def test_a_downloaded_path_is_named_by_its_commit():
    path = f"/home/me/.cache/huggingface/hub/models--me--tiny-base/snapshots/{COMMIT}"
    assert place_of_download(path) == HubPlace("me/tiny-base", COMMIT)
    assert public_name(path + "/sft_model") == f"me/tiny-base@{COMMIT}/sft_model"
    assert (
        base_name(path + "/sft_model")
        == base_name(f"me/tiny-base@{COMMIT}/sft_model")
        == "me/tiny-base/sft_model"
    )
    assert public_name("/data/base") == base_name("/data/base") == "/data/base"

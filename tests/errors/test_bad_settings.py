"""Bases, adapters, heads, places to write to and command lines: refused by `prepare`, which never loads a model."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_rlhf.runs.parsing import ArgumentError
from tests.errors.documented import documented
from tests.support.tiny_models import TinyShape, save_tiny_base

ZERO2 = Path(__file__).parents[2] / "scripts" / "zero2.json"


@contextmanager
def full_disk():
    """No file of this process may grow: to a program a disk without room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def folders(unloadable_base, policy_folder, reward_folder, tmp_path):
    """folders(what): a copy of the base, the policy or the reward model, to be damaged."""
    sources = {"base": unloadable_base, "policy": policy_folder, "reward": reward_folder}
    return lambda what: shutil.copytree(sources[what], tmp_path / f"damaged {what}")


def cut_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite(path: Path, change: Callable[[dict], dict]) -> None:
    save_file(change(load_file(path)), path, {"format": "pt"})


def pickled_weights(base: Path) -> None:
    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()


def foreign_code(base: Path) -> None:
    (base / "own.py").write_text("raise SystemExit('this code was run')\nclass Own: ...\n")
    edit_json(base / "config.json", model_type="own", auto_map={"AutoConfig": "own.Own"})


WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
REWARD_HEAD = "reward_head.safetensors"
# case → which folder is damaged, and how
DAMAGED = {
    "base-without-config": ("base", lambda base: (base / "config.json").unlink()),
    "base-config-no-json": ("base", lambda base: (base / "config.json").write_text("{")),
    "base-of-another-kind": ("base", lambda base: edit_json(base / "config.json", model_type="llama")),
    "base-not-converted": (
        "base",
        lambda base: (base / "config.json").write_text('{"mm_vision_tower": "clip"}'),
    ),
    "base-config-nonsense": ("base", lambda base: edit_json(base / "config.json", vision_config=3)),
    "base-with-code": ("base", foreign_code),
    "base-in-pickles": ("base", pickled_weights),
    "base-cut-off": ("base", lambda base: cut_file(base / "model.safetensors")),
    "no-tokenizer": ("base", lambda base: (base / "tokenizer.json").unlink()),
    "tokenizer-damaged": ("base", lambda base: cut_file(base / "tokenizer.json")),
    "adapter-cut-off": ("policy", lambda folder: cut_file(folder / "lora_policy" / WEIGHTS)),
    "adapter-rank": ("policy", lambda folder: edit_json(folder / "lora_policy" / CONFIG, r=8)),
    "adapter-config-no-json": ("policy", lambda folder: (folder / "lora_policy" / CONFIG).write_text("{")),
    "adapter-no-lora": ("policy", lambda folder: edit_json(folder / "lora_policy" / CONFIG, peft_type="IA3")),
    "adapter-lacks-layer": (
        "policy",
        lambda folder: rewrite(folder / "lora_policy" / WEIGHTS, lambda state: dict(list(state.items())[1:])),
    ),
    "no-head": ("reward", lambda folder: (folder / REWARD_HEAD).unlink()),
    "head-width": (
        "reward",
        lambda folder: rewrite(folder / REWARD_HEAD, lambda state: {**state, "weight": torch.zeros(1, 128)}),
    ),
    "head-cut-off": ("reward", lambda folder: cut_file(folder / REWARD_HEAD)),
    "card-no-json": ("reward", lambda folder: (folder / "reward_model.json").write_text("{")),
    "card-wrong-type": ("reward", lambda folder: edit_json(folder / "reward_model.json", facts="yes")),
    "card-other-base": (
        "reward",
        lambda folder: edit_json(folder / "reward_model.json", base_fingerprint="0"),
    ),
    "card-other-prompt": ("reward", lambda folder: edit_json(folder / "reward_model.json", prompt="rate it")),
}
FLAG = {
    "base": "base_model_name",
    "policy": "policy_model_name_or_path",
    "reward": "reward_model_name_or_path",
}
# case → program and flags; a callable is called with the temporary folder
SETTINGS = {
    "unknown-flag": ("reward", {"lerning_rate": 1}),
    "value-no-number": ("reward", {"lora_r": "many"}),
    "missing-flag": ("reward", {"reward_prompt_file": None}),
    "not-a-choice": ("ppo", {"kl_controller": "clever"}),
    "no-data-file": ("policy", {"dataset_path": "/no/such/rows.json"}),
    "no-image-folder": ("policy", {"image_folder": "/no/such/images"}),
    "several-missing": (
        "ppo",
        {"policy_model_name_or_path": "/no/such/policy", "reward_model_name_or_path": "/no/such/reward"},
    ),
    "no-adapter": ("ppo", {"policy_model_name_or_path": "/no/such/policy"}),
    "resume-no-checkpoint": ("policy", {"resume": "/no/such/checkpoint-3"}),
    "batch-above-rows-deepspeed": ("policy", {"gradient_accumulation_steps": 5, "deepspeed": ZERO2}),
    "evaluation-takes-all": ("reward", {"eval_size": 16}),
    "prompts-below-processes": ("ppo", {"rollout_batch_size": 128, "step_batch_size": 32}),
    "rollouts-not-divided": ("ppo", {"rollout_batch_size": 6}),
    "steps-not-divided": ("ppo", {"step_batch_size": 3}),
    "no-row-left": ("policy", {"query_len": 3}),
    "output-is-a-file": ("policy", {"output_dir": lambda folder: folder / "file" / "run"}),
    # Not even an administrator can make files there.
    "output-read-only": ("policy", {"output_dir": "/proc/run"}),
    "disk-full": ("ppo", {}),
}
OTHERS = ("adapter-of-another-base", "mixed-tokenizers")
CASES = (*DAMAGED, *SETTINGS, *OTHERS)


@pytest.mark.parametrize("case", CASES)
def test_documented(case, prepare, folders, data, tiny_reward_base, tmp_path, monkeypatch):
    row = documented(__file__, case)
    program, flags = SETTINGS.get(case, ("ppo", {}))
    (tmp_path / "file").write_text("")
    flags = {name: value(tmp_path) if callable(value) else value for name, value in flags.items()}
    if case in DAMAGED:
        what, damage = DAMAGED[case]
        folder = folders(what)
        damage(folder)
        flags[FLAG[what]] = folder
    if case == "adapter-of-another-base":
        flags["base_model_name"] = tiny_reward_base
    if case == "mixed-tokenizers":
        base = save_tiny_base(tmp_path / "other", TinyShape(seed=7))
        text = (base / "tokenizer.json").read_text()
        (base / "tokenizer.json").write_text(text.replace('"▁cat"', '"▁kitten"'))
        flags["base_model_name"] = base
    if case == "prompts-below-processes":
        monkeypatch.setenv("WORLD_SIZE", "32")
    with full_disk() if case == "disk-full" else pytest.raises(ValueError, match=row.pattern):
        if case == "disk-full":
            with pytest.raises(ValueError, match=row.pattern):
                prepare(program, **flags)
        else:
            prepare(program, **flags)
    assert row.skipped == "–" and not (tmp_path / "run").exists()


def test_the_undamaged_copies_pass(prepare, folders):
    flags = {FLAG[what]: folders(what) for what in FLAG}
    assert len(prepare("ppo", **flags).prompts) == 16


def test_a_misspelt_flag_is_an_argument_error(prepare):
    with pytest.raises(ArgumentError, match="--learning_rate"):
        prepare("reward", lerning_rate=1)


def test_full_disks_are_gone_afterwards(tmp_path):
    with full_disk(), pytest.raises(OSError, match="too large"):
        (tmp_path / "a").write_bytes(b"x" * 10)
    (tmp_path / "b").write_bytes(b"x" * 10)


def test_code_that_comes_with_a_llava_is_not_run(prepare, folders):
    base = folders("base")
    (base / "own.py").write_text("raise SystemExit('this code was run')\nclass Own: ...\n")
    edit_json(base / "config.json", auto_map={"AutoConfig": "own.Own", "AutoModel": "own.Own"})
    edit_json(base / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Own", "own.Own"]})
    assert len(prepare("policy", model_name_or_path=base).train_set) == 16

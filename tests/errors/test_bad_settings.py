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
ZERO3 = Path(__file__).parents[2] / "scripts" / "zero3.json"
SERVER = "http://127.0.0.1:9"  # nobody is asked


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
    "head-of-another-kind": (
        "reward",
        lambda folder: edit_json(folder / "reward_model.json", reward_head="mlp"),
    ),
    "card-unknown-head": (
        "reward",
        lambda folder: edit_json(folder / "reward_model.json", reward_head="tree"),
    ),
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
MENTIONS = {"fact_reward": "mentions"}


def words(folder: Path, text: str) -> Path:
    (folder / "words.txt").write_text(text)
    return folder / "words.txt"


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
    "samples-from-parts": ("ppo", {"deepspeed": ZERO3}),
    "cache-of-parts": (
        "ppo",
        {"deepspeed": ZERO3, "feature_cache": "cache", "rollout_engine": "vllm", "vllm_servers": SERVER},
    ),
    "policy-rests-under-deepspeed": ("ppo", {"value_warmup_steps": 1, "deepspeed": ZERO2}),
    "no-gradient-of-a-kl": ("ppo", {"kl_placement": "loss"}),
    "entropy-not-computed": ("ppo", {"entropy_coef": 0.01, "log_entropy": False}),
    "nothing-to-correct": ("ppo", {"importance_correction": "truncated"}),
    "cap-below-1": ("ppo", {"importance_correction": "truncated", "importance_cap": 0.5}),
    "cap-of-nothing": ("ppo", {"importance_cap": 3}),
    "all-means-are-one": ("ppo", {"loss_normalization": "sequence", "numerics": "published"}),
    "critic-without-schedule": ("ppo", {"value_learning_rate": 1e-3, "learning_rate": 0}),
    "critic-without-facts": ("ppo", {"value_sees_facts": True, "facts": False, "allow_prompt_change": True}),
    "sentences-in-groups": (
        "ppo",
        {"advantage_estimator": "rloo", "samples_per_prompt": 4, "reward_placement": "sentence"},
    ),
    "discount-in-groups": (
        "ppo",
        {"advantage_estimator": "grpo", "samples_per_prompt": 4, "gamma": 0.9},
    ),
    "policy-never-moves": ("ppo", {"value_warmup_steps": 99}),
    "group-of-one": ("ppo", {"advantage_estimator": "rloo"}),
    "cut-groups": ("ppo", {"samples_per_prompt": 3}),
    "critic-flags-without-critic": (
        "ppo",
        {"advantage_estimator": "reinforce", "normalize_returns": True, "lam": 0.9},
    ),
    "whitened-groups": (
        "ppo",
        {"advantage_estimator": "grpo", "samples_per_prompt": 4, "whiten_advantages": True},
    ),
    "whitened-rewards-again": ("ppo", {"normalize_returns": True, "whiten_rewards": True}),
    "spread-without-groups": ("ppo", {"divide_by_group_spread": False}),
    "beta-of-one": ("ppo", {"ensemble_beta": 0.5}),
    "beta-below-0": ("ppo", {"ensemble_beta": -1, "more_reward_models": ["/a"]}),
    "fact-flags-without-reward": ("ppo", {"fact_wrong_score": -2}),
    "no-score-left": ("ppo", {"reward_model_coef": 0}),
    "silence-pays": ("ppo", {**MENTIONS, "fact_right_score": 0, "fact_coverage_score": 0}),
    "mistakes-pay": ("ppo", {**MENTIONS, "fact_wrong_score": 1}),
    "facts-name-nothing": ("ppo", {**MENTIONS, "fact_words": "shapes"}),
    "no-place-for-a-thing": (
        "ppo",
        {**MENTIONS, "unmentioned": "ask_picture", "picture_question": "what is there?"},
    ),
    "nothing-is-asked": ("ppo", {**MENTIONS, "picture_question": "is it a {thing}?"}),
    "asked-in-parts": (
        "ppo",
        {
            **MENTIONS,
            "unmentioned": "ask_picture",
            "deepspeed": ZERO3,
            "rollout_engine": "vllm",
            "vllm_servers": SERVER,
        },
    ),
    "no-synonyms": ("ppo", {**MENTIONS, "fact_synonyms": "/no/such/words.txt"}),
    "synonyms-of-two": ("ppo", {**MENTIONS, "fact_synonyms": lambda folder: words(folder, "kitty, dog\n")}),
    "synonyms-without-letters": ("ppo", {**MENTIONS, "fact_synonyms": lambda folder: words(folder, "犬\n")}),
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

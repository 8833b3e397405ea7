"""Every program that takes a base refuses the same wrong ones in the same words, before anything else is said of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from llava_rlhf import (
    answer_prompts,
    chat,
    collect_preferences,
    convert_checkpoint,
    demo,
    evaluate,
    export_policy,
    plan_memory,
    score,
)
from tests.errors.test_bad_bases import DAMAGED
from tests.support.tiny_data import command_line

# case → what every program says; the first four are told by `config.json` alone
KINDS = {
    "siglip": "the vision tower 'siglip_vision_model' is not supported",
    "pixtral": "the vision tower 'pixtral' is not supported",
    "stored-awq": "the weights are stored as awq",
    "original-lora": "is a LoRA of an original LLaVA",
    "unknown-family": r"model_type 'video_llava' is not a LLaVA .*model in Hugging Face format",
    "cache-root": r"name its snapshots/<id>, .*/snapshots/abc123",
}
PARTS = {
    "processor-size": r"processor_config\.json makes images of 56 x 56 pixels, the vision tower takes 28 x 28",
    "image-token": "image_token_index 4000 is none of the",
    "no-projector": r"lack multi_modal_projector\.linear_2\.weight",
    "weights-in-lfs": "git lfs pull",
}
HUB_ID = "llava-hf/llava-1.5-7b-hf"
DOWNLOAD = f"HF_HUB_OFFLINE is set.* hf download {HUB_ID}$"


@pytest.fixture
def programs(data, prepare, policy_folder, reward_folder, tmp_path):
    """Program → a function of a base that prepares it."""
    shared = {"version": "tiny", "use_cpu": True}
    rows = {"dataset_path": data.prompts, "image_folder": data.images, **shared}
    file = tmp_path / "out.jsonl"
    image = sorted(data.images.iterdir())[0].name
    pope = tmp_path / "pope.json"
    pope.write_text(json.dumps({"question_id": 1, "image": image, "text": "is it a cat?", "label": "yes"}))
    original = tmp_path / "original"
    original.mkdir()
    (original / "adapter_config.json").write_text("{}")
    torch.save({}, original / "adapter_model.bin")

    def run(program, *first, **flags):
        return program.prepare([*first, *command_line(**flags)])

    return {
        "train_reward_model": lambda base: prepare("reward", model_name_or_path=base),
        "initialize_policy_model": lambda base: prepare("policy", model_name_or_path=base),
        "train_rl_model": lambda base: prepare("ppo", base_model_name=base),
        "train_rl_model (reward base)": lambda base: prepare("ppo", reward_base_model_name=base),
        "answer_prompts": lambda base: run(answer_prompts, base_model_name=base, output_file=file, **rows),
        "evaluate": lambda base: run(
            evaluate,
            "answer",
            benchmark="pope",
            benchmark_files=pope,
            image_folder=data.images,
            **{"base_model_name": base, "output_file": file, **shared},
        ),
        "score": lambda base: run(
            score,
            reward_model_name_or_path=reward_folder,
            base_model_name=base,
            output_file=file,
            **rows | {"dataset_path": data.preferences},
        ),
        "chat": lambda base: run(chat, base_model_name=base, **shared),
        "demo": lambda base: run(demo, checkpoints=f"a={base}", **shared),
        "demo (reward base)": lambda base: run(
            demo,
            checkpoints=f"a={prepare('policy').training.model_name_or_path}",
            reward_model_name_or_path=reward_folder,
            reward_base_model_name=base,
            **shared,
        ),
        "collect_preferences": lambda base: run(
            collect_preferences, base_model_name=base, output_dir=tmp_path / "collected", **rows
        ),
        "export_policy": lambda base: run(
            export_policy, base_model_name=base, adapter=policy_folder, output_dir=tmp_path / "merged"
        ),
        "convert_checkpoint": lambda base: run(
            convert_checkpoint, input=original, base_model=base, output=tmp_path / "converted"
        ),
        "plan_memory": lambda base: run(plan_memory, "initialize_policy_model", model_name_or_path=base),
    }


def told(programs: dict, base: str | Path, message: str, leave_out: tuple[str, ...] = ()) -> None:
    silent = []
    for name, start in programs.items():
        if name in leave_out:
            continue
        try:
            with pytest.raises(ValueError, match=message):
                start(base)
        except (AssertionError, pytest.fail.Exception) as error:
            silent.append(f"{name}: {error}")
    assert not silent, "\n".join(silent)


@pytest.mark.parametrize("case", [*KINDS, *PARTS])
def test_every_program_says_what_the_base_is(case, programs, unloadable_base, tmp_path):
    base = shutil.copytree(unloadable_base, tmp_path / "base")
    DAMAGED[case](base)
    # These two read `config.json` alone.
    told(
        programs,
        base,
        {**KINDS, **PARTS}[case],
        () if case in KINDS else ("convert_checkpoint", "plan_memory"),
    )


def test_every_program_tells_how_to_get_a_model_of_the_hub(programs):
    told(programs, HUB_ID, DOWNLOAD, leave_out=("plan_memory",))  # which needs no base


def test_every_program_tells_how_to_convert_an_original(programs, unloadable_base, tmp_path):
    base = tmp_path / "original base"
    base.mkdir()
    (base / "config.json").write_text('{"model_type": "llava", "mm_vision_tower": "clip"}')
    told(programs, base, r"bash scripts/convert_checkpoint\.sh --input '.*original base' --vision_tower DIR")

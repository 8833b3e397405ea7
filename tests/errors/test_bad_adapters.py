"""Adapters that hold or are more than LoRA on the language model: told as that, not as an adapter of another base."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.errors.documented import documented
from tests.errors.test_bad_bases import LFS, edit

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MODEL = "base_model.model."
TOWER = MODEL + "model.vision_tower.encoder.layers.0.self_attn.q_proj"
PROJECTOR = MODEL + "model.multi_modal_projector.linear_1"
QUERY = MODEL + "model.language_model.layers.0.self_attn.q_proj"


def config(**changes) -> Callable[[Path], None]:
    return lambda folder: edit(folder / CONFIG, **changes)


def tensors(*names: str) -> Callable[[Path], None]:
    """With these tensors besides."""

    def change(folder: Path) -> None:
        state = load_file(folder / WEIGHTS) | {name: torch.ones(4, 32) for name in names}
        save_file(state, folder / WEIGHTS, {"format": "pt"})

    return change


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()


def only_a_model(folder: Path) -> None:
    (folder / CONFIG).rename(folder / "config.json")


# case → what becomes of a copy of the policy's adapter
DAMAGED: dict[str, Callable[[Path], None]] = {
    "tower-layers": tensors(f"{TOWER}.lora_A.weight", f"{TOWER}.lora_B.weight"),
    "tower-layers-in-old-names": tensors(
        MODEL + "vision_tower.vision_model.encoder.layers.0.mlp.fc1.lora_A.weight"
    ),
    "projector-layers": tensors(f"{PROJECTOR}.lora_A.weight", f"{PROJECTOR}.lora_B.weight"),
    "lm-head": tensors(f"{MODEL}lm_head.lora_A.weight"),
    "lm-head-in-old-names": tensors(f"{MODEL}language_model.lm_head.lora_A.weight"),
    "embeddings": tensors(f"{MODEL}model.language_model.embed_tokens.lora_embedding_A"),
    "whole-weights": tensors(f"{MODEL}model.language_model.embed_tokens.weight"),
    "dora": config(use_dora=True),
    "dora-by-its-tensors": tensors(f"{QUERY}.lora_magnitude_vector"),
    "saved-modules": config(modules_to_save=["multi_modal_projector"]),
    "biases": config(bias="all"),
    "biases-by-their-tensors": tensors(f"{QUERY}.base_layer.bias"),
    "token-rows": config(trainable_token_indices=[1, 2]),
    "other-method": config(peft_type="LOHA"),
    "pickle": pickled,
    "weights-in-lfs": lambda folder: (folder / WEIGHTS).write_text(LFS),
    "model-as-adapter": only_a_model,
}
PLACES = {"hub-id": "somebody/llava-lora", "home": "~/no/such/lora"}
CASES = (*DAMAGED, *PLACES)


@pytest.mark.parametrize("case", CASES)
def test_documented(case, prepare, policy_folder, tmp_path):
    row = documented(__file__, case)
    folder = shutil.copytree(policy_folder / "lora_policy", tmp_path / "adapter")
    if case in DAMAGED:
        DAMAGED[case](folder)
    with pytest.raises(ValueError, match=row.pattern) as refused:
        prepare("ppo", policy_model_name_or_path=PLACES.get(case, folder))
    assert "was trained on another base" not in str(refused.value)
    assert row.skipped == "–" and not (tmp_path / "run").exists()

"""What adapters and heads of the original say of themselves, and their numbers: what can't be right is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llava_rlhf.conversion.adapter_layouts import PPO_KIND, find_original
from llava_rlhf.conversion.adapters import AdapterConversion, plan_to_ours
from tests.llava_rlhf.conversion.original_adapters import write_adapter, write_policy, write_reward_model


def plan(source: Path, base: Path) -> AdapterConversion:
    files = find_original(source)
    return plan_to_ours(files, dict.fromkeys(files.adapters, str(base)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bias": "all"}, "bias is 'all', can convert plain LoRA only: 'none'"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save is \['lm_head'\]"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is True"),
        ({"layers_to_transform": [0]}, r"layers_to_transform is \[0\]"),
        ({"use_rslora": True}, "use_rslora is True"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern is"),
        ({"enable_lora": [True]}, "enable_lora is"),
        ({"peft_type": "ADALORA"}, "peft_type is 'ADALORA', can convert LORA only"),
        ({"task_type": "SEQ_CLS"}, "task_type is 'SEQ_CLS', can convert CAUSAL_LM only"),
        ({"r": 0}, "r is 0, must be a positive integer"),
        ({"r": True}, "r is True, must be a positive integer"),
        ({"lora_alpha": None}, "lora_alpha is None, must be a number"),
        ({"lora_alpha": 0}, "lora_alpha is 0, must be a number above 0"),
        ({"lora_alpha": -6}, "lora_alpha is -6, must be a number above 0"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan, must be a number above 0"),
        ({"lora_alpha": float("inf")}, "lora_alpha is inf, must be a number above 0"),
        ({"lora_dropout": 1}, "lora_dropout is 1, must be at least 0 and below 1"),
        (
            {"target_modules": ["q_proj", "lm_head"]},
            r"target_modules is \['q_proj', 'lm_head'\], must list some of q_",
        ),
        ({"target_modules": ["q_proj", "q_proj"]}, "target_modules is"),
        ({"target_modules": ".*q_proj"}, r"target_modules is '\.\*q_proj'"),
        ({"target_modules": None}, "target_modules is None"),
    ],
)
def test_settings_beyond_plain_lora_are_refused(fields, message, small_base, weights, tmp_path):
    write_adapter(tmp_path / "lora_default", weights, **fields)
    with pytest.raises(ValueError, match=f"lora_default/adapter_config.json: {message}"):
        plan(tmp_path, small_base)


@pytest.mark.parametrize(
    "fields", [{"enable_lora": None, "merge_weights": False}, {"use_rslora": False, "alpha_pattern": {}}]
)
def test_settings_that_are_off_do_no_harm(fields, small_base, weights, tmp_path):
    """Fields of older and newer PEFT versions."""
    write_adapter(tmp_path / "lora_default", weights, **fields)
    plan(tmp_path, small_base)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"weight": torch.ones(1, 64), "bias": torch.ones(1)}, r"holds .*\[1, 64\].*should hold .*\[1, 48\]"),
        ({"weight": torch.ones(1, 48)}, "not a head"),
        ({"weight": torch.ones(2, 48), "bias": torch.ones(2)}, "not a head"),
        ({"weight": [1.0], "bias": torch.ones(1)}, "not a dense tensor"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(head, message, small_base, weights, tmp_path):
    source = write_reward_model(tmp_path / "reward", weights)
    torch.save(head, source / "reward_head")
    with pytest.raises(ValueError, match=f"reward/reward_head.*{message}"):
        plan(source, small_base)


def test_a_pickle_that_runs_code_is_refused(small_base, weights, tmp_path):
    source = write_policy(tmp_path / "policy", weights)
    torch.save({"weights": Path("/")}, source / "lora_default" / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"adapter_model.bin: its pickle wants to"):
        plan(source, small_base)


@pytest.mark.parametrize("ending", ["bin", "safetensors"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.to(torch.int8), r"1 tensor\(s\) hold values that are no floating-point numbers: .*q_proj.lora_B"),
        (lambda value: value.index_fill(0, torch.tensor([5]), float("nan")), r".*not finite \(nan or inf\): .*q_proj.lora_B"),
        (lambda value: value.index_fill(0, torch.tensor([5]), -float("inf")), r".*not finite \(nan or inf\): .*q_proj.lora_B"),
    ],
    ids=["int8", "nan", "inf"],
)  # fmt: skip
def test_adapters_hold_finite_floating_point_numbers(change, message, ending, small_base, weights, tmp_path):
    name = next(name for name in weights if "q_proj.lora_B" in name)
    write_adapter(tmp_path / "lora_default", {**weights, name: change(weights[name])}, ending)
    with pytest.raises(ValueError, match=rf"lora_default/adapter_model\.{ending}: {message}"):
        plan(tmp_path, small_base)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.ones(1, 48, dtype=torch.int64), "no floating-point numbers: weight"),
        (torch.full((1, 48), float("nan")), r"not finite \(nan or inf\): weight"),
    ],
)
def test_heads_hold_finite_floating_point_numbers(
    weight, message, small_base, weights, checkpoints, tmp_path
):
    source = write_reward_model(tmp_path / "reward", weights)
    heads = {source: "reward_head", checkpoints[PPO_KIND]: "value_head.pt"}
    for folder, name in heads.items():
        torch.save({"weight": weight, "bias": torch.ones(1)}, folder / name)
        with pytest.raises(ValueError, match=f"{name}: 1 tensor.s. hold values that are {message}"):
            plan(folder, small_base)


def test_half_precision_is_as_good(small_base, weights, tmp_path):
    write_adapter(tmp_path / "lora_default", {name: value.bfloat16() for name, value in weights.items()})
    plan(tmp_path, small_base).write(tmp_path / "ours")

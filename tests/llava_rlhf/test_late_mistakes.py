"""Mistakes that would cost hours if they were noticed after the models are loaded."""

from __future__ import annotations

import json

import pytest
import torch

from llava_rlhf.ppo.arguments import RewardArguments
from llava_rlhf.runs.arguments import ModelArguments
from llava_rlhf.runs.run_folder import delete_rollouts, write_rollouts
from models.adapter_files import check_adapter_fits
from models.heads import ScalarHead
from tests.support.ppo_settings import ppo_arguments


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cliprange": -0.1}, "--cliprange -0.1: must be at least 0"),
        ({"gamma": 1.5}, "--gamma 1.5: must be from 0 to 1"),
        ({"max_grad_norm": 0.0}, "--max_grad_norm 0.0: must be above 0"),
        ({"report_to": "tensorbord"}, "--report_to tensorbord: choose from none, tensorboard, wandb"),
        ({"fp16": True, "use_cpu": True}, "--fp16 needs CUDA"),
        ({"deepspeed": "absent.json"}, "--deepspeed absent.json: not a DeepSpeed configuration"),
    ],
)
def test_ppo_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ppo_arguments(**changes)


def test_ppo_takes_zero_3_where_others_sample_and_zero_2_always(tmp_path):
    path = tmp_path / "zero.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    divided = ppo_arguments(deepspeed=str(path))
    with pytest.raises(ValueError, match="use stage 2"):
        divided.check_engine("local")
    divided.check_engine("vllm")
    assert divided.divides_base
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    whole = ppo_arguments(deepspeed=str(path))
    assert whole.deepspeed_config() == {"zero_optimization": {"stage": 2}} and not whole.divides_base
    whole.check_engine("local")


@pytest.mark.parametrize("changes", [{"kl_coef": -1.0}, {"kl_controller": "adaptive", "kl_horizon": 0}])
def test_kl_settings_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match="--kl_"):
        RewardArguments(**changes)


def test_flash_attention_is_refused_where_it_cannot_run():
    arguments = ModelArguments(attn_implementation="flash_attention_2")
    with pytest.raises(ValueError, match="flash_attention_2 needs CUDA"):
        arguments.check_attention(bf16=True, fp16=False, use_cpu=True)
    ModelArguments().check_attention(bf16=False, fp16=False, use_cpu=True)


def test_an_adapter_of_another_base_is_refused_by_its_header(policy_run, tiny_base, tiny_reward_base):
    adapter = policy_run / "lora_policy"
    check_adapter_fits(adapter, tiny_base)
    with pytest.raises(
        ValueError,
        match=r"was trained on another base than .*hidden size 128\), or is not whole. In .*: 28 of another",
    ):
        check_adapter_fits(adapter, tiny_reward_base)


def test_a_head_that_was_cast_to_bfloat16_still_computes_in_float32():
    head = ScalarHead(8)
    hidden = torch.randn(3, 8, dtype=torch.bfloat16)
    expected = hidden.float() @ head.linear.weight.bfloat16().float().T
    scores = head.bfloat16()(hidden)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected.squeeze(-1))


def test_rollouts_of_steps_that_will_be_done_again_are_deleted(tmp_path):
    for step in (1, 2, 3):
        write_rollouts(tmp_path, step, [{"row": step}])
    delete_rollouts(tmp_path, 2)
    assert [path.name for path in sorted((tmp_path / "rollouts").iterdir())] == [
        "000001.jsonl",
        "000002.jsonl",
    ]

"""The scripts for 8 GPUs pass the published hyper-parameters, as the real parsers read them; all of them with RECIPE=published."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.distributed.run import parse_args as parse_torchrun

from llava_rlhf.ppo.arguments import PPOArguments
from llava_rlhf.ppo.batch_plan import plan_batches
from tests.support.recorded_scripts import LARGE, parsed

# The published hyper-parameters of arXiv 2309.14525's scripts, by hand. `warmup_steps` below 1 is a share of all steps.
LENGTHS = {"query_len": 1280, "response_len": 768, "model_max_length": 2048}
ADAPTER = {"lora_r": 64, "lora_alpha": 16.0, "lora_dropout": 0.0, "bits": 16, "bf16": True}
DATA = {"version": "v1", "image_aspect_ratio": "pad"}
REWARD_MODEL = {
    "learning_rate": 2e-5,
    "lr_scheduler_type": "constant_with_warmup",
    "warmup_steps": 0.03,
    "num_train_epochs": 1.0,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 50,
    "save_steps": 50,
    "save_total_limit": 10,
    "eval_size": 500,
    "load_best_model_at_end": True,
    "metric_for_best_model": "accuracy",
    "greater_is_better": True,
}
POLICY_INIT = {
    "learning_rate": 1e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.03,
    "num_train_epochs": 1.0,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 50,
    "save_strategy": "epoch",
    "eval_size": 500,
}
PPO = {
    "learning_rate": 3e-5,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 5,
    "total_epochs": 4,
    "rollout_batch_size": 512,
    "rollout_per_device_batch_size": 32,
    "step_batch_size": 256,
    "step_per_device_batch_size": 16,
    "reward_model_per_device_batch_size": 16,
    "noptepochs": 2,
    "query_len": 128,
    "response_len": 896,
    "model_max_length": 2048,
    "save_steps": 10,
    "bits": 4,
    "kl_coef": 0.1,
    "max_grad_norm": 1.0,
    "penalty_reward_value": -8.0,
    "length_bonus_score": -10.0,
    "correct_bonus_score": 2.0,
    "temperature": 1.0,
    "vf_coef": 0.1,
    "cliprange": 0.2,
    "cliprange_value": 0.2,
    "init_value_with_reward": True,
    "optim": "paged_adamw_32bit",
    "quant_type": "nf4",
    "double_quant": True,
    "penalize_no_stop_token": True,
    "relative_stop_token_penalty": True,
    "whiten_rewards": False,
    "reward_scale": 10.0,
    "kl_estimator": "k1_clamped",
    "kl_controller": "fixed",
    "gamma": 1.0,
    "lam": 1.0,
    "stop_at_question_mark": False,
    "max_steps": -1,
    "facts": True,
    "bf16": True,
}
PUBLISHED = {
    "13b-v1.5-336/train_reward_model.sh": REWARD_MODEL | LENGTHS | ADAPTER | DATA | {"facts": True},
    "13b-v1.5-336/initialize_policy_model.sh": POLICY_INIT | LENGTHS | ADAPTER | DATA,
    "7b-v1.5-224/initialize_policy_model.sh": POLICY_INIT | LENGTHS | ADAPTER | DATA,
    "13b-v1.5-336/train_rl_model.sh": PPO | DATA,
    "7b-v1.5-224/train_rl_model.sh": PPO | DATA | {"rollout_per_device_batch_size": 64},
}


@pytest.mark.parametrize("script", LARGE)
def test_large_scripts_pass_the_published_hyper_parameters(script, runner, tmp_path):
    (call,) = runner.run(script, "--use_cpu", "True", DATA_DIR=str(tmp_path / "my data"))
    settings = parsed(call, tmp_path)
    expected = PUBLISHED[script]
    assert {name: settings[name] for name in expected} == expected
    topology = parse_torchrun(list(call.words))
    assert (topology.nnodes, topology.nproc_per_node, topology.standalone) == ("1", "8", True)
    assert (topology.module, topology.training_script) == (True, call.module)
    assert settings["output_dir"] == str(runner.checkout / "runs" / script.split("/")[0] / role_of(script))
    assert settings["use_cpu"] is True  # what follows the script's name comes last


# What the default recipe changes of them, and nothing else.
MODERN = {"recipe": "modern", "normalize_returns": True, "value_sees_facts": True}
AS_IN_2023 = {
    "recipe": "published",
    "normalize_returns": False,
    "value_sees_facts": False,
    "advantage_estimator": "gae",
    "samples_per_prompt": 1,
    "whiten_advantages": None,
    "value_warmup_steps": 0,
    "value_learning_rate": None,
}


@pytest.mark.parametrize("script", [name for name in LARGE if "rl_model" in name])
def test_the_recipe_of_2023_is_one_variable_away(script, runner, tmp_path):
    data = str(tmp_path / "my data")
    (call,), (named,) = (
        runner.run(script, "--use_cpu", "True", DATA_DIR=data, **said)
        for said in ({}, {"RECIPE": "published"})
    )
    modern, published = parsed(call, tmp_path), parsed(named, tmp_path)
    assert {name for name in modern if modern[name] != published[name]} == set(MODERN)
    assert {name: modern[name] for name in MODERN} == MODERN
    expected = PUBLISHED[script] | AS_IN_2023
    assert {name: published[name] for name in expected} == expected


def role_of(script: str) -> str:
    names = {"train_reward_model": "reward_model", "initialize_policy_model": "policy_init"}
    return names.get(Path(script).stem, "rl_model")


@pytest.mark.parametrize("script", [name for name in LARGE if "rl_model" in name])
def test_large_ppo_batches_fit_8_gpus(script, runner, tmp_path):
    (call,) = runner.run(script, "--use_cpu", "True", DATA_DIR=str(tmp_path / "my data"))
    settings = parsed(call, tmp_path)
    ppo = PPOArguments(**{name: settings[name] for name in PPOArguments.__dataclass_fields__})
    plan = plan_batches(ppo, world_size=8, n_prompts=72_000)
    # 512 / 8 = 64 rollouts a GPU; 512 / 256 = 2 steps a pass; 256 / (8 × 16) = 2; 72000 // 512 × 4 = 560
    assert (plan.rollouts, plan.optimizer_steps, plan.ppo_steps) == (64, 2, 560)


def test_the_7b_policy_has_a_reward_model_on_the_13b_base(runner):
    (small,) = runner.run("7b-v1.5-224/train_rl_model.sh")
    (large,) = runner.run("13b-v1.5-336/train_rl_model.sh")
    (reward_model,) = runner.run("13b-v1.5-336/train_reward_model.sh")
    assert small.value("base_model_name") != small.value("reward_base_model_name")
    assert small.value("reward_base_model_name") == reward_model.value("model_name_or_path")
    assert large.value("base_model_name") == large.value("reward_base_model_name")
    for call in (small, large):
        assert call.value("reward_model_name_or_path") == reward_model.value("output_dir")
        assert call.value("reward_prompt_file") == reward_model.value("reward_prompt_file")

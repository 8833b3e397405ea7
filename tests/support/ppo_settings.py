"""Settings of PPO that several tests share; no model is loaded for them."""

from __future__ import annotations

from typing import Any

from llava_rlhf.ppo.arguments import PPOArguments

# A run whose every kind of state changes: learning rate, KL coefficient, order of the rows of a second pass.
PPO_WITH_STATE = {
    "max_steps": 4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 2,
    "kl_controller": "adaptive",
    "kl_horizon": 40,
    "noptepochs": 2,
    "step_per_device_batch_size": 2,
}


def ppo_arguments(**changes: Any) -> PPOArguments:
    """PPO with its defaults, and names of what need not be there."""
    names = ("base_model_name", "policy_model_name_or_path", "reward_model_name_or_path", "output_dir")
    return PPOArguments(**dict.fromkeys(names, "x"), **changes)

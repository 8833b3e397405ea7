"""Settings of PPO that several tests share; no model is loaded for them."""

from __future__ import annotations

from typing import Any

from llava_rlhf.ppo.arguments import PPOArguments

# A run whose every kind of state changes: learning rate, KL coefficient, the critic's units, order of the rows of a
# second pass.
PPO_WITH_STATE = {
    "max_steps": 4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 2,
    "kl_controller": "adaptive",
    "kl_horizon": 40,
    "normalize_returns": True,
    "noptepochs": 2,
    "step_per_device_batch_size": 2,
}

# All that the policy's loss offers beside the published one.
ANOTHER_LOSS = {
    "cliprange": 0.01,
    "cliprange_high": 0.02,
    "dual_clip": 1.015,
    "loss_normalization": "sequence",
    "kl_placement": "loss",
    "kl_estimator": "k3",
    "kl_coef": 0.5,
    "entropy_coef": 0.1,
    "advantage_clip": 1.0,
    "overlong_responses": "mask",
    "update_kl_limit": 1e-7,
    "noptepochs": 3,
}


def ppo_arguments(**changes: Any) -> PPOArguments:
    """PPO with its defaults, and names of what need not be there."""
    names = ("base_model_name", "policy_model_name_or_path", "reward_model_name_or_path", "output_dir")
    return PPOArguments(**dict.fromkeys(names, "x"), **changes)

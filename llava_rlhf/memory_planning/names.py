"""What can be planned: programs, and the bases that were published. Loads no torch."""

from __future__ import annotations

REWARD_MODEL, POLICY_INIT, PPO = "train_reward_model", "initialize_policy_model", "train_rl_model"
PROGRAMS = (REWARD_MODEL, POLICY_INIT, PPO)
# Hidden and inner width, layers, heads, image side.
SHAPES = {
    "7b-v1.5-224": (4096, 11008, 32, 32, 224),
    "7b-v1.5-336": (4096, 11008, 32, 32, 336),
    "13b-v1.5-336": (5120, 13824, 40, 40, 336),
}

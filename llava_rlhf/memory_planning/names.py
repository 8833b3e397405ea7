"""What can be planned: programs, and with which pictures where nobody says. Loads no torch."""

from __future__ import annotations

REWARD_MODEL, POLICY_INIT, PPO = "train_reward_model", "initialize_policy_model", "train_rl_model"
PROGRAMS = (REWARD_MODEL, POLICY_INIT, PPO)
PICTURE_SIZE = (1024, 1024)  # width and height, where they decide how many positions a picture takes

#!/usr/bin/env bash
# PPO of the tiny policy against the factual reward model, or the plain one (FACTS=False).
#
# Hardware: CPU, one core a process, 2 GB of memory. Time: 1 minute (estimated).
# Two processes: NUM_PROCESSES=2 ROLLOUT_PER_DEVICE_BATCH_SIZE=32 STEP_PER_DEVICE_BATCH_SIZE=16.
# Needs: make_world.sh, train_sft.sh, sample_preferences.sh, train_reward_model.sh, initialize_policy_model.sh.
# Variables written as "${NAME:-value}" can be set in the environment; flags on the command line are passed on and win.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
source "$(dirname -- "${BASH_SOURCE[0]}")/../launch/training.sh"

FACTS="${FACTS:-True}" # False: the reward model sees no captions
set_kind

WORLD_DIR="${WORLD_DIR:-$RUN_DIR/world}"
BASE_MODEL="${BASE_MODEL:-${SFT_MODEL:-$RUN_DIR/sft/merged}}"
POLICY_MODEL="${POLICY_MODEL:-$RUN_DIR/policy_init}"
REWARD_MODEL="${REWARD_MODEL:-$RUN_DIR/${KIND}reward_model}"
PROMPTS="${PROMPTS:-$WORLD_DIR/prompts.json}"
CAPTIONS="${CAPTIONS:-$WORLD_DIR/image_to_caption.json}"
IMAGE_FOLDER="${IMAGE_FOLDER:-$WORLD_DIR/images}"
REWARD_PROMPT="${REWARD_PROMPT:-$ROOT/prompts/tiny_${KIND}reward_prompt.txt}"
OUTPUT_DIR="${OUTPUT_DIR:-$RUN_DIR/${KIND}rl_model}"
SEED="${SEED:-0}"

# Batches: prompts per PPO step and rollouts per optimizer step (all processes), and what one process does at once
EPOCHS="${EPOCHS:-4}"
MAX_STEPS="${MAX_STEPS:-24}"
ROLLOUT_BATCH_SIZE="${ROLLOUT_BATCH_SIZE:-64}"
STEP_BATCH_SIZE="${STEP_BATCH_SIZE:-32}"
ROLLOUT_PER_DEVICE_BATCH_SIZE="${ROLLOUT_PER_DEVICE_BATCH_SIZE:-64}"
REWARD_MODEL_PER_DEVICE_BATCH_SIZE="${REWARD_MODEL_PER_DEVICE_BATCH_SIZE:-64}"
STEP_PER_DEVICE_BATCH_SIZE="${STEP_PER_DEVICE_BATCH_SIZE:-32}"
NOPTEPOCHS="${NOPTEPOCHS:-2}"

# Optimisation
LEARNING_RATE="${LEARNING_RATE:-5e-4}"
LR_SCHEDULER="${LR_SCHEDULER:-constant}"
WARMUP_STEPS="${WARMUP_STEPS:-0}"
MAX_GRAD_NORM="${MAX_GRAD_NORM:-1.0}"
OPTIM="${OPTIM:-adamw_torch_fused}"
VF_COEF="${VF_COEF:-0.1}"
CLIPRANGE="${CLIPRANGE:-0.2}"
CLIPRANGE_VALUE="${CLIPRANGE_VALUE:-0.2}"
INIT_VALUE_WITH_REWARD="${INIT_VALUE_WITH_REWARD:-True}"

# Reward
KL_COEF="${KL_COEF:-0.1}"
PENALTY="${PENALTY:--8.0}" # no stop token
LENGTH_BONUS="${LENGTH_BONUS:--1.0}" # times length / RESPONSE_LEN
CORRECT_BONUS="${CORRECT_BONUS:-2.0}"
TEMPERATURE="${TEMPERATURE:-1.0}"

# Model, lengths in tokens (one image = one token), checkpoints
BITS="${BITS:-16}"
QUERY_LEN="${QUERY_LEN:-40}"
RESPONSE_LEN="${RESPONSE_LEN:-28}"
MODEL_MAX_LENGTH="${MODEL_MAX_LENGTH:-256}"
SAVE_STEPS="${SAVE_STEPS:-12}"

# Fixed, whatever the environment says
GRADIENT_CHECKPOINTING=False
SAVE_TOTAL_LIMIT=2
REWARD_BASE_MODEL="" # empty: the base of the policy

train_rl_model "$@"

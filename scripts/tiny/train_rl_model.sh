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
MORE_REWARD_MODELS="${MORE_REWARD_MODELS:-}" # of the same base, separated by commas: all score together; empty: none
PROMPTS="${PROMPTS:-$WORLD_DIR/prompts.json}"
CAPTIONS="${CAPTIONS:-$WORLD_DIR/image_to_caption.json}"
MORE_FACTS="${MORE_FACTS:-}" # facts beside captions (docs/facts.md), the same as of the reward model; empty: none
IMAGE_FOLDER="${IMAGE_FOLDER:-$WORLD_DIR/images}"
REWARD_PROMPT="${REWARD_PROMPT:-$ROOT/prompts/tiny_${KIND}reward_prompt.txt}"
OUTPUT_DIR="${OUTPUT_DIR:-$RUN_DIR/${KIND}rl_model}"
SEED="${SEED:-0}"

# Batches: rollouts per PPO step and rollouts per optimizer step (all processes), and what one process does at once
EPOCHS="${EPOCHS:-4}"
MAX_STEPS="${MAX_STEPS:-24}"
ROLLOUT_BATCH_SIZE="${ROLLOUT_BATCH_SIZE:-64}"
STEP_BATCH_SIZE="${STEP_BATCH_SIZE:-32}"
ROLLOUT_PER_DEVICE_BATCH_SIZE="${ROLLOUT_PER_DEVICE_BATCH_SIZE:-64}"
REWARD_MODEL_PER_DEVICE_BATCH_SIZE="${REWARD_MODEL_PER_DEVICE_BATCH_SIZE:-64}"
STEP_PER_DEVICE_BATCH_SIZE="${STEP_PER_DEVICE_BATCH_SIZE:-32}"
NOPTEPOCHS="${NOPTEPOCHS:-2}"

# Who answers prompts: the policy itself, or servers (vllm; scripts/serve_policy.sh) that VLLM_SERVERS names, separated by commas
ROLLOUT_ENGINE="${ROLLOUT_ENGINE:-local}"
VLLM_SERVERS="${VLLM_SERVERS:-}"
VLLM_SLEEP="${VLLM_SLEEP:-}" # True: they share GPUs with training, and sleep while it computes (SLEEP=True there)

# Optimisation: how advantages are estimated (gae: a critic; rloo, grpo, reinforce: none is loaded), and the rest. RECIPE=modern
# was measured at 1e-3, RECIPE=published, as in 2023, at 5e-4: docs/optimisers.md.
RECIPE="${RECIPE:-modern}"
if [ "$RECIPE" = published ]; then MEASURED_RATE=5e-4; else MEASURED_RATE=1e-3; fi
ADVANTAGE_ESTIMATOR="${ADVANTAGE_ESTIMATOR:-gae}"
SAMPLES_PER_PROMPT="${SAMPLES_PER_PROMPT:-1}" # rloo and grpo need several
LEARNING_RATE="${LEARNING_RATE:-$MEASURED_RATE}"
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
FACT_REWARD="${FACT_REWARD:-none}" # mentions: things that an answer names are paid by the facts, as the next two say; claims: its sentences are (docs/facts.md)
FACT_WORDS="${FACT_WORDS:-shapes}"
UNMENTIONED="${UNMENTIONED:-penalise}" # captions of the tiny world name all there is
PICTURE_QUESTION="${PICTURE_QUESTION:-}" # of mentions and UNMENTIONED=ask_picture
CLAIM_JUDGE_URL="${CLAIM_JUDGE_URL:-}" # who judges claims, with CLAIM_JUDGE_NAME; empty: the reward model's base
CLAIM_JUDGE_NAME="${CLAIM_JUDGE_NAME:-}" # the model, as that endpoint calls it
if [ "$UNMENTIONED$PICTURE_QUESTION" = ask_picture ]; then PICTURE_QUESTION="is there a {thing} in the image?"; fi # in its words
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

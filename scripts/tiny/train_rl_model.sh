#!/usr/bin/env bash
# PPO of the tiny policy against the factual reward model, or the plain one (FACTS=False).
#
# Hardware: CPU, one core a process, 2 GB of memory. Time: 1 minute (estimated).
# Two processes: NUM_PROCESSES=2 ROLLOUT_PER_DEVICE_BATCH_SIZE=32 STEP_PER_DEVICE_BATCH_SIZE=16.
# Needs: make_world.sh, train_sft.sh, sample_preferences.sh, train_reward_model.sh, initialize_policy_model.sh.
# Every variable below can be set in the environment; flags on the command line are passed on and win.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

FACTS="${FACTS:-True}" # False: the reward model sees no captions
case "$FACTS" in True) KIND=fact_ ;; False) KIND= ;; *) echo "error: FACTS=$FACTS: True or False" >&2; exit 2 ;; esac

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
absolute WORLD_DIR BASE_MODEL POLICY_MODEL REWARD_MODEL PROMPTS CAPTIONS IMAGE_FOLDER REWARD_PROMPT OUTPUT_DIR

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

launch llava_rlhf.train_rl_model \
    --base_model_name "$BASE_MODEL" \
    --policy_model_name_or_path "$POLICY_MODEL" \
    --reward_model_name_or_path "$REWARD_MODEL" \
    --dataset_path "$PROMPTS" \
    --image_folder "$IMAGE_FOLDER" \
    --image_to_caption_file "$CAPTIONS" \
    --reward_prompt_file "$REWARD_PROMPT" \
    --facts "$FACTS" \
    --output_dir "$OUTPUT_DIR" \
    --version tiny \
    --query_len "$QUERY_LEN" \
    --response_len "$RESPONSE_LEN" \
    --model_max_length "$MODEL_MAX_LENGTH" \
    --total_epochs "$EPOCHS" \
    --max_steps "$MAX_STEPS" \
    --rollout_batch_size "$ROLLOUT_BATCH_SIZE" \
    --step_batch_size "$STEP_BATCH_SIZE" \
    --rollout_per_device_batch_size "$ROLLOUT_PER_DEVICE_BATCH_SIZE" \
    --reward_model_per_device_batch_size "$REWARD_MODEL_PER_DEVICE_BATCH_SIZE" \
    --step_per_device_batch_size "$STEP_PER_DEVICE_BATCH_SIZE" \
    --noptepochs "$NOPTEPOCHS" \
    --learning_rate "$LEARNING_RATE" \
    --lr_scheduler_type "$LR_SCHEDULER" \
    --warmup_steps "$WARMUP_STEPS" \
    --max_grad_norm "$MAX_GRAD_NORM" \
    --optim "$OPTIM" \
    --vf_coef "$VF_COEF" \
    --cliprange "$CLIPRANGE" \
    --cliprange_value "$CLIPRANGE_VALUE" \
    --init_value_with_reward "$INIT_VALUE_WITH_REWARD" \
    --kl_coef "$KL_COEF" \
    --penalize_no_stop_token True \
    --relative_stop_token_penalty True \
    --penalty_reward_value "$PENALTY" \
    --length_bonus_score "$LENGTH_BONUS" \
    --correct_bonus_score "$CORRECT_BONUS" \
    --whiten_rewards False \
    --temperature "$TEMPERATURE" \
    --bits "$BITS" \
    --gradient_checkpointing False \
    --save_steps "$SAVE_STEPS" \
    --save_total_limit 2 \
    --use_cpu True \
    --seed "$SEED" \
    "$@"

#!/usr/bin/env bash
# Train the tiny reward model: with the captions in its prompt, or without them (FACTS=False).
#
# Hardware: CPU, one core a process, 2 GB of memory. Time: 2 minutes (estimated).
# Two processes: NUM_PROCESSES=2 BATCH_SIZE=12. Needs: make_world.sh, train_sft.sh, sample_preferences.sh.
# Every variable below can be set in the environment; flags on the command line are passed on and win.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

FACTS="${FACTS:-True}" # False: the reward model sees no captions
case "$FACTS" in True) KIND=fact_ ;; False) KIND= ;; *) echo "error: FACTS=$FACTS: True or False" >&2; exit 2 ;; esac

WORLD_DIR="${WORLD_DIR:-$RUN_DIR/world}"
BASE_MODEL="${BASE_MODEL:-${SFT_MODEL:-$RUN_DIR/sft/merged}}"
PREFERENCES="${PREFERENCES:-$RUN_DIR/preferences/preferences.json}"
CAPTIONS="${CAPTIONS:-$WORLD_DIR/image_to_caption.json}"
IMAGE_FOLDER="${IMAGE_FOLDER:-$WORLD_DIR/images}"
REWARD_PROMPT="${REWARD_PROMPT:-$ROOT/prompts/tiny_${KIND}reward_prompt.txt}"
OUTPUT_DIR="${OUTPUT_DIR:-$RUN_DIR/${KIND}reward_model}"
SEED="${SEED:-0}"
absolute WORLD_DIR BASE_MODEL PREFERENCES CAPTIONS IMAGE_FOLDER REWARD_PROMPT OUTPUT_DIR

LEARNING_RATE="${LEARNING_RATE:-2e-3}"
LR_SCHEDULER="${LR_SCHEDULER:-cosine}"
WARMUP="${WARMUP:-0.03}" # below 1: share of all steps
MAX_STEPS="${MAX_STEPS:-500}"
BATCH_SIZE="${BATCH_SIZE:-24}"
ACCUMULATION="${ACCUMULATION:-1}"
MAX_GRAD_NORM="${MAX_GRAD_NORM:-1.0}"
LORA_R="${LORA_R:-32}"
LORA_ALPHA="${LORA_ALPHA:-16}"
BITS="${BITS:-16}"
QUERY_LEN="${QUERY_LEN:-40}"
RESPONSE_LEN="${RESPONSE_LEN:-28}"
MODEL_MAX_LENGTH="${MODEL_MAX_LENGTH:-256}"
EVAL_SIZE="${EVAL_SIZE:-600}"
EVAL_STEPS="${EVAL_STEPS:-100}"
SAVE_STEPS="${SAVE_STEPS:-100}"
LOGGING_STEPS="${LOGGING_STEPS:-10}"

launch llava_rlhf.train_reward_model \
    --model_name_or_path "$BASE_MODEL" \
    --dataset_path "$PREFERENCES" \
    --image_folder "$IMAGE_FOLDER" \
    --image_to_caption_file "$CAPTIONS" \
    --reward_prompt_file "$REWARD_PROMPT" \
    --facts "$FACTS" \
    --output_dir "$OUTPUT_DIR" \
    --version tiny \
    --query_len "$QUERY_LEN" \
    --response_len "$RESPONSE_LEN" \
    --model_max_length "$MODEL_MAX_LENGTH" \
    --bits "$BITS" \
    --lora_r "$LORA_R" \
    --lora_alpha "$LORA_ALPHA" \
    --learning_rate "$LEARNING_RATE" \
    --lr_scheduler_type "$LR_SCHEDULER" \
    --warmup_steps "$WARMUP" \
    --max_grad_norm "$MAX_GRAD_NORM" \
    --max_steps "$MAX_STEPS" \
    --per_device_train_batch_size "$BATCH_SIZE" \
    --per_device_eval_batch_size 64 \
    --gradient_accumulation_steps "$ACCUMULATION" \
    --eval_size "$EVAL_SIZE" \
    --eval_strategy steps \
    --eval_steps "$EVAL_STEPS" \
    --save_strategy steps \
    --save_steps "$SAVE_STEPS" \
    --save_total_limit 2 \
    --load_best_model_at_end True \
    --metric_for_best_model accuracy \
    --logging_steps "$LOGGING_STEPS" \
    --use_cpu True \
    --seed "$SEED" \
    "$@"

#!/usr/bin/env bash
# Supervised fine-tuning on noisy annotations, so that the tiny model hallucinates as a real LLaVA does.
#
# The adapter is trained by initialize_policy_model.py and then merged: OUTPUT_DIR/merged is an ordinary Hugging Face
# model, the base of everything that follows.
#
# Hardware: CPU, one core a process, 2 GB of memory. Time: 1 minute (estimated).
# Two processes: NUM_PROCESSES=2 BATCH_SIZE=16. Needs: make_world.sh.
# Variables written as "${NAME:-value}" can be set in the environment; flags on the command line are passed on and win.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
source "$(dirname -- "${BASH_SOURCE[0]}")/../launch/training.sh"

WORLD_DIR="${WORLD_DIR:-$RUN_DIR/world}"
BASE_MODEL="${BASE_MODEL:-$TINY_BASE}"
OUTPUT_DIR="${OUTPUT_DIR:-$RUN_DIR/sft}"
SEED="${SEED:-0}"

LEARNING_RATE="${LEARNING_RATE:-2e-3}"
LR_SCHEDULER="${LR_SCHEDULER:-cosine}"
WARMUP="${WARMUP:-0.03}" # below 1: share of all steps
EPOCHS="${EPOCHS:-2}"
MAX_STEPS="${MAX_STEPS:--1}" # -1: as EPOCHS says
BATCH_SIZE="${BATCH_SIZE:-32}"
ACCUMULATION="${ACCUMULATION:-1}"
MAX_GRAD_NORM="${MAX_GRAD_NORM:-1.0}"
LORA_R="${LORA_R:-32}"
LORA_ALPHA="${LORA_ALPHA:-16}"
BITS="${BITS:-16}"
MODEL_MAX_LENGTH="${MODEL_MAX_LENGTH:-256}"
LOGGING_STEPS="${LOGGING_STEPS:-10}"

# Fixed, whatever the environment says
DIALOGUES="$WORLD_DIR/sft.json"
OBJECTIVE=sft
PREFERENCES="" POLICY_MODEL="" # of another objective
IMAGE_FOLDER="$WORLD_DIR/images"
QUERY_LEN="$MODEL_MAX_LENGTH"
RESPONSE_LEN="$MODEL_MAX_LENGTH"
EVAL_SIZE=0
SAVE_STRATEGY=no
DEEPSPEED="" GRADIENT_CHECKPOINTING="" EVAL_BATCH_SIZE="" EVAL_STEPS="" SAVE_TOTAL_LIMIT="" # empty: the program's default

initialize_policy_model "$@"

start rm -rf -- "$OUTPUT_DIR/merged" # of an earlier training
tool llava_rlhf.export_policy \
    --base_model_name "$BASE_MODEL" \
    --adapter "$OUTPUT_DIR" \
    --output_dir "$OUTPUT_DIR/merged"

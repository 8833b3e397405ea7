#!/usr/bin/env bash
# Train the tiny reward model: with the captions in its prompt, or without them (FACTS=False).
#
# Hardware: CPU, one core a process, 2 GB of memory. Time: 2 minutes (estimated).
# Two processes: NUM_PROCESSES=2 BATCH_SIZE=12. Needs: make_world.sh, train_sft.sh, sample_preferences.sh.
# Variables written as "${NAME:-value}" can be set in the environment; flags on the command line are passed on and win.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
source "$(dirname -- "${BASH_SOURCE[0]}")/../launch/training.sh"

FACTS="${FACTS:-True}" # False: the reward model sees no captions
set_kind

WORLD_DIR="${WORLD_DIR:-$RUN_DIR/world}"
BASE_MODEL="${BASE_MODEL:-${SFT_MODEL:-$RUN_DIR/sft/merged}}"
PREFERENCES="${PREFERENCES:-$RUN_DIR/preferences/preferences.json}"
CAPTIONS="${CAPTIONS:-$WORLD_DIR/image_to_caption.json}"
MORE_FACTS="${MORE_FACTS:-}" # facts beside captions (docs/facts.md); empty: none
IMAGE_FOLDER="${IMAGE_FOLDER:-$WORLD_DIR/images}"
REWARD_PROMPT="${REWARD_PROMPT:-$ROOT/prompts/tiny_${KIND}reward_prompt.txt}"
OUTPUT_DIR="${OUTPUT_DIR:-$RUN_DIR/${KIND}reward_model}"
SEED="${SEED:-0}"

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

# Fixed, whatever the environment says
EVAL_BATCH_SIZE=64
SAVE_TOTAL_LIMIT=2
EPOCHS="" GRADIENT_CHECKPOINTING="" # empty: the program's default

train_reward_model "$@"

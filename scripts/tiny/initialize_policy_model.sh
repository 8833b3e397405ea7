#!/usr/bin/env bash
# Initialise the tiny policy: one epoch of LoRA supervised fine-tuning on top of the SFT model.
#
# Hardware: CPU, one core a process, 2 GB of memory. Time: 10 s (estimated).
# Two processes: NUM_PROCESSES=2 BATCH_SIZE=16.
# DeepSpeed: LAUNCHER=torchrun, and --deepspeed scripts/zero2.json. Needs: make_world.sh, train_sft.sh.
# Variables written as "${NAME:-value}" can be set in the environment; flags on the command line are passed on and win.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
source "$(dirname -- "${BASH_SOURCE[0]}")/../launch/training.sh"

WORLD_DIR="${WORLD_DIR:-$RUN_DIR/world}"
BASE_MODEL="${BASE_MODEL:-${SFT_MODEL:-$RUN_DIR/sft/merged}}"
DIALOGUES="${DIALOGUES:-$WORLD_DIR/policy_init.json}"
PREFERENCES="${PREFERENCES:-$RUN_DIR/preferences/preferences.json}" # read by OBJECTIVE=dpo
POLICY_MODEL="${POLICY_MODEL:-}" # what OBJECTIVE=dpo starts from and is held to; empty: the base
IMAGE_FOLDER="${IMAGE_FOLDER:-$WORLD_DIR/images}"
OUTPUT_DIR="${OUTPUT_DIR:-$RUN_DIR/policy_init}"
SEED="${SEED:-0}"

OBJECTIVE="${OBJECTIVE:-sft}" # dpo: learn from PREFERENCES (docs/dpo.md), with a LEARNING_RATE far below this
DPO_BETA="${DPO_BETA:-0.1}"
LEARNING_RATE="${LEARNING_RATE:-1e-3}"
LR_SCHEDULER="${LR_SCHEDULER:-cosine}"
WARMUP="${WARMUP:-0.03}" # below 1: share of all steps
EPOCHS="${EPOCHS:-1}"
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
QUERY_LEN="$MODEL_MAX_LENGTH"
RESPONSE_LEN="$MODEL_MAX_LENGTH"
EVAL_SIZE=0
SAVE_STRATEGY=no
DEEPSPEED="" GRADIENT_CHECKPOINTING="" EVAL_BATCH_SIZE="" EVAL_STEPS="" SAVE_TOTAL_LIMIT="" # empty: the program's default

initialize_policy_model "$@"

#!/usr/bin/env bash
# Train a 7B-224 reward model on one card of 24 GB: LoRA + scalar head on a 4-bit base, captions in its prompt.
#
# Hardware: 1 GPU of 24 GB. Memory: 13.8 GiB (planned, nothing was measured on a GPU). Time: not measured.
# The published reward model stands on 13B at 336 px, in 16 bits; this one stands on the policy's base, so that PPO holds one
# base for both. Pairs an optimizer step are the published 32. docs/one_24gb_card.md says what fits.
# Variables written as "${NAME:-value}" can be set in the environment; flags on the command line are passed on and win.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/../common.sh"
source "$(dirname -- "${BASH_SOURCE[0]}")/../launch/training.sh"

# Paths: the SFT LLaVA (7B, 224 px) in Hugging Face format, the published data, COCO train2017 images.
DATA_DIR="${DATA_DIR:-$ROOT/data}"
BASE_MODEL="${BASE_MODEL:-$ROOT/checkpoints/llava-7b-v1.5-224-sft}"
PREFERENCES="${PREFERENCES:-$DATA_DIR/llava_7b_v1_preference.json}"
CAPTIONS="${CAPTIONS:-$DATA_DIR/image_to_caption.json}"
MORE_FACTS="${MORE_FACTS:-}" # facts beside captions (docs/facts.md); empty: none
IMAGE_FOLDER="${IMAGE_FOLDER:-$DATA_DIR/coco/train2017}"
REWARD_PROMPT="${REWARD_PROMPT:-$ROOT/prompts/fact_rlhf_reward_prompt.txt}"
OUTPUT_DIR="${OUTPUT_DIR:-$ROOT/runs/7b-1x24gb/reward_model}"

# Processes
NUM_PROCESSES="${NUM_GPUS:-1}"

# Optimisation: 1 GPU × 2 pairs × 16, where 8 GPUs take 4 pairs × 1: fewer at once fit, and a step sees the same 32
LEARNING_RATE="${LEARNING_RATE:-2e-5}"
LR_SCHEDULER="${LR_SCHEDULER:-constant_with_warmup}"
WARMUP="${WARMUP:-0.03}" # below 1: share of all steps
EPOCHS="${EPOCHS:-1}"
MAX_STEPS="${MAX_STEPS:--1}" # -1: as EPOCHS says
BATCH_SIZE="${BATCH_SIZE:-2}"
EVAL_BATCH_SIZE="${EVAL_BATCH_SIZE:-2}"
ACCUMULATION="${ACCUMULATION:-16}"
SEED="${SEED:-42}"

# Lengths in tokens, one image = one token
QUERY_LEN="${QUERY_LEN:-1280}"
RESPONSE_LEN="${RESPONSE_LEN:-768}"
MODEL_MAX_LENGTH="${MODEL_MAX_LENGTH:-2048}"

# Model; 4 bits in place of 16: the base takes 4 GiB and not 13, and is the one that PPO loads
BITS="${BITS:-4}"
BF16="${BF16:-True}"
LORA_R="${LORA_R:-64}"
LORA_ALPHA="${LORA_ALPHA:-16}"
GRADIENT_CHECKPOINTING="${GRADIENT_CHECKPOINTING:-True}"

# Evaluation, checkpoints, logs; OUTPUT_DIR/checkpoint-200 is what the published policies were trained with
EVAL_SIZE="${EVAL_SIZE:-500}"
EVAL_STEPS="${EVAL_STEPS:-50}"
SAVE_STEPS="${SAVE_STEPS:-50}"
SAVE_TOTAL_LIMIT="${SAVE_TOTAL_LIMIT:-10}"
REPORT_TO="${REPORT_TO:-tensorboard}"
DATALOADER_WORKERS="${DATALOADER_WORKERS:-4}" # processes that decode images, for each GPU

# Fixed, whatever the environment says
VERSION=v1 # template of the prompts
IMAGE_ASPECT_RATIO=pad
MIN_PIXELS="" MAX_PIXELS="" # of pictures that keep their shape
FACTS="" MAX_GRAD_NORM="" LOGGING_STEPS="" USE_CPU="" # empty: the program's default

train_reward_model "$@"

#!/usr/bin/env bash
# Train a Qwen2.5-VL-3B reward model on one card of 24 GB: LoRA + scalar head, captions in its prompt.
#
# Hardware: 1 GPU of 24 GB. Memory: 14.9 GiB (planned for pictures of 640x640 pixels, nothing was measured on a GPU).
# Time: not measured.
# It stands on the policy's base, so that PPO holds one base for both. Pairs an optimizer step are the published 32. The
# published pairs are answers of a LLaVA: a policy that writes otherwise may want pairs of its own answers.
# Variables written as "${NAME:-value}" can be set in the environment; flags on the command line are passed on and win.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/../common.sh"
source "$(dirname -- "${BASH_SOURCE[0]}")/../launch/training.sh"

# Paths: the instruct model on the Hugging Face Hub, or a folder, the published data, COCO train2017 images.
DATA_DIR="${DATA_DIR:-$ROOT/data}"
BASE_MODEL="${BASE_MODEL:-Qwen/Qwen2.5-VL-3B-Instruct}"
PREFERENCES="${PREFERENCES:-$DATA_DIR/llava_7b_v1_preference.json}"
CAPTIONS="${CAPTIONS:-$DATA_DIR/image_to_caption.json}"
MORE_FACTS="${MORE_FACTS:-}" # facts beside captions (docs/facts.md); empty: none
IMAGE_FOLDER="${IMAGE_FOLDER:-$DATA_DIR/coco/train2017}"
REWARD_PROMPT="${REWARD_PROMPT:-$ROOT/prompts/fact_rlhf_reward_prompt.txt}"
OUTPUT_DIR="${OUTPUT_DIR:-$ROOT/runs/qwen2.5-vl-3b-1x24gb/reward_model}"

# Processes
NUM_PROCESSES="${NUM_GPUS:-1}"

# Optimisation: 1 GPU × 2 pairs × 16, where 8 GPUs take 4 pairs × 1: fewer at once fit, and a step sees the same 32. Rates and
# LoRA are those published for LLaVA; nothing was tuned for this base
LEARNING_RATE="${LEARNING_RATE:-2e-5}"
LR_SCHEDULER="${LR_SCHEDULER:-constant_with_warmup}"
WARMUP="${WARMUP:-0.03}" # below 1: share of all steps
EPOCHS="${EPOCHS:-1}"
MAX_STEPS="${MAX_STEPS:--1}" # -1: as EPOCHS says
BATCH_SIZE="${BATCH_SIZE:-2}"
EVAL_BATCH_SIZE="${EVAL_BATCH_SIZE:-2}"
ACCUMULATION="${ACCUMULATION:-16}"
SEED="${SEED:-42}"

# Lengths in tokens. QUERY_LEN counts an image as one, MODEL_MAX_LENGTH all its positions: the published 2048 of text, and 576
# as a picture of LLaVA took. A picture of COCO takes up to 531 (640x640 pixels); a row that is longer is left out.
QUERY_LEN="${QUERY_LEN:-1280}"
RESPONSE_LEN="${RESPONSE_LEN:-768}"
MODEL_MAX_LENGTH="${MODEL_MAX_LENGTH:-2624}"

# Size of a picture in pixels, of which a position takes 784 (28x28): pictures above MAX_PIXELS are made smaller, so that they
# take less memory and time, and show less. The same in all four scripts: a model is not asked with others than its own.
MIN_PIXELS="${MIN_PIXELS:-}" # empty: what the image processor of the base says
MAX_PIXELS="${MAX_PIXELS:-}"

# Model; 16 bits: the base takes 7 GiB, which fits, and nothing is lost to quantisation
BITS="${BITS:-16}"
BF16="${BF16:-True}"
LORA_R="${LORA_R:-64}"
LORA_ALPHA="${LORA_ALPHA:-16}"
GRADIENT_CHECKPOINTING="${GRADIENT_CHECKPOINTING:-True}"

# Evaluation, checkpoints, logs
EVAL_SIZE="${EVAL_SIZE:-500}"
EVAL_STEPS="${EVAL_STEPS:-50}"
SAVE_STEPS="${SAVE_STEPS:-50}"
SAVE_TOTAL_LIMIT="${SAVE_TOTAL_LIMIT:-10}"
REPORT_TO="${REPORT_TO:-tensorboard}"
DATALOADER_WORKERS="${DATALOADER_WORKERS:-4}" # processes that decode images, for each GPU

# Fixed, whatever the environment says
VERSION=chat # the template of the base itself
IMAGE_ASPECT_RATIO="" # pictures keep their shape
FACTS="" MAX_GRAD_NORM="" LOGGING_STEPS="" USE_CPU="" # empty: the program's default

train_reward_model "$@"

#!/usr/bin/env bash
# Train the 13B-336 reward model: LoRA + scalar head on pairs of responses, with the image's captions in its prompt.
#
# Hardware: 8 GPUs of 80 GB. Memory: about 50 GB a GPU (estimated). Time: about 1 hour (estimated).
# Early stop: the published policies were trained with checkpoint-200 of this run. Every checkpoint is evaluated; the run
# folder itself holds the one with the best accuracy in the end, and OUTPUT_DIR/checkpoint-200 is the published choice.
# Several nodes: run it on every node with NNODES=2 NODE_RANK=0 (1, ...) MASTER_ADDR=<address of node 0>.
# Variables written as "${NAME:-value}" can be set in the environment; flags on the command line are passed on and win.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/../common.sh"
source "$(dirname -- "${BASH_SOURCE[0]}")/../launch/training.sh"

# Paths: the SFT LLaVA (13B, 336 px) in Hugging Face format, the published data, COCO train2017 images.
DATA_DIR="${DATA_DIR:-$ROOT/data}"
BASE_MODEL="${BASE_MODEL:-$ROOT/checkpoints/llava-13b-v1.5-336-sft}"
PREFERENCES="${PREFERENCES:-$DATA_DIR/llava_7b_v1_preference.json}"
CAPTIONS="${CAPTIONS:-$DATA_DIR/image_to_caption.json}"
MORE_FACTS="${MORE_FACTS:-}" # facts beside captions (docs/facts.md); empty: none
IMAGE_FOLDER="${IMAGE_FOLDER:-$DATA_DIR/coco/train2017}"
REWARD_PROMPT="${REWARD_PROMPT:-$ROOT/prompts/fact_rlhf_reward_prompt.txt}"
OUTPUT_DIR="${OUTPUT_DIR:-$ROOT/runs/13b-v1.5-336/reward_model}"

# Processes
NUM_PROCESSES="${NUM_GPUS:-8}"

# Optimisation: 8 GPUs × 4 pairs × 1
LEARNING_RATE="${LEARNING_RATE:-2e-5}"
LR_SCHEDULER="${LR_SCHEDULER:-constant_with_warmup}"
WARMUP="${WARMUP:-0.03}" # below 1: share of all steps
EPOCHS="${EPOCHS:-1}"
MAX_STEPS="${MAX_STEPS:--1}" # -1: as EPOCHS says
BATCH_SIZE="${BATCH_SIZE:-4}"
EVAL_BATCH_SIZE="${EVAL_BATCH_SIZE:-4}"
ACCUMULATION="${ACCUMULATION:-1}"
SEED="${SEED:-42}"

# Lengths in tokens, one image = one token
QUERY_LEN="${QUERY_LEN:-1280}"
RESPONSE_LEN="${RESPONSE_LEN:-768}"
MODEL_MAX_LENGTH="${MODEL_MAX_LENGTH:-2048}"

# Model
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
VERSION=v1 # template of the prompts
IMAGE_ASPECT_RATIO=pad
MIN_PIXELS="" MAX_PIXELS="" # of pictures that keep their shape
FACTS="" MAX_GRAD_NORM="" LOGGING_STEPS="" USE_CPU="" # empty: the program's default

train_reward_model "$@"

#!/usr/bin/env bash
# Initialise the 7B-224 policy on one card of 24 GB: one epoch of LoRA fine-tuning on multi-turn dialogues, on a 4-bit base.
#
# Hardware: 1 GPU of 24 GB. Memory: 13.8 GiB (planned, nothing was measured on a GPU). Time: not measured.
# Dialogues an optimizer step are the published 128; DeepSpeed is off, since one process has nothing to share.
# docs/one_24gb_card.md says what fits.
# Variables written as "${NAME:-value}" can be set in the environment; flags on the command line are passed on and win.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/../common.sh"
source "$(dirname -- "${BASH_SOURCE[0]}")/../launch/training.sh"

# Paths: the SFT LLaVA (7B, 224 px) in Hugging Face format, the published data, COCO train2017 images.
DATA_DIR="${DATA_DIR:-$ROOT/data}"
BASE_MODEL="${BASE_MODEL:-$ROOT/checkpoints/llava-7b-v1.5-224-sft}"
DIALOGUES="${DIALOGUES:-$DATA_DIR/llava_reward10k-aokvqa5k.json}"
PREFERENCES="${PREFERENCES:-$DATA_DIR/llava_7b_v1_preference.json}" # read by OBJECTIVE=dpo
POLICY_MODEL="${POLICY_MODEL:-}" # what OBJECTIVE=dpo starts from and is held to; empty: the base
IMAGE_FOLDER="${IMAGE_FOLDER:-$DATA_DIR/coco/train2017}"
OUTPUT_DIR="${OUTPUT_DIR:-$ROOT/runs/7b-1x24gb/policy_init}"
DEEPSPEED="${DEEPSPEED:-}" # published: scripts/zero2.json

# Processes
NUM_PROCESSES="${NUM_GPUS:-1}"

# Optimisation: 1 GPU × 4 dialogues × 32, where 8 GPUs take 8 × 2: fewer at once fit, and a step sees the same 128
OBJECTIVE="${OBJECTIVE:-sft}" # dpo: learn from PREFERENCES (docs/dpo.md), with a LEARNING_RATE far below this
DPO_BETA="${DPO_BETA:-0.1}"
LEARNING_RATE="${LEARNING_RATE:-1e-4}"
LR_SCHEDULER="${LR_SCHEDULER:-cosine}"
WARMUP="${WARMUP:-0.03}" # below 1: share of all steps
EPOCHS="${EPOCHS:-1}"
MAX_STEPS="${MAX_STEPS:--1}" # -1: as EPOCHS says
BATCH_SIZE="${BATCH_SIZE:-4}"
EVAL_BATCH_SIZE="${EVAL_BATCH_SIZE:-4}"
ACCUMULATION="${ACCUMULATION:-32}"
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

# Evaluation and logs; a checkpoint at the end of the epoch
EVAL_SIZE="${EVAL_SIZE:-500}"
EVAL_STEPS="${EVAL_STEPS:-50}"
REPORT_TO="${REPORT_TO:-tensorboard}"
DATALOADER_WORKERS="${DATALOADER_WORKERS:-4}" # processes that decode images, for each GPU

# Fixed, whatever the environment says
VERSION=v1 # template of the prompts
IMAGE_ASPECT_RATIO=pad
MIN_PIXELS="" MAX_PIXELS="" # of pictures that keep their shape
SAVE_STRATEGY=epoch
SAVE_TOTAL_LIMIT=1
MAX_GRAD_NORM="" LOGGING_STEPS="" USE_CPU="" # empty: the program's default

initialize_policy_model "$@"

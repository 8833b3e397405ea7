#!/usr/bin/env bash
# Score a preference file or an answers file with a reward model; prints accuracy, margin and calibration.
#
# Hardware: one GPU of 80 GB for a 13B reward model in bfloat16 (estimated), or BITS=4 for a smaller one. The bundled
# tiny models run on the CPU: add --use_cpu True --bf16 False.
# Time: about half an hour for 10 000 pairs at 13B (estimated).
# Prompt, template, image mode and base are those of reward_model.json; a flag that says otherwise is refused.
# Every variable below can be set in the environment; flags on the command line are passed on and win.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
source "$(dirname -- "${BASH_SOURCE[0]}")/launch/training.sh"

DATA_DIR="${DATA_DIR:-$ROOT/data}"
REWARD_MODEL="${REWARD_MODEL:-$ROOT/runs/13b-v1.5-336/reward_model}"
MORE_REWARD_MODELS="${MORE_REWARD_MODELS:-}" # of the same base, separated by commas: all score together; empty: none
BASE_MODEL="${BASE_MODEL:-}" # empty: the one that reward_model.json names
DATASET="${DATASET:-$DATA_DIR/llava_7b_v1_preference.json}" # or answers of answer_prompts
CAPTIONS="${CAPTIONS-$DATA_DIR/image_to_caption.json}" # empty: captions come with the rows, or the reward model reads none
IMAGE_FOLDER="${IMAGE_FOLDER:-$DATA_DIR/coco/train2017}"
OUTPUT_FILE="${OUTPUT_FILE:-$ROOT/runs/scores/$(basename -- "$DATASET").scores.jsonl}"
absolute DATA_DIR REWARD_MODEL BASE_MODEL DATASET CAPTIONS IMAGE_FOLDER OUTPUT_FILE

BATCH_SIZE="${BATCH_SIZE:-16}"
QUERY_LEN="${QUERY_LEN:-1280}"
RESPONSE_LEN="${RESPONSE_LEN:-768}"
MODEL_MAX_LENGTH="${MODEL_MAX_LENGTH:-2048}"
BITS="${BITS:-16}"
BF16="${BF16:-True}"
SEED="${SEED:-42}" # of the caption order; as in training

flags=()
more_reward_models

start "$PYTHON" -m llava_rlhf.score \
    --reward_model_name_or_path "$REWARD_MODEL" \
    ${BASE_MODEL:+--base_model_name "$BASE_MODEL"} \
    --dataset_path "$DATASET" \
    --image_folder "$IMAGE_FOLDER" \
    ${CAPTIONS:+--image_to_caption_file "$CAPTIONS"} \
    --output_file "$OUTPUT_FILE" \
    --batch_size "$BATCH_SIZE" \
    --query_len "$QUERY_LEN" \
    --response_len "$RESPONSE_LEN" \
    --model_max_length "$MODEL_MAX_LENGTH" \
    --bits "$BITS" \
    --bf16 "$BF16" \
    --seed "$SEED" \
    ${flags[@]+"${flags[@]}"} \
    "$@"

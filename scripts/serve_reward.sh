#!/usr/bin/env bash
# Score answers over HTTP with a reward model, for trainers of other projects: TRL, OpenRLHF, verl (docs/serve_reward.md).
#
# Hardware: one GPU of 80 GB for a 13B reward model in bfloat16 (estimated), or BITS=4 for a smaller one. The bundled tiny
# models run on the CPU: add --use_cpu True --bf16 False.
# Time: until Ctrl-C or SIGTERM; it answers at /health once the reward model is loaded.
# Prompt, template, image mode and base are those of reward_model.json.
# Variables written as "${NAME:-value}" can be set in the environment; flags on the command line are passed on and win.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
source "$(dirname -- "${BASH_SOURCE[0]}")/launch/training.sh"

DATA_DIR="${DATA_DIR:-$ROOT/data}"
REWARD_MODEL="${REWARD_MODEL:-$ROOT/runs/13b-v1.5-336/reward_model}"
MORE_REWARD_MODELS="${MORE_REWARD_MODELS:-}" # of the same base, separated by commas: all score together; empty: none
BASE_MODEL="${BASE_MODEL:-}" # empty: the one that reward_model.json names
CAPTIONS="${CAPTIONS-$DATA_DIR/image_to_caption.json}" # empty: captions come with the rows, or the reward model reads none
IMAGE_FOLDER="${IMAGE_FOLDER-$DATA_DIR/coco/train2017}" # empty: pictures come with the requests
absolute DATA_DIR REWARD_MODEL BASE_MODEL CAPTIONS IMAGE_FOLDER

# Where it listens. Another address than this machine's own asks for a key in REWARD_API_KEY, here and where training runs.
HOST="${HOST:-127.0.0.1}"
PORT="${PORT:-8100}"

BATCH_SIZE="${BATCH_SIZE:-16}" # rows of a forward, of whatever requests
WAIT_MS="${WAIT_MS:-5}" # for which a forward waits for more rows
QUERY_LEN="${QUERY_LEN:-1280}"
RESPONSE_LEN="${RESPONSE_LEN:-768}"
MODEL_MAX_LENGTH="${MODEL_MAX_LENGTH:-2048}"
BITS="${BITS:-16}"
BF16="${BF16:-True}"
SEED="${SEED:-42}" # of the caption order of rows with a prompt_row

# Batches are of ever other shapes: with an arena for each thread the C library keeps far more of what was freed, and on a CPU
# oneDNN, and PyTorch for it, keep what was compiled for the last 1024 shapes.
export MALLOC_ARENA_MAX="${MALLOC_ARENA_MAX:-1}"
export ONEDNN_PRIMITIVE_CACHE_CAPACITY="${ONEDNN_PRIMITIVE_CACHE_CAPACITY:-64}"
export LRU_CACHE_CAPACITY="${LRU_CACHE_CAPACITY:-64}"

flags=()
more_reward_models

command=(
    "$PYTHON" -m llava_rlhf.serve_reward
    --reward_model "$REWARD_MODEL"
    ${BASE_MODEL:+--base_model_name "$BASE_MODEL"}
    ${IMAGE_FOLDER:+--image_folders "$IMAGE_FOLDER"}
    ${CAPTIONS:+--image_to_caption_file "$CAPTIONS"}
    --host "$HOST"
    --port "$PORT"
    --batch_size "$BATCH_SIZE"
    --wait_ms "$WAIT_MS"
    --query_len "$QUERY_LEN"
    --response_len "$RESPONSE_LEN"
    --model_max_length "$MODEL_MAX_LENGTH"
    --bits "$BITS"
    --bf16 "$BF16"
    --seed "$SEED"
    ${flags[@]+"${flags[@]}"}
    "$@"
)
if [ "$DRY_RUN" = 1 ]; then start "${command[@]}"; else exec "${command[@]}"; fi # so that a signal reaches the service

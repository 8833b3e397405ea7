#!/usr/bin/env bash
# Answer a benchmark with the 7B-224 model and score the answers: POPE, MMHal-Bench or CHAIR (docs/evaluation.md).
#
# Hardware: one GPU of 40 GB (estimated); scoring needs none, but MMHal-Bench a judge (JUDGE_URL and JUDGE_MODEL).
# Time: POPE 20 minutes, CHAIR and MMHal-Bench 10 minutes (estimated). A run that was stopped continues where it was.
# The policy of train_rl_model.sh answers; ADAPTER=none asks the base alone, another folder that one. Afterwards:
#   python -m llava_rlhf.evaluate compare --runs "SFT=.../base/pope.json" "PPO=.../rl_model/pope.json" --output_dir table
# Every variable below can be set in the environment; flags on the command line are passed on to `answer` and win.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/../common.sh"

BENCHMARK="${BENCHMARK:-pope}" # pope, mmhal or chair
DATA_DIR="${DATA_DIR:-$ROOT/data}"
BASE_MODEL="${BASE_MODEL:-$ROOT/checkpoints/llava-7b-v1.5-224-sft}"
ADAPTER="${ADAPTER:-$ROOT/runs/7b-v1.5-224/rl_model}"
if [ "$ADAPTER" = none ]; then ADAPTER=; fi
NAME="$(basename -- "${ADAPTER:-base}")"
OUTPUT_DIR="${OUTPUT_DIR:-$ROOT/runs/7b-v1.5-224/evaluation/$NAME}"
POPE_DIR="${POPE_DIR:-$DATA_DIR/pope}"
MMHAL_DIR="${MMHAL_DIR:-$DATA_DIR/mmhal-bench}"
COCO_DIR="${COCO_DIR:-$DATA_DIR/coco}"
absolute DATA_DIR BASE_MODEL ADAPTER OUTPUT_DIR POPE_DIR MMHAL_DIR COCO_DIR

case "$BENCHMARK" in
    pope)
        FILES=("$POPE_DIR"/coco_pope_{random,popular,adversarial}.json)
        IMAGE_FOLDER="${IMAGE_FOLDER:-$COCO_DIR/val2014}"
        ;;
    mmhal)
        FILES=("$MMHAL_DIR/response_template.json")
        IMAGE_FOLDER="${IMAGE_FOLDER:-$MMHAL_DIR/images}"
        ;;
    chair)
        FILES=("$COCO_DIR"/annotations/{instances,captions}_val2014.json)
        IMAGE_FOLDER="${IMAGE_FOLDER:-$COCO_DIR/val2014}"
        ;;
    *) echo "error: BENCHMARK=$BENCHMARK: pope, mmhal or chair" >&2; exit 2 ;;
esac
absolute IMAGE_FOLDER

# Answers
TEMPERATURE="${TEMPERATURE:-0}" # 0: the most likely token
SAMPLES="${SAMPLES:-1}"
QUESTION_SUFFIX="${QUESTION_SUFFIX:-}" # text behind every question
BATCH_SIZE="${BATCH_SIZE:-32}"
QUERY_LEN="${QUERY_LEN:-1024}"
RESPONSE_LEN="${RESPONSE_LEN:-896}"
MODEL_MAX_LENGTH="${MODEL_MAX_LENGTH:-2048}"
BITS="${BITS:-16}"
BF16="${BF16:-True}"
SEED="${SEED:-0}"

# Scores
IMAGES="${IMAGES:-500}" # chair: of these, drawn at random
SYNONYMS="${SYNONYMS:-}" # chair: published synonyms.txt; empty: our own list
JUDGE_URL="${JUDGE_URL:-}" # mmhal: OpenAI-compatible endpoint; its key is read from OPENAI_API_KEY
JUDGE_MODEL="${JUDGE_MODEL:-}"
JUDGE_MODEL_PATH="${JUDGE_MODEL_PATH:-}" # mmhal: instead of them, a folder of a language model
JUDGE_REPEATS="${JUDGE_REPEATS:-1}"
absolute SYNONYMS JUDGE_MODEL_PATH

benchmark=(
    --benchmark "$BENCHMARK"
    --benchmark_files "${FILES[@]}"
    --images "$IMAGES"
    ${SYNONYMS:+--synonyms_file "$SYNONYMS"}
)

"$PYTHON" -m llava_rlhf.evaluate answer \
    "${benchmark[@]}" \
    --base_model_name "$BASE_MODEL" \
    ${ADAPTER:+--adapter "$ADAPTER"} \
    --image_folder "$IMAGE_FOLDER" \
    --output_file "$OUTPUT_DIR/$BENCHMARK.jsonl" \
    --version v1 \
    --image_aspect_ratio pad \
    --question_suffix "$QUESTION_SUFFIX" \
    --temperature "$TEMPERATURE" \
    --samples "$SAMPLES" \
    --batch_size "$BATCH_SIZE" \
    --query_len "$QUERY_LEN" \
    --response_len "$RESPONSE_LEN" \
    --model_max_length "$MODEL_MAX_LENGTH" \
    --bits "$BITS" \
    --bf16 "$BF16" \
    --seed "$SEED" \
    "$@"

if [ "$BENCHMARK" = mmhal ] && [ -z "$JUDGE_URL$JUDGE_MODEL_PATH" ]; then
    echo "the answers are in $OUTPUT_DIR/mmhal.jsonl; to score them, run this again with JUDGE_URL and JUDGE_MODEL"
    exit 0
fi
"$PYTHON" -m llava_rlhf.evaluate score \
    "${benchmark[@]}" \
    --answers "$OUTPUT_DIR/$BENCHMARK.jsonl" \
    --output_file "$OUTPUT_DIR/$BENCHMARK.json" \
    ${JUDGE_URL:+--judge_url "$JUDGE_URL" --judge_model "$JUDGE_MODEL"} \
    ${JUDGE_MODEL_PATH:+--judge_model_path "$JUDGE_MODEL_PATH"} \
    --judge_repeats "$JUDGE_REPEATS"

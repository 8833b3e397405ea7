#!/usr/bin/env bash
# Answer a benchmark with the 13B-336 model and score the answers: POPE, MMHal-Bench or CHAIR (docs/evaluation.md).
#
# Hardware: one GPU of 80 GB (estimated); scoring needs none, but MMHal-Bench a judge (JUDGE_URL and JUDGE_MODEL).
# Time: POPE 40 minutes, CHAIR and MMHal-Bench 20 minutes (estimated). A run that was stopped continues where it was.
# The policy of train_rl_model.sh answers; ADAPTER=none asks the base alone, another folder that one. Afterwards:
#   python -m llava_rlhf.evaluate compare --runs "SFT=.../base/pope.json" "PPO=.../rl_model/pope.json" --output_dir table
# Variables written as "${NAME:-value}" can be set in the environment; flags on the command line are passed on to `answer`
# and win.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/../common.sh"
source "$(dirname -- "${BASH_SOURCE[0]}")/../launch/evaluation.sh"

BENCHMARK="${BENCHMARK:-pope}" # pope, mmhal or chair
DATA_DIR="${DATA_DIR:-$ROOT/data}"
BASE_MODEL="${BASE_MODEL:-$ROOT/checkpoints/llava-13b-v1.5-336-sft}"
ADAPTER="${ADAPTER:-$ROOT/runs/13b-v1.5-336/rl_model}"
OUTPUT_DIR="${OUTPUT_DIR:-$ROOT/runs/13b-v1.5-336/evaluation/$(policy_name)}"
POPE_DIR="${POPE_DIR:-$DATA_DIR/pope}"
MMHAL_DIR="${MMHAL_DIR:-$DATA_DIR/mmhal-bench}"
COCO_DIR="${COCO_DIR:-$DATA_DIR/coco}"
IMAGE_FOLDER="${IMAGE_FOLDER:-}" # empty: that of the benchmark

# Answers
TEMPERATURE="${TEMPERATURE:-0}" # 0: the most likely token
SAMPLES="${SAMPLES:-1}"
QUESTION_SUFFIX="${QUESTION_SUFFIX:-}" # text behind every question
BATCH_SIZE="${BATCH_SIZE:-16}"
QUERY_LEN="${QUERY_LEN:-1024}"
RESPONSE_LEN="${RESPONSE_LEN:-896}"
MODEL_MAX_LENGTH="${MODEL_MAX_LENGTH:-2048}"
BITS="${BITS:-16}"
BF16="${BF16:-True}"
SEED="${SEED:-0}"

# Who answers: the model itself, or servers (vllm; scripts/serve_policy.sh) that VLLM_SERVERS names, separated by commas
ROLLOUT_ENGINE="${ROLLOUT_ENGINE:-local}"
VLLM_SERVERS="${VLLM_SERVERS:-}"

# Scores
IMAGES="${IMAGES:-500}" # chair: of these, drawn at random
SYNONYMS="${SYNONYMS:-}" # chair: published synonyms.txt; empty: our own list
JUDGE_URL="${JUDGE_URL:-}" # mmhal: OpenAI-compatible endpoint; its key is read from OPENAI_API_KEY
JUDGE_MODEL="${JUDGE_MODEL:-}"
JUDGE_MODEL_PATH="${JUDGE_MODEL_PATH:-}" # mmhal: instead of them, a folder of a language model
JUDGE_REPEATS="${JUDGE_REPEATS:-1}"

# Fixed, whatever the environment says
VERSION=v1 # template of the prompts
IMAGE_ASPECT_RATIO=pad
MIN_PIXELS="" MAX_PIXELS="" # of pictures that keep their shape

evaluate_benchmark "$@"

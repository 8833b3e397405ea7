#!/usr/bin/env bash
# Answer the held-out prompts and print hallucination, recall, yes/no and multiple-choice accuracy with
# 95 % intervals.
#
# Hardware: CPU, one core, 2 GB of memory. Time: 15 s (estimated).
# The SFT model is asked, or it with an ADAPTER on top: ADAPTER=runs/tiny/fact_rl_model bash scripts/tiny/evaluate.sh
# Variables written as "${NAME:-value}" can be set in the environment; flags on the command line are passed on to
# answer_prompts and win.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

WORLD_DIR="${WORLD_DIR:-$RUN_DIR/world}"
SFT_MODEL="${SFT_MODEL:-$RUN_DIR/sft/merged}"
ADAPTER="${ADAPTER:-}"
TEMPERATURE="${TEMPERATURE:-1.0}" # 0: the most likely token
NAME="$(basename -- "${ADAPTER:-sft}")"
OUTPUT_DIR="${OUTPUT_DIR:-$RUN_DIR/evaluation/$NAME-temperature-$TEMPERATURE}"
SEED="${SEED:-0}"
absolute WORLD_DIR SFT_MODEL ADAPTER OUTPUT_DIR

BATCH_SIZE="${BATCH_SIZE:-256}"
QUERY_LEN="${QUERY_LEN:-40}"
RESPONSE_LEN="${RESPONSE_LEN:-28}"

# Who answers: the model itself, or servers (vllm; scripts/serve_policy.sh) that VLLM_SERVERS names, separated by commas
ROLLOUT_ENGINE="${ROLLOUT_ENGINE:-local}"
VLLM_SERVERS="${VLLM_SERVERS:-}"

flags=()
engine_flags
answer eval.json "${flags[@]}" "$@"

tool llava_rlhf.evaluate score \
    --benchmark tiny_world \
    --benchmark_files "$WORLD_DIR" \
    --answers "$OUTPUT_DIR/answers.jsonl" \
    --output_file "$OUTPUT_DIR/scores.json"

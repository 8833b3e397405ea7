#!/usr/bin/env bash
# Sample two answers of the SFT model to every preference prompt and let an oracle that knows the scenes compare them.
#
# Hardware: CPU, one core, 2 GB of memory. Time: 30 s (estimated).
# Needs: make_world.sh, train_sft.sh.
# Variables written as "${NAME:-value}" can be set in the environment; flags on the command line are passed on to
# answer_prompts and win.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

WORLD_DIR="${WORLD_DIR:-$RUN_DIR/world}"
SFT_MODEL="${SFT_MODEL:-$RUN_DIR/sft/merged}"
OUTPUT_DIR="${OUTPUT_DIR:-$RUN_DIR/preferences}"
SEED="${SEED:-0}"
absolute WORLD_DIR SFT_MODEL OUTPUT_DIR

TEMPERATURE="${TEMPERATURE:-1.0}"
BATCH_SIZE="${BATCH_SIZE:-256}"
QUERY_LEN="${QUERY_LEN:-40}"
RESPONSE_LEN="${RESPONSE_LEN:-28}"
SYNTHETIC_SHARE="${SYNTHETIC_SHARE:-0.25}" # pairs with one made-up side
FALSE_WEIGHT="${FALSE_WEIGHT:-0.5}" # cost of a false object, in units of full recall

ADAPTER="" # the SFT model itself, whatever the environment says

answer preference_prompts.json --samples 2 "$@"

tool llava_rlhf.tiny_world.label_preferences \
    --world "$WORLD_DIR" \
    --answers "$OUTPUT_DIR/answers.jsonl" \
    --output_file "$OUTPUT_DIR/preferences.json" \
    --synthetic_share "$SYNTHETIC_SHARE" \
    --false_weight "$FALSE_WEIGHT" \
    --seed "$SEED"

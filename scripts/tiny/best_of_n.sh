#!/usr/bin/env bash
# Sample several descriptions of each of 64 held-out pictures from the policy init, and let both reward models score them.
#
# Hardware: CPU, one core, 2 GB of memory. Time: 15 s (estimated).
# Needs: make_world.sh, train_sft.sh, initialize_policy_model.sh, train_reward_model.sh with and without facts.
# Variables written as "${NAME:-value}" can be set in the environment; flags on the command line are passed on to
# answer_prompts and win.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

WORLD_DIR="${WORLD_DIR:-$RUN_DIR/world}"
SFT_MODEL="${SFT_MODEL:-$RUN_DIR/sft/merged}"
ADAPTER="${ADAPTER:-$RUN_DIR/policy_init}"
CAPTIONS="${CAPTIONS:-$WORLD_DIR/image_to_caption.json}"
OUTPUT_DIR="${OUTPUT_DIR:-$RUN_DIR/best_of_n}"
SEED="${SEED:-0}"
absolute WORLD_DIR SFT_MODEL ADAPTER CAPTIONS OUTPUT_DIR

SAMPLES="${SAMPLES:-16}"
TEMPERATURE="${TEMPERATURE:-1.3}" # wide, so that there is something to choose
BATCH_SIZE="${BATCH_SIZE:-256}"
QUERY_LEN="${QUERY_LEN:-40}"
RESPONSE_LEN="${RESPONSE_LEN:-28}"

answer describe.json --samples "$SAMPLES" "$@"

# An answer may be longer in tokens when its text is read again than as it was written; none is left out.
for kind in "" fact_; do
    tool llava_rlhf.score \
        --reward_model_name_or_path "$RUN_DIR/${kind}reward_model" \
        --base_model_name "$SFT_MODEL" \
        --dataset_path "$OUTPUT_DIR/answers.jsonl" \
        --image_folder "$WORLD_DIR/images" \
        --image_to_caption_file "$CAPTIONS" \
        --version "$VERSION" \
        --query_len "$QUERY_LEN" \
        --response_len $((2 * RESPONSE_LEN)) \
        --batch_size 64 \
        --use_cpu "$USE_CPU" \
        --output_file "$OUTPUT_DIR/${kind}scores.jsonl"
done

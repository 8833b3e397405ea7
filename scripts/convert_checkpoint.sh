#!/usr/bin/env bash
# Convert a checkpoint of the original LLaVA-RLHF code to the Hugging Face layouts used here, or adapters back.
#
#   bash scripts/convert_checkpoint.sh --input SFT_MODEL --vision_tower CLIP --output BASE
#   bash scripts/convert_checkpoint.sh --input REWARD_MODEL --base_model BASE --reward_prompt_file FILE --output DIR
#   bash scripts/convert_checkpoint.sh --input POLICY --base_model BASE --output DIR
#   bash scripts/convert_checkpoint.sh --input OURS --to original --output DIR
#
# Hardware: CPU, one core; no GPU. Every flag: --help
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

start "$PYTHON" -m llava_rlhf.convert_checkpoint "$@"

#!/usr/bin/env bash
# Rebuild the tiny world's base model, the stand-in for CLIP + Vicuna that is shipped in scripts/tiny/base, or that of another
# FAMILY.
#
# Hardware: one CPU core, 1 GB of memory. Time: 6 minutes of CPU (measured: 335 s; docs/tiny_world.md), with
# FAMILY=qwen2_5_vl 17 minutes (measured: 997 s) and 2 GB (estimated).
# Prints at the end what the base can do at several noise levels; the same numbers stand in OUTPUT_DIR/build.json.
# More flags of llava_rlhf.tiny_world.build_base may follow on the command line.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

SEED="${SEED:-0}"
OUTPUT_DIR="${OUTPUT_DIR:-$TINY_BASE}"
absolute OUTPUT_DIR

tool llava_rlhf.tiny_world.build_base --family "$FAMILY" --output_dir "$OUTPUT_DIR" --seed "$SEED" "$@"

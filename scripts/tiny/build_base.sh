#!/usr/bin/env bash
# Rebuild the tiny world's base model, the stand-in for CLIP + Vicuna that is shipped in scripts/tiny/base.
#
# Hardware: one CPU core, 1 GB of memory. Time: 6 minutes of CPU (measured: 335 s; docs/tiny_world.md).
# Prints at the end what the base can do at several noise levels; the same numbers stand in OUTPUT_DIR/build.json.
# More flags of llava_rlhf.tiny_world.build_base may follow on the command line.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/../common.sh"

SEED="${SEED:-0}"
OUTPUT_DIR="${OUTPUT_DIR:-$ROOT/scripts/tiny/base}"
absolute OUTPUT_DIR
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

start "$PYTHON" -m llava_rlhf.tiny_world.build_base --output_dir "$OUTPUT_DIR" --seed "$SEED" "$@"

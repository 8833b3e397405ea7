#!/usr/bin/env bash
# Rebuild the tiny world's base model, the stand-in for CLIP + Vicuna that is shipped in scripts/tiny/base.
#
# Hardware: one CPU core, 1 GB of memory. Time: about 8 minutes (measured, see docs/tiny_world.md).
# Prints at the end what the base can do at several noise levels; the same numbers stand in OUTPUT_DIR/build.json.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"

SEED="${SEED:-0}"
OUTPUT_DIR="${OUTPUT_DIR:-$ROOT/scripts/tiny/base}"
PYTHON="${PYTHON:-$([ -x "$ROOT/.venv/bin/python" ] && echo "$ROOT/.venv/bin/python" || echo python)}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

# A relative OUTPUT_DIR is meant from where the script was called.
case "$OUTPUT_DIR" in /*) ;; *) OUTPUT_DIR="$PWD/$OUTPUT_DIR" ;; esac

cd "$ROOT"
exec "$PYTHON" -m llava_rlhf.tiny_world.build_base --output_dir "$OUTPUT_DIR" --seed "$SEED" "$@"

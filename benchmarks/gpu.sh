#!/usr/bin/env bash
# Time PPO steps of 7B- and 13B-shaped random models on one GPU of about 80 GB, in at most 10 minutes: bash benchmarks/gpu.sh
#
# PYTHON      interpreter (default: .venv/bin/python, else python3)
# OUTPUT      JSON file of the numbers (default: runs/gpu_step.json)
set -euo pipefail
ROOT="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$ROOT"
PYTHON="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}"
OUTPUT="${OUTPUT:-runs/gpu_step.json}"
export PYTHONPATH="$ROOT" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
mkdir -p "$(dirname -- "$OUTPUT")"

more() { # a measurement that may fail without taking the table with it
    timeout 60 "$PYTHON" "$@" || echo "skipped: $*"
}

"$PYTHON" benchmarks/gpu_step.py --output_file "$OUTPUT" --minutes 7.5
more benchmarks/adapters_per_row.py --device cuda --sizes 7b
if [ -f benchmarks/plan_memory_check.py ]; then
    more benchmarks/plan_memory_check.py --device cuda
fi

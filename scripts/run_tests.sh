#!/usr/bin/env bash
# Create .venv if needed, lint, and run the tests: bash scripts/run_tests.sh [--all] [pytest arguments]
#
# --all       the slow tests too (several processes, 4-bit bases, the tiny pipeline)
# WORKERS     test processes (default 2)
set -euo pipefail
ROOT="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$ROOT"
VENV="${VENV:-$ROOT/.venv}"
WORKERS="${WORKERS:-2}"

selection=(-m "not slow")
if [ "${1:-}" = --all ]; then
    selection=()
    shift
fi

# One thread a process: the models are small, and threads of several processes would stand in each other's way.
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

VENV="$VENV" bash scripts/setup_venv.sh --dev
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
# tests/conftest.py orders the files.
"$VENV/bin/python" -m pytest -q --numprocesses "$WORKERS" --dist loadfile --no-loadscope-reorder \
    ${selection[@]+"${selection[@]}"} "$@"

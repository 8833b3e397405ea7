#!/usr/bin/env bash
# Create .venv if needed, lint, and run the tests: bash scripts/run_tests.sh [--all | --nightly] [pytest arguments]
#
# --all       the slow tests too (several processes, 4-bit bases, the tiny pipeline): what continuous integration runs
# --nightly   every test: also those that repeat, with another family or program, what a slow one shows
# WORKERS     test processes (default 2)
#
# Files and tests that are named are chosen from in the same way; `-m` of your own takes the place of the choice.
set -euo pipefail
ROOT="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$ROOT"
VENV="${VENV:-$ROOT/.venv}"
WORKERS="${WORKERS:-2}"

left_out="slow or nightly"
arguments=()
for argument in "$@"; do
    case "$argument" in
        --all) left_out="nightly" ;;
        --nightly) left_out="" ;;
        *) arguments+=("$argument") ;;
    esac
done
selection=()
[ -z "$left_out" ] || selection=(-m "not ($left_out)")

# One thread a process: the models are small, and threads of several processes would stand in each other's way.
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

VENV="$VENV" bash scripts/setup_venv.sh --dev
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
# tests/conftest.py orders the files.
status=0
"$VENV/bin/python" -m pytest -q --numprocesses "$WORKERS" --dist loadfile --no-loadscope-reorder \
    ${selection[@]+"${selection[@]}"} ${arguments[@]+"${arguments[@]}"} || status=$?
if [ "$status" = 5 ] && [ -n "$left_out" ]; then  # pytest's status where nothing was chosen
    echo "no test was run: those marked $left_out are left out; add --all (slow ones too) or --nightly (every test)" >&2
fi
exit "$status"

#!/usr/bin/env bash
# Run the tests with the oldest transformers that requirements.txt allows, in an environment of its own (.venv-oldest):
# bash scripts/test_oldest_transformers.sh [arguments of run_tests.sh]
set -euo pipefail
ROOT="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
export VENV="${VENV:-$ROOT/.venv-oldest}"

oldest="$(sed -n 's/^transformers>=\([0-9.]*\),.*/\1/p' "$ROOT/requirements.txt")"
[ -n "$oldest" ] || { echo "error: requirements.txt names no oldest transformers" >&2; exit 2; }

bash "$ROOT/scripts/setup_venv.sh" --dev
"$VENV/bin/python" -m pip --disable-pip-version-check --quiet install "transformers==$oldest.*"
"$VENV/bin/python" -c 'import transformers; print("testing with transformers", transformers.__version__)'
bash "$ROOT/scripts/run_tests.sh" "$@"

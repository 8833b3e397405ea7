#!/usr/bin/env bash
# Create .venv and install what the programs need; with --dev also what the tests need. Does nothing when it is up to date.
#
# VENV        the environment (default: .venv in the repository)
# PYTHON      the Python that creates it, 3.10 or newer (default: python3)
# TORCH_SPEC  how torch is installed where it is missing: a version, and pip options if you like. The default is one
#             version, not a range: a range makes pip fetch gigabytes of CUDA packages on a machine without GPU.
set -euo pipefail
ROOT="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${VENV:-$ROOT/.venv}"
PYTHON="${PYTHON:-python3}"
TORCH_SPEC="${TORCH_SPEC:-torch==2.13.0}"

lists=(requirements.txt)
case "${1:-}" in
    "") ;;
    --dev) lists+=(requirements-dev.txt) ;;
    *) echo "error: unknown argument $1; the only one is --dev" >&2; exit 2 ;;
esac

# wanted LIST: what has to be installed, in a few digits; moving the repository or changing the list changes it.
wanted() { { echo "$ROOT"; cat "$ROOT/setup.py" "$ROOT/requirements.txt" "$ROOT/$1"; } | sha256sum | cut -c1-16; }
stamp() { echo "$VENV/installed-$1.sha256"; }
up_to_date() { [ -x "$VENV/bin/python" ] && [ "$(cat "$(stamp "$1")" 2>/dev/null)" = "$(wanted "$1")" ]; }

todo=()
for list in "${lists[@]}"; do up_to_date "$list" || todo+=("$list"); done
if [ ${#todo[@]} -eq 0 ]; then
    echo "$VENV is up to date"
    exit 0
fi

if [ ! -x "$VENV/bin/python" ]; then
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        { echo "error: $PYTHON is older than Python 3.10; name a newer one with PYTHON=" >&2; exit 2; }
    echo "creating $VENV with $("$PYTHON" --version)"
    "$PYTHON" -m venv "$VENV"
fi
echo "this takes 2 to 5 minutes"
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }

if ! "$VENV/bin/python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)'; then
    echo "installing $TORCH_SPEC"
    read -ra torch <<<"$TORCH_SPEC"
    pip install "${torch[@]}"
fi
for list in "${todo[@]}"; do
    echo "installing $list"
    pip install -r "$ROOT/$list"
    if [ "$list" = requirements.txt ]; then
        echo "installing the packages of this repository (editable)"
        pip install "setuptools>=70.1"
        pip install --no-build-isolation --no-deps --editable "$ROOT"
    fi
    wanted "$list" >"$(stamp "$list")"
done
echo "$VENV is ready"

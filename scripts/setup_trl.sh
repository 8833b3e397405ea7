#!/usr/bin/env bash
# Install TRL, whose GRPO can be paid by our reward service (examples/trl_grpo), into an environment of its own: it is another
# project, and its versions are not ours to decide. Does nothing when it is there.
#
# TRL_VENV  the environment (default: .venv-trl in the repository)
# PYTHON    the Python that creates it, 3.10 to 3.13 (default: python3)
# Exit code 3: the package index has no such TRL (or can't be reached). The test that needs it is then skipped.
set -euo pipefail
ROOT="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
TRL_VENV="${TRL_VENV:-$ROOT/.venv-trl}"
PYTHON="${PYTHON:-python3}"
VERSION=1.16.0 TORCH=2.13.0 # what the example was run with
wanted="trl==$VERSION"

stamp="$TRL_VENV/installed-trl.txt" # written last: a half-made environment is finished by the next call
if [ -x "$TRL_VENV/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    echo "$TRL_VENV has $wanted"
    exit 0
fi

# pip_install ARGUMENT...: with pip's own words on failure; ends the script with 3 where the index has nothing that fits.
pip_install() {
    local log
    log="$(mktemp)"
    if "$TRL_VENV/bin/python" -m pip --disable-pip-version-check --quiet install --no-compile "$@" 2>"$log"; then
        rm -f -- "$log"
        return
    fi
    cat -- "$log" >&2
    if grep -q "No matching distribution found" "$log"; then
        rm -f -- "$log"
        echo "the package index has no $* for $("$TRL_VENV/bin/python" --version) on this machine: no TRL here" >&2
        exit 3
    fi
    rm -f -- "$log"
    exit 1
}

if [ ! -x "$TRL_VENV/bin/python" ]; then
    echo "creating $TRL_VENV with $("$PYTHON" --version)"
    "$PYTHON" -m venv "$TRL_VENV"
fi
echo "installing $wanted (1 to 3 minutes, 1.2 GB)"
pip_install --no-deps "$wanted" # the wheel alone: where there is none, nothing large was fetched
pip_install "torch==$TORCH"     # first, so that what follows keeps the build
pip_install "$wanted" "transformers>=5.20,<5.24" "peft>=0.21,<0.22" pillow
# `python -I`: a folder of the caller that is called like a package does not count.
"$TRL_VENV/bin/python" -I -c 'import trl, peft; print("TRL", trl.__version__, "is ready")'
echo "$wanted" >"$stamp"

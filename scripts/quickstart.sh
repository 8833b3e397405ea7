#!/usr/bin/env bash
# From a fresh clone to a report: install, then Factually Augmented RLHF on the bundled tiny world, on the CPU.
#
#   bash scripts/quickstart.sh           the whole thing: 4 to 7 minutes on 2 cores after installation (measured on two days)
#   bash scripts/quickstart.sh --short   the same programs with fewer pictures and steps: 2 minutes (measured)
#
# FAMILY=qwen2_5_vl: the same with another family, in a world of clear pictures of many sizes (docs/tiny_world.md); 8 minutes
# (measured beside another job).
#
# Needs Python >= 3.10 and a package index; no GPU, 2 GB of free memory (1.5 GiB measured) and 3 GB of disk. Writes RUN_DIR
# (default runs/quickstart, or runs/quickstart-qwen2_5_vl): data, checkpoints, answers and report.html. An earlier RUN_DIR is
# moved aside, not deleted.
# Variables of scripts/tiny/*.sh reach every stage: SEED=1 bash scripts/quickstart.sh, for example.
set -euo pipefail
ROOT="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
source "$ROOT/scripts/launch/tiny_world.sh" # refuses an unknown FAMILY before anything is installed

case "${1:-}" in
    "") ;;
    --short)
        export TRAIN_IMAGES="${TRAIN_IMAGES:-800}" INIT_IMAGES="${INIT_IMAGES:-200}" EVAL_SIZE="${EVAL_SIZE:-100}"
        export PREFERENCE_IMAGES="${PREFERENCE_IMAGES:-600}" PPO_IMAGES="${PPO_IMAGES:-400}"
        export REWARD_MODEL_STEPS="${REWARD_MODEL_STEPS:-100}" PPO_STEPS="${PPO_STEPS:-6}"
        ;;
    *)
        echo "error: unknown argument $1; only --short is known" >&2
        exit 2
        ;;
esac

bash "$ROOT/scripts/setup_venv.sh"
RUN_DIR="${RUN_DIR:-$ROOT/runs/quickstart$RUN_SUFFIX}"
case "$RUN_DIR" in /*) ;; *) RUN_DIR="$PWD/$RUN_DIR" ;; esac
export RUN_DIR
if [ -e "$RUN_DIR" ]; then
    aside="$RUN_DIR.$(date +%Y%m%d-%H%M%S)"
    mv "$RUN_DIR" "$aside"
    echo "an earlier run was moved to $aside"
fi

started=$SECONDS
bash "$ROOT/scripts/tiny/run_all.sh"
echo "the whole pipeline took $((SECONDS - started)) s after installation"

#!/usr/bin/env bash
# The whole tiny pipeline: world, SFT, preferences, reward models with and without facts, policy init, PPO, evaluation.
#
# Hardware: CPU, one core, 2 GB of memory. Time: 9 minutes (estimated).
# Everything goes to RUN_DIR (default runs/tiny). A variable in the environment reaches every stage: SEED=1, for example,
# or MAX_STEPS=3 for a quick look. To change one stage only, run its script.
set -euo pipefail
HERE="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
source "$HERE/common.sh"

for name in OUTPUT_DIR BASE_MODEL SFT_MODEL FACTS ADAPTER TEMPERATURE; do # they mean something else in every stage
    if [ -n "${!name:-}" ]; then
        echo "error: $name is set, but every stage has its own: unset it; RUN_DIR names the folder of the run" >&2
        exit 2
    fi
done
if [ $# -gt 0 ]; then
    echo "error: run_all.sh takes no arguments ($*): set variables, or run the script of one stage" >&2
    exit 2
fi

# stage NAME [VARIABLE=VALUE...]: run one script of this folder.
stage() {
    local script="$1"
    shift
    echo "== $script $*"
    env "$@" bash "$HERE/$script.sh"
}

stage make_world
stage train_sft
stage sample_preferences
stage train_reward_model FACTS=False
stage train_reward_model FACTS=True
stage initialize_policy_model
stage train_rl_model FACTS=True
for temperature in 1.0 0; do
    stage evaluate TEMPERATURE="$temperature"
    stage evaluate TEMPERATURE="$temperature" ADAPTER="$RUN_DIR/fact_rl_model"
done

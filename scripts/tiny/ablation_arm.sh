#!/usr/bin/env bash
# One arm of an ablation: PPO with the flags on the command line, then the scores of its policy. Started by ../ablate.sh
# with SEED, FACTS, OUTPUT_DIR, and the RUN_DIR that ablation_seed.sh filled.
#
# Hardware: CPU, one core, 2 GB of memory. Time: 1 minute (estimated).
# Every variable of train_rl_model.sh can be set in the environment and then holds for all arms; PPO_STEPS: its MAX_STEPS.
set -euo pipefail
HERE="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
source "$HERE/common.sh"
not_for_an_ablation
export RUN_DIR ADAPTER="${OUTPUT_DIR:?the folder of this arm}"
absolute ADAPTER

env ${PPO_STEPS:+MAX_STEPS="$PPO_STEPS"} bash "$HERE/train_rl_model.sh" "$@"
OUTPUT_DIR="$ADAPTER/evaluation/sampled" TEMPERATURE=1.0 bash "$HERE/evaluate.sh" # what PPO improves

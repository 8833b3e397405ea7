#!/usr/bin/env bash
# One arm of an ablation at 13B: PPO with the flags on the command line, then the scores of its policy. Started by
# ../ablate.sh with SEED, FACTS, OUTPUT_DIR, and the RUN_DIR that ablation_seed.sh filled.
#
# Hardware: as train_rl_model.sh. Time: as that (estimated); PPO_STEPS, its MAX_STEPS, makes it shorter.
# Every variable of train_rl_model.sh can be set in the environment and holds for all arms. BENCHMARKS: pope, mmhal, chair;
# they are asked about their own pictures, greedily, whatever IMAGE_FOLDER and TEMPERATURE say of training.
set -euo pipefail
HERE="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
source "$HERE/../common.sh"
source "$HERE/../launch/ablation.sh"
: "${RUN_DIR:?the folder of this seed}" "${OUTPUT_DIR:?the folder of this arm}" "${FACTS:?True or False}"
absolute RUN_DIR OUTPUT_DIR

BENCHMARKS="${BENCHMARKS:-pope}"
PLAIN_REWARD_PROMPT="${PLAIN_REWARD_PROMPT:-$ROOT/prompts/reward_prompt.txt}" # without facts
PPO_STEPS="${PPO_STEPS:-}" # empty: MAX_STEPS

train_arm "$@"

#!/usr/bin/env bash
# What all arms of an ablation share for one seed at 13B: policy init, the reward models with and without facts, and the scores of
# SFT and policy init. Started by ../ablate.sh with SEED and RUN_DIR.
#
# Hardware: as the scripts that it runs. Time: 3 hours on 8 GPUs of 80 GB (estimated).
# Every variable of those scripts can be set in the environment and reaches all of them; REWARD_MODEL_STEPS is the reward models'
# MAX_STEPS. BENCHMARKS: pope, mmhal (with a judge, see evaluate.sh), chair; they are asked about their own pictures, greedily,
# whatever IMAGE_FOLDER and TEMPERATURE say of training.
set -euo pipefail
HERE="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
source "$HERE/../common.sh"
source "$HERE/../launch/ablation.sh"
: "${RUN_DIR:?the folder of this seed}"
absolute RUN_DIR

BENCHMARKS="${BENCHMARKS:-pope}"
PLAIN_REWARD_PROMPT="${PLAIN_REWARD_PROMPT:-$ROOT/prompts/reward_prompt.txt}" # without facts
REWARD_MODEL_STEPS="${REWARD_MODEL_STEPS:-}" # empty: MAX_STEPS, as in every other stage
# On the base that PPO will put them on.
REWARD_SCRIPT="$HERE/train_reward_model.sh"
REWARD_BASE_MODEL="${REWARD_BASE_MODEL:-${BASE_MODEL:-}}" # empty: the one that the script names

prepare_seed

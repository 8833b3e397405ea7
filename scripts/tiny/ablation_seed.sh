#!/usr/bin/env bash
# What all arms of an ablation share for one seed: world, SFT, preferences, both reward models, policy init, and the scores of
# SFT and policy init. Started by ../ablate.sh with SEED and RUN_DIR.
#
# Hardware: CPU, one core, 2 GB of memory. Time: 4 minutes (estimated).
# Every variable of the stages can be set in the environment; REWARD_MODEL_STEPS is the reward models' MAX_STEPS.
set -euo pipefail
HERE="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
source "$HERE/common.sh"
not_for_an_ablation
export RUN_DIR

bash "$HERE/make_world.sh"
bash "$HERE/train_sft.sh"
bash "$HERE/sample_preferences.sh"
for facts in True False; do
    env FACTS="$facts" ${REWARD_MODEL_STEPS:+MAX_STEPS="$REWARD_MODEL_STEPS"} bash "$HERE/train_reward_model.sh"
done
bash "$HERE/initialize_policy_model.sh"
for name in sft policy_init; do
    if [ "$name" = sft ]; then export ADAPTER=; else export ADAPTER="$RUN_DIR/$name"; fi
    OUTPUT_DIR="$RUN_DIR/before/$name/sampled" TEMPERATURE=1.0 bash "$HERE/evaluate.sh"
done

#!/usr/bin/env bash
# What all arms of an ablation share for one seed at 7B: policy init, the judges with and without facts, and the scores of
# SFT and policy init. Started by ../ablate.sh with SEED and RUN_DIR.
#
# Hardware: as the scripts that it runs. Time: 3 hours on 8 GPUs of 80 GB (estimated).
# Every variable of those scripts can be set in the environment and reaches all of them; BENCHMARKS: pope, mmhal, chair.
set -euo pipefail
HERE="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
source "$HERE/../common.sh"
: "${RUN_DIR:?the folder of this seed}"
absolute RUN_DIR

OUTPUT_DIR="$RUN_DIR/policy_init" bash "$HERE/initialize_policy_model.sh"
# The judge is the 13B model: BASE_MODEL, if set, is the policy's and not its.
judge=(env -u BASE_MODEL ${REWARD_BASE_MODEL:+BASE_MODEL="$REWARD_BASE_MODEL"})
"${judge[@]}" OUTPUT_DIR="$RUN_DIR/fact_reward_model" bash "$HERE/../13b-v1.5-336/train_reward_model.sh"
"${judge[@]}" OUTPUT_DIR="$RUN_DIR/reward_model" REWARD_PROMPT="${PLAIN_REWARD_PROMPT:-$ROOT/prompts/reward_prompt.txt}" \
    bash "$HERE/../13b-v1.5-336/train_reward_model.sh" --facts False
for benchmark in ${BENCHMARKS:-pope}; do
    for name in none policy_init; do
        if [ "$name" = none ]; then model=sft adapter=none; else model="$name" adapter="$RUN_DIR/$name"; fi
        BENCHMARK="$benchmark" ADAPTER="$adapter" OUTPUT_DIR="$RUN_DIR/before/$model" bash "$HERE/evaluate.sh"
    done
done

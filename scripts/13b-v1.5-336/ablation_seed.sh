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
: "${RUN_DIR:?the folder of this seed}"
absolute RUN_DIR

for benchmark in ${BENCHMARKS:-pope}; do
    case "$benchmark" in
        pope | chair) ;;
        mmhal)
            : "${JUDGE_URL:-${JUDGE_MODEL_PATH:?BENCHMARKS has mmhal, whose scores need JUDGE_URL and JUDGE_MODEL, or JUDGE_MODEL_PATH}}"
            ;;
        *) echo "error: BENCHMARKS has $benchmark: pope, mmhal or chair" >&2; exit 2 ;;
    esac
done

# score NAME [ADAPTER]: of a model before PPO.
score() {
    local benchmark
    for benchmark in ${BENCHMARKS:-pope}; do
        env -u IMAGE_FOLDER -u TEMPERATURE BENCHMARK="$benchmark" ADAPTER="${2:-none}" OUTPUT_DIR="$RUN_DIR/before/$1" \
            bash "$HERE/evaluate.sh"
    done
}

score sft # first: if a benchmark is not there, it shows now and not after the training
OUTPUT_DIR="$RUN_DIR/policy_init" bash "$HERE/initialize_policy_model.sh"
score policy_init "$RUN_DIR/policy_init"
# On the base that PPO will put them on.
reward=(env ${REWARD_BASE_MODEL:+BASE_MODEL="$REWARD_BASE_MODEL"})
reward+=(${REWARD_MODEL_STEPS:+MAX_STEPS="$REWARD_MODEL_STEPS"})
"${reward[@]}" OUTPUT_DIR="$RUN_DIR/fact_reward_model" bash "$HERE/train_reward_model.sh"
"${reward[@]}" OUTPUT_DIR="$RUN_DIR/reward_model" REWARD_PROMPT="${PLAIN_REWARD_PROMPT:-$ROOT/prompts/reward_prompt.txt}" \
    bash "$HERE/train_reward_model.sh" --facts False

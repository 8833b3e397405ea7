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
: "${RUN_DIR:?the folder of this seed}" "${OUTPUT_DIR:?the folder of this arm}"
absolute RUN_DIR OUTPUT_DIR

case "${FACTS:?True or False}" in
    True) export REWARD_MODEL="$RUN_DIR/fact_reward_model" ;;
    False)
        export REWARD_MODEL="$RUN_DIR/reward_model" REWARD_PROMPT="${PLAIN_REWARD_PROMPT:-$ROOT/prompts/reward_prompt.txt}"
        ;;
    *) echo "error: FACTS=$FACTS: True or False" >&2; exit 2 ;;
esac
env ${PPO_STEPS:+MAX_STEPS="$PPO_STEPS"} POLICY_MODEL="$RUN_DIR/policy_init" OUTPUT_DIR="$OUTPUT_DIR" \
    bash "$HERE/train_rl_model.sh" --facts "$FACTS" "$@"
for benchmark in ${BENCHMARKS:-pope}; do
    env -u IMAGE_FOLDER -u TEMPERATURE BENCHMARK="$benchmark" ADAPTER="$OUTPUT_DIR" OUTPUT_DIR="$OUTPUT_DIR/evaluation" \
        bash "$HERE/evaluate.sh"
done

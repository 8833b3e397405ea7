#!/usr/bin/env bash
# The whole tiny pipeline: world, SFT, preferences, reward models with and without facts, policy init, PPO, evaluation,
# report.
#
# Hardware: CPU, two cores, 2 GB of memory (1.5 GiB measured). Time: 4 minutes (measured).
# Everything goes to RUN_DIR (default runs/tiny). A variable in the environment reaches every stage: SEED=1, for example,
# or MAX_STEPS=3 for a quick look; REWARD_MODEL_STEPS and PPO_STEPS reach their stage only.
set -euo pipefail
HERE="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
source "$HERE/common.sh"

# They mean something else in every stage, or come out of an earlier one.
not_for_all OUTPUT_DIR BASE_MODEL SFT_MODEL FACTS ADAPTER TEMPERATURE IMAGE_FOLDER CAPTIONS PREFERENCES DIALOGUES PROMPTS \
    OBJECTIVE POLICY_MODEL
if [ $# -gt 0 ]; then
    echo "error: run_all.sh takes no arguments ($*): set variables, or run the script of one stage" >&2
    exit 2
fi
if [ -n "${LANES:-}" ]; then
    echo "error: LANES is now called JOBS" >&2
    exit 2
fi

export RUN_DIR
JOBS="${JOBS:-2}" # 2: two programs at a time; 1: one after the other

# stage NAME [VARIABLE=VALUE...]: run one script of this folder.
stage() {
    local script="$1"
    shift
    echo "== $script $*"
    env PART_OF=run_all "$@" bash "$HERE/$script.sh"
}

stage make_world
stage train_sft
stage sample_preferences

# The reward model without facts is there for comparison only: it and the first evaluations need nobody to wait for them.
beside() {
    stage train_reward_model FACTS=False ${REWARD_MODEL_STEPS:+MAX_STEPS="$REWARD_MODEL_STEPS"}
    for temperature in 1.0 0; do stage evaluate TEMPERATURE="$temperature"; done
}
if [ "$JOBS" = 2 ]; then
    mkdir -p "$RUN_DIR/logs"
    echo "== beside the following, in $RUN_DIR/logs/beside.log: the reward model without facts, the SFT model's answers"
    beside >"$RUN_DIR/logs/beside.log" 2>&1 &
    beside_pid=$!
    trap 'kill "$beside_pid" 2>/dev/null || true' EXIT
else
    beside
fi

stage train_reward_model FACTS=True ${REWARD_MODEL_STEPS:+MAX_STEPS="$REWARD_MODEL_STEPS"}
stage initialize_policy_model
stage train_rl_model FACTS=True ${PPO_STEPS:+MAX_STEPS="$PPO_STEPS"}
stage evaluate TEMPERATURE=1.0 ADAPTER="$RUN_DIR/policy_init"
for temperature in 1.0 0; do
    stage evaluate TEMPERATURE="$temperature" ADAPTER="$RUN_DIR/fact_rl_model"
done
if [ "$JOBS" = 2 ]; then
    wait "$beside_pid" || { tail -n 20 "$RUN_DIR/logs/beside.log" >&2; exit 1; }
    trap - EXIT
fi

stage best_of_n

answers() { echo "$1=$RUN_DIR/evaluation/$2/answers.jsonl"; }
tool llava_rlhf.tiny_world.report \
    --world "$RUN_DIR/world" \
    --ppo "$RUN_DIR/fact_rl_model" \
    --answers "$(answers "SFT, sampled" sft-temperature-1.0)" \
    "$(answers "SFT, greedy" sft-temperature-0)" \
    "$(answers "policy init, sampled" policy_init-temperature-1.0)" \
    "$(answers "PPO, greedy" fact_rl_model-temperature-0)" \
    "$(answers "PPO, sampled" fact_rl_model-temperature-1.0)" \
    --reward_models "reward model with facts=$RUN_DIR/fact_reward_model" "reward model without facts=$RUN_DIR/reward_model" \
    --best_of_n "without facts=$RUN_DIR/best_of_n/scores.jsonl" "with facts=$RUN_DIR/best_of_n/fact_scores.jsonl" \
    --output_file "$RUN_DIR/report.html" \
    --ppo_report_file "$RUN_DIR/ppo_report.html"

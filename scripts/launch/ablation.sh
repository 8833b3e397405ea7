# shellcheck shell=bash
# Sourced by ablation_seed.sh and ablation_arm.sh of the large sizes, after common.sh, not run: what a seed and an arm are
# made of. The scripts of the size lie in HERE; a script sets every variable that is read here (set -u).

# benchmarks_give_scores: refuse BENCHMARKS that would not, before anything is trained.
benchmarks_give_scores() {
    local benchmark
    for benchmark in $BENCHMARKS; do
        case "$benchmark" in
            pope | chair) ;;
            mmhal)
                : "${JUDGE_URL:-${JUDGE_MODEL_PATH:?BENCHMARKS has mmhal, whose scores need JUDGE_URL and JUDGE_MODEL, or JUDGE_MODEL_PATH}}"
                ;;
            *) echo "error: BENCHMARKS has $benchmark: pope, mmhal or chair" >&2; exit 2 ;;
        esac
    done
}

# score_policy ADAPTER FOLDER: its numbers (none: those of the base), on the benchmarks' own pictures and greedily.
score_policy() {
    local benchmark
    for benchmark in $BENCHMARKS; do
        env -u IMAGE_FOLDER -u TEMPERATURE BENCHMARK="$benchmark" ADAPTER="$1" OUTPUT_DIR="$2" bash "$HERE/evaluate.sh"
    done
}

# prepare_seed: policy init, the reward models with and without facts, the scores of SFT and policy init, all in RUN_DIR.
prepare_seed() {
    benchmarks_give_scores
    score_policy none "$RUN_DIR/before/sft" # first: if a benchmark is not there, it shows now and not after the training
    OUTPUT_DIR="$RUN_DIR/policy_init" bash "$HERE/initialize_policy_model.sh"
    score_policy "$RUN_DIR/policy_init" "$RUN_DIR/before/policy_init"
    local reward=(env -u BASE_MODEL) # that is the policy's, if it is set
    if [ -n "$REWARD_BASE_MODEL" ]; then reward+=(BASE_MODEL="$REWARD_BASE_MODEL"); fi
    if [ -n "$REWARD_MODEL_STEPS" ]; then reward+=(MAX_STEPS="$REWARD_MODEL_STEPS"); fi
    "${reward[@]}" OUTPUT_DIR="$RUN_DIR/fact_reward_model" bash "$REWARD_SCRIPT"
    "${reward[@]}" OUTPUT_DIR="$RUN_DIR/reward_model" REWARD_PROMPT="$PLAIN_REWARD_PROMPT" bash "$REWARD_SCRIPT" --facts False
}

# train_arm ARGUMENT...: PPO with these flags from what prepare_seed left in RUN_DIR, and its scores, in OUTPUT_DIR.
train_arm() {
    case "$FACTS" in
        True) export REWARD_MODEL="$RUN_DIR/fact_reward_model" ;;
        False) export REWARD_MODEL="$RUN_DIR/reward_model" REWARD_PROMPT="$PLAIN_REWARD_PROMPT" ;;
        *) echo "error: FACTS=$FACTS: True or False" >&2; exit 2 ;;
    esac
    env ${PPO_STEPS:+MAX_STEPS="$PPO_STEPS"} POLICY_MODEL="$RUN_DIR/policy_init" OUTPUT_DIR="$OUTPUT_DIR" \
        bash "$HERE/train_rl_model.sh" --facts "$FACTS" "$@"
    score_policy "$OUTPUT_DIR" "$OUTPUT_DIR/evaluation"
}

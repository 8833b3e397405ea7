# shellcheck shell=bash
# Sourced by the scripts of every size, after common.sh, not run: how their variables become the flags of a training program.
#
# A size's script sets every variable that is read here, or the shell stops it (set -u). Paths are made absolute. What
# `given` gets empty leaves its flag out. The arguments of a function come last and win.

# given FLAG VALUE: add both to `flags` of the function that calls this, unless the value is empty.
given() {
    if [ -n "$2" ]; then flags+=("$1" "$2"); fi
}

# shared_flags: add to `flags` what all three programs take from variables of the same names.
shared_flags() {
    flags+=(
        --image_folder "$IMAGE_FOLDER"
        --output_dir "$OUTPUT_DIR"
        --version "$VERSION"
        --query_len "$QUERY_LEN"
        --response_len "$RESPONSE_LEN"
        --model_max_length "$MODEL_MAX_LENGTH"
        --bits "$BITS"
        --learning_rate "$LEARNING_RATE"
        --lr_scheduler_type "$LR_SCHEDULER"
        --max_steps "$MAX_STEPS"
        --seed "$SEED"
    )
    given --image_aspect_ratio "$IMAGE_ASPECT_RATIO"
    given --min_pixels "$MIN_PIXELS"
    given --max_pixels "$MAX_PIXELS"
    given --bf16 "$BF16"
    given --gradient_checkpointing "$GRADIENT_CHECKPOINTING"
    given --max_grad_norm "$MAX_GRAD_NORM"
    given --save_total_limit "$SAVE_TOTAL_LIMIT"
    given --report_to "$REPORT_TO"
    given --dataloader_num_workers "$DATALOADER_WORKERS"
    given --use_cpu "$USE_CPU"
}

# trainer_flags: the same, and what the two programs on transformers.Trainer have besides.
trainer_flags() {
    shared_flags
    flags+=(
        --model_name_or_path "$BASE_MODEL"
        --lora_r "$LORA_R"
        --lora_alpha "$LORA_ALPHA"
        --warmup_steps "$WARMUP"
        --per_device_train_batch_size "$BATCH_SIZE"
        --gradient_accumulation_steps "$ACCUMULATION"
        --eval_size "$EVAL_SIZE"
    )
    given --num_train_epochs "$EPOCHS"
    given --per_device_eval_batch_size "$EVAL_BATCH_SIZE"
    given --logging_steps "$LOGGING_STEPS"
}

# next_script NAME VARIABLE DATA...: say how the script NAME of the size is started with the result of this one in VARIABLE
# (none: ""), and with what this one was given. Where that was data or a base of the user's own, the defaults of the next
# would be other data: the line then names what is missing of the variables DATA. A pipeline (PART_OF) goes on by itself.
next_script() {
    local script="${BASH_SOURCE[${#BASH_SOURCE[@]} - 1]}" words="" missing="" own="" name
    script="$(CDPATH='' cd -- "$(dirname -- "$script")" && pwd)/$1.sh"
    if [ -n "${PART_OF:-}" ] || [ "${DRY_RUN:-0}" = 1 ] || [ ! -f "$script" ]; then return 0; fi
    for name in PREFERENCES DIALOGUES PROMPTS CAPTIONS IMAGE_FOLDER BASE_MODEL; do
        if is_given "$name"; then own=yes; fi
    done
    if [ -n "$own" ] && [ $# = 2 ]; then
        echo "next: evaluation on data of your own, see step 8 of $ROOT/docs/walkthrough.md"
        return 0
    fi
    for name in DATA_DIR RUN_DIR WORLD_DIR SFT_MODEL NUM_GPUS NUM_PROCESSES MIN_PIXELS MAX_PIXELS "${@:3}"; do
        if is_given "$name" && [ -n "${!name}" ]; then words+="$name=$(printf %q "${!name}") "; fi
    done
    if [ -n "$2" ]; then words+="$2=$(printf %q "$OUTPUT_DIR") "; fi
    if is_given BASE_MODEL; then missing=" BASE_MODEL"; fi # a reward model may have another
    for name in ${own:+"${@:3}"}; do
        if ! is_given "$name"; then missing+=" $name"; fi
    done
    echo "next: ${words}bash $(printf %q "$script")${missing:+, with your own$missing}"
}

# is_given NAME: whether a variable came out of the environment.
is_given() { [[ "$(declare -p "$1" 2>/dev/null)" = "declare -x"* ]]; }

train_reward_model() {
    absolute BASE_MODEL PREFERENCES CAPTIONS MORE_FACTS IMAGE_FOLDER REWARD_PROMPT OUTPUT_DIR
    local flags=()
    trainer_flags
    given --facts "$FACTS"
    given --image_to_facts_file "$MORE_FACTS"

    launch llava_rlhf.train_reward_model \
        --dataset_path "$PREFERENCES" \
        --image_to_caption_file "$CAPTIONS" \
        --reward_prompt_file "$REWARD_PROMPT" \
        --eval_strategy steps \
        --eval_steps "$EVAL_STEPS" \
        --save_strategy steps \
        --save_steps "$SAVE_STEPS" \
        --load_best_model_at_end True \
        --metric_for_best_model accuracy \
        "${flags[@]}" \
        "$@"
    next_script initialize_policy_model "" DIALOGUES IMAGE_FOLDER
}

# A result of dpo goes to a folder of its own beside that of sft, unless OUTPUT_DIR is given.
initialize_policy_model() {
    local flags=() dataset
    if [ "$OBJECTIVE" != sft ] && ! is_given OUTPUT_DIR; then OUTPUT_DIR="$(dirname -- "$OUTPUT_DIR")/$OBJECTIVE"; fi
    absolute BASE_MODEL DIALOGUES PREFERENCES POLICY_MODEL IMAGE_FOLDER OUTPUT_DIR DEEPSPEED
    trainer_flags
    if [ "$OBJECTIVE" = sft ]; then
        dataset="$DIALOGUES"
    else
        dataset="$PREFERENCES"
        flags+=(--objective "$OBJECTIVE" --dpo_beta "$DPO_BETA")
        given --policy_model_name_or_path "$POLICY_MODEL"
    fi
    given --deepspeed "$DEEPSPEED"
    if [ -n "$EVAL_STEPS" ]; then flags+=(--eval_strategy steps --eval_steps "$EVAL_STEPS"); fi

    launch llava_rlhf.initialize_policy_model \
        --dataset_path "$dataset" \
        --save_strategy "$SAVE_STRATEGY" \
        "${flags[@]}" \
        "$@"
    if [ "$(basename -- "$0")" != initialize_policy_model.sh ]; then return 0; fi
    if [ "$OBJECTIVE" = sft ]; then
        next_script train_rl_model POLICY_MODEL PROMPTS CAPTIONS IMAGE_FOLDER
    else
        next_script evaluate ADAPTER
    fi
}

# more_reward_models: add to `flags` the reward models that MORE_REWARD_MODELS names, separated by commas.
more_reward_models() {
    if [ -z "$MORE_REWARD_MODELS" ]; then return 0; fi
    local MEMBER_MODEL members=()
    IFS=, read -r -a members <<<"$MORE_REWARD_MODELS"
    flags+=(--more_reward_models)
    for MEMBER_MODEL in "${members[@]}"; do
        absolute MEMBER_MODEL
        flags+=("$MEMBER_MODEL")
    done
}

# fact_reward: add to `flags` what answers are paid by facts, if they are.
fact_reward() {
    if [ "$FACT_REWARD" = none ]; then return 0; fi
    flags+=(--fact_reward "$FACT_REWARD" --unmentioned "$UNMENTIONED")
    given --claim_judge_url "$CLAIM_JUDGE_URL"
    given --claim_judge_model "$CLAIM_JUDGE_NAME"
    if [ "$FACT_REWARD" != claims ]; then
        flags+=(--fact_words "$FACT_WORDS")
        given --picture_question "$PICTURE_QUESTION"
    fi
}

train_rl_model() {
    absolute BASE_MODEL REWARD_BASE_MODEL POLICY_MODEL REWARD_MODEL PROMPTS CAPTIONS MORE_FACTS IMAGE_FOLDER REWARD_PROMPT OUTPUT_DIR
    local flags=()
    shared_flags
    given --reward_base_model_name "$REWARD_BASE_MODEL"
    more_reward_models
    engine_flags
    given --vllm_sleep "$VLLM_SLEEP"
    given --facts "$FACTS"
    given --image_to_facts_file "$MORE_FACTS"
    fact_reward

    launch llava_rlhf.train_rl_model \
        --base_model_name "$BASE_MODEL" \
        --policy_model_name_or_path "$POLICY_MODEL" \
        --reward_model_name_or_path "$REWARD_MODEL" \
        --dataset_path "$PROMPTS" \
        --image_to_caption_file "$CAPTIONS" \
        --reward_prompt_file "$REWARD_PROMPT" \
        --total_epochs "$EPOCHS" \
        --recipe "$RECIPE" \
        --advantage_estimator "$ADVANTAGE_ESTIMATOR" \
        --samples_per_prompt "$SAMPLES_PER_PROMPT" \
        --rollout_batch_size "$ROLLOUT_BATCH_SIZE" \
        --step_batch_size "$STEP_BATCH_SIZE" \
        --rollout_per_device_batch_size "$ROLLOUT_PER_DEVICE_BATCH_SIZE" \
        --reward_model_per_device_batch_size "$REWARD_MODEL_PER_DEVICE_BATCH_SIZE" \
        --step_per_device_batch_size "$STEP_PER_DEVICE_BATCH_SIZE" \
        --noptepochs "$NOPTEPOCHS" \
        --warmup_steps "$WARMUP_STEPS" \
        --optim "$OPTIM" \
        --vf_coef "$VF_COEF" \
        --cliprange "$CLIPRANGE" \
        --cliprange_value "$CLIPRANGE_VALUE" \
        --init_value_with_reward "$INIT_VALUE_WITH_REWARD" \
        --kl_coef "$KL_COEF" \
        --penalize_no_stop_token True \
        --relative_stop_token_penalty True \
        --penalty_reward_value "$PENALTY" \
        --length_bonus_score "$LENGTH_BONUS" \
        --correct_bonus_score "$CORRECT_BONUS" \
        --whiten_rewards False \
        --temperature "$TEMPERATURE" \
        --save_steps "$SAVE_STEPS" \
        "${flags[@]}" \
        "$@"
    next_script evaluate ADAPTER
}

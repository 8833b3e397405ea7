# shellcheck shell=bash
# Sourced by the scripts of every size, after common.sh, not run: how their variables become the flags of a training program.
#
# A size's script sets every variable that is read here, or the shell stops it (set -u). Paths are made absolute. What
# `given` gets empty leaves its flag out. The arguments of a function come last and win.

# given FLAG VALUE: add both to `flags` of the function that calls this, unless the value is empty.
given() {
    if [ -n "$2" ]; then flags+=("$1" "$2"); fi
}

train_reward_model() {
    absolute BASE_MODEL PREFERENCES CAPTIONS IMAGE_FOLDER REWARD_PROMPT OUTPUT_DIR
    local flags=()
    given --facts "$FACTS"
    given --image_aspect_ratio "$IMAGE_ASPECT_RATIO"
    given --bf16 "$BF16"
    given --gradient_checkpointing "$GRADIENT_CHECKPOINTING"
    given --num_train_epochs "$EPOCHS"
    given --max_grad_norm "$MAX_GRAD_NORM"
    given --logging_steps "$LOGGING_STEPS"
    given --report_to "$REPORT_TO"
    given --dataloader_num_workers "$DATALOADER_WORKERS"
    given --use_cpu "$USE_CPU"

    launch llava_rlhf.train_reward_model \
        --model_name_or_path "$BASE_MODEL" \
        --dataset_path "$PREFERENCES" \
        --image_folder "$IMAGE_FOLDER" \
        --image_to_caption_file "$CAPTIONS" \
        --reward_prompt_file "$REWARD_PROMPT" \
        --output_dir "$OUTPUT_DIR" \
        --version "$VERSION" \
        --query_len "$QUERY_LEN" \
        --response_len "$RESPONSE_LEN" \
        --model_max_length "$MODEL_MAX_LENGTH" \
        --bits "$BITS" \
        --lora_r "$LORA_R" \
        --lora_alpha "$LORA_ALPHA" \
        --learning_rate "$LEARNING_RATE" \
        --lr_scheduler_type "$LR_SCHEDULER" \
        --warmup_steps "$WARMUP" \
        --max_steps "$MAX_STEPS" \
        --per_device_train_batch_size "$BATCH_SIZE" \
        --per_device_eval_batch_size "$EVAL_BATCH_SIZE" \
        --gradient_accumulation_steps "$ACCUMULATION" \
        --eval_size "$EVAL_SIZE" \
        --eval_strategy steps \
        --eval_steps "$EVAL_STEPS" \
        --save_strategy steps \
        --save_steps "$SAVE_STEPS" \
        --save_total_limit "$SAVE_TOTAL_LIMIT" \
        --load_best_model_at_end True \
        --metric_for_best_model accuracy \
        --seed "$SEED" \
        "${flags[@]}" \
        "$@"
}

initialize_policy_model() {
    absolute BASE_MODEL DIALOGUES IMAGE_FOLDER OUTPUT_DIR DEEPSPEED
    local flags=()
    given --deepspeed "$DEEPSPEED"
    given --image_aspect_ratio "$IMAGE_ASPECT_RATIO"
    given --bf16 "$BF16"
    given --gradient_checkpointing "$GRADIENT_CHECKPOINTING"
    given --max_grad_norm "$MAX_GRAD_NORM"
    given --per_device_eval_batch_size "$EVAL_BATCH_SIZE"
    if [ -n "$EVAL_STEPS" ]; then flags+=(--eval_strategy steps --eval_steps "$EVAL_STEPS"); fi
    given --save_total_limit "$SAVE_TOTAL_LIMIT"
    given --logging_steps "$LOGGING_STEPS"
    given --report_to "$REPORT_TO"
    given --dataloader_num_workers "$DATALOADER_WORKERS"
    given --use_cpu "$USE_CPU"

    launch llava_rlhf.initialize_policy_model \
        --model_name_or_path "$BASE_MODEL" \
        --dataset_path "$DIALOGUES" \
        --image_folder "$IMAGE_FOLDER" \
        --output_dir "$OUTPUT_DIR" \
        --version "$VERSION" \
        --query_len "$QUERY_LEN" \
        --response_len "$RESPONSE_LEN" \
        --model_max_length "$MODEL_MAX_LENGTH" \
        --bits "$BITS" \
        --lora_r "$LORA_R" \
        --lora_alpha "$LORA_ALPHA" \
        --learning_rate "$LEARNING_RATE" \
        --lr_scheduler_type "$LR_SCHEDULER" \
        --warmup_steps "$WARMUP" \
        --num_train_epochs "$EPOCHS" \
        --max_steps "$MAX_STEPS" \
        --per_device_train_batch_size "$BATCH_SIZE" \
        --gradient_accumulation_steps "$ACCUMULATION" \
        --eval_size "$EVAL_SIZE" \
        --save_strategy "$SAVE_STRATEGY" \
        --seed "$SEED" \
        "${flags[@]}" \
        "$@"
}

train_rl_model() {
    absolute BASE_MODEL REWARD_BASE_MODEL POLICY_MODEL REWARD_MODEL PROMPTS CAPTIONS IMAGE_FOLDER REWARD_PROMPT OUTPUT_DIR
    local flags=()
    given --reward_base_model_name "$REWARD_BASE_MODEL"
    given --facts "$FACTS"
    given --image_aspect_ratio "$IMAGE_ASPECT_RATIO"
    given --bf16 "$BF16"
    given --save_total_limit "$SAVE_TOTAL_LIMIT"
    given --report_to "$REPORT_TO"
    given --dataloader_num_workers "$DATALOADER_WORKERS"
    given --use_cpu "$USE_CPU"

    launch llava_rlhf.train_rl_model \
        --base_model_name "$BASE_MODEL" \
        --policy_model_name_or_path "$POLICY_MODEL" \
        --reward_model_name_or_path "$REWARD_MODEL" \
        --dataset_path "$PROMPTS" \
        --image_folder "$IMAGE_FOLDER" \
        --image_to_caption_file "$CAPTIONS" \
        --reward_prompt_file "$REWARD_PROMPT" \
        --output_dir "$OUTPUT_DIR" \
        --version "$VERSION" \
        --query_len "$QUERY_LEN" \
        --response_len "$RESPONSE_LEN" \
        --model_max_length "$MODEL_MAX_LENGTH" \
        --total_epochs "$EPOCHS" \
        --max_steps "$MAX_STEPS" \
        --rollout_batch_size "$ROLLOUT_BATCH_SIZE" \
        --step_batch_size "$STEP_BATCH_SIZE" \
        --rollout_per_device_batch_size "$ROLLOUT_PER_DEVICE_BATCH_SIZE" \
        --reward_model_per_device_batch_size "$REWARD_MODEL_PER_DEVICE_BATCH_SIZE" \
        --step_per_device_batch_size "$STEP_PER_DEVICE_BATCH_SIZE" \
        --noptepochs "$NOPTEPOCHS" \
        --learning_rate "$LEARNING_RATE" \
        --lr_scheduler_type "$LR_SCHEDULER" \
        --warmup_steps "$WARMUP_STEPS" \
        --max_grad_norm "$MAX_GRAD_NORM" \
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
        --bits "$BITS" \
        --gradient_checkpointing "$GRADIENT_CHECKPOINTING" \
        --save_steps "$SAVE_STEPS" \
        --seed "$SEED" \
        "${flags[@]}" \
        "$@"
}

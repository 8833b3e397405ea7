# shellcheck shell=bash
# Sourced by evaluate.sh of the large sizes, after common.sh, not run: where the files of a benchmark are, and how variables
# become the flags of `answer` and `score`. A size's script sets every variable that is read here (set -u).

# policy_name: of the folder in ADAPTER; without one: base.
policy_name() {
    if [ "$ADAPTER" = none ]; then echo base; else basename -- "$ADAPTER"; fi
}

# evaluate_benchmark ARGUMENT...: answer BENCHMARK (the arguments are those of `answer`), then score the answers.
evaluate_benchmark() {
    if [ "$ADAPTER" = none ]; then ADAPTER=; fi
    absolute BASE_MODEL ADAPTER OUTPUT_DIR POPE_DIR MMHAL_DIR COCO_DIR IMAGE_FOLDER SYNONYMS JUDGE_MODEL_PATH
    local files pictures aspect_ratio="$IMAGE_ASPECT_RATIO" min_pixels="$MIN_PIXELS" max_pixels="$MAX_PIXELS"
    case "$BENCHMARK" in
        pope)
            files=("$POPE_DIR"/coco_pope_{random,popular,adversarial}.json)
            pictures="$COCO_DIR/val2014"
            ;;
        mmhal)
            files=("$MMHAL_DIR/response_template.json")
            pictures="$MMHAL_DIR/images"
            ;;
        chair)
            files=("$COCO_DIR"/annotations/{instances,captions}_val2014.json)
            pictures="$COCO_DIR/val2014"
            ;;
        *) echo "error: BENCHMARK=$BENCHMARK: pope, mmhal or chair" >&2; exit 2 ;;
    esac
    local questions=(
        --benchmark "$BENCHMARK"
        --benchmark_files "${files[@]}"
        --images "$IMAGES"
        ${SYNONYMS:+--synonyms_file "$SYNONYMS"}
    )

    local flags=()
    engine_flags
    start "$PYTHON" -m llava_rlhf.evaluate answer \
        "${questions[@]}" \
        --base_model_name "$BASE_MODEL" \
        ${ADAPTER:+--adapter "$ADAPTER"} \
        --image_folder "${IMAGE_FOLDER:-$pictures}" \
        --output_file "$OUTPUT_DIR/$BENCHMARK.jsonl" \
        --version "$VERSION" \
        ${aspect_ratio:+--image_aspect_ratio "$aspect_ratio"} \
        ${min_pixels:+--min_pixels "$min_pixels"} \
        ${max_pixels:+--max_pixels "$max_pixels"} \
        --question_suffix "$QUESTION_SUFFIX" \
        --temperature "$TEMPERATURE" \
        --samples "$SAMPLES" \
        --batch_size "$BATCH_SIZE" \
        --query_len "$QUERY_LEN" \
        --response_len "$RESPONSE_LEN" \
        --model_max_length "$MODEL_MAX_LENGTH" \
        --bits "$BITS" \
        --bf16 "$BF16" \
        --seed "$SEED" \
        "${flags[@]}" \
        "$@"

    if [ "$BENCHMARK" = mmhal ] && [ -z "$JUDGE_URL$JUDGE_MODEL_PATH" ]; then
        start echo "the answers are in $OUTPUT_DIR/mmhal.jsonl; to score them, run this again with JUDGE_URL and JUDGE_MODEL"
        return
    fi
    start "$PYTHON" -m llava_rlhf.evaluate score \
        "${questions[@]}" \
        --answers "$OUTPUT_DIR/$BENCHMARK.jsonl" \
        --output_file "$OUTPUT_DIR/$BENCHMARK.json" \
        ${JUDGE_URL:+--judge_url "$JUDGE_URL" --judge_model "$JUDGE_MODEL"} \
        ${JUDGE_MODEL_PATH:+--judge_model_path "$JUDGE_MODEL_PATH"} \
        --judge_repeats "$JUDGE_REPEATS"
}

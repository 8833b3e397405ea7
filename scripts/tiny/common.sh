# shellcheck shell=bash disable=SC2034 # scripts and ../launch/training.sh read its variables
# Sourced by the scripts of the tiny world, not run: everything on the CPU, one thread a process, one run folder.

source "$(dirname -- "${BASH_SOURCE[0]}")/../common.sh"
source "$ROOT/scripts/launch/tiny_world.sh" # FAMILY

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" DS_ACCELERATOR=cpu TOKENIZERS_PARALLELISM=false
NUM_PROCESSES="${NUM_PROCESSES:-1}"
if [ "$NUM_PROCESSES" = 1 ] && [ "${NNODES:-1}" = 1 ]; then LAUNCHER="${LAUNCHER:-none}"; fi

RUN_DIR="${RUN_DIR:-$ROOT/runs/tiny$RUN_SUFFIX}"
absolute RUN_DIR

# In every stage, whatever the environment says
USE_CPU=True
IMAGE_ASPECT_RATIO="" MIN_PIXELS="" MAX_PIXELS="" # empty: the program's default
BF16="" REPORT_TO="" DATALOADER_WORKERS=""

# tool MODULE ARGUMENT...: run a program that needs no launcher.
tool() { start "$PYTHON" -m "$@"; }

# answer PROMPTS ARGUMENT...: let SFT_MODEL, or it with ADAPTER on top, answer a file of the world, to OUTPUT_DIR.
answer() {
    tool llava_rlhf.answer_prompts \
        --base_model_name "$SFT_MODEL" \
        ${ADAPTER:+--adapter "$ADAPTER"} \
        --dataset_path "$WORLD_DIR/$1" \
        --image_folder "$WORLD_DIR/images" \
        --output_file "$OUTPUT_DIR/answers.jsonl" \
        --version "$VERSION" \
        --query_len "$QUERY_LEN" \
        --response_len "$RESPONSE_LEN" \
        --temperature "$TEMPERATURE" \
        --batch_size "$BATCH_SIZE" \
        --use_cpu "$USE_CPU" \
        --seed "$SEED" \
        "${@:2}"
}

# set_kind: from FACTS the KIND of reward model, with which its names begin: fact_ or nothing.
set_kind() {
    case "$FACTS" in True) KIND=fact_ ;; False) KIND= ;; *) echo "error: FACTS=$FACTS: True or False" >&2; exit 2 ;; esac
}

# not_for_all NAME...: refuse variables that mean something else in every stage.
not_for_all() {
    local name
    for name in "$@"; do
        if [ -n "${!name:-}" ]; then
            echo "error: $name is set, but every stage has its own: unset it; RUN_DIR names the folder of the run" >&2
            exit 2
        fi
    done
}

# not_for_an_ablation: refuse the variables that would put a path of one stage into all of them.
not_for_an_ablation() {
    not_for_all BASE_MODEL SFT_MODEL TEMPERATURE IMAGE_FOLDER CAPTIONS PREFERENCES DIALOGUES PROMPTS WORLD_DIR POLICY_MODEL \
        REWARD_MODEL REWARD_PROMPT
}

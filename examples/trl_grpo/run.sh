#!/usr/bin/env bash
# TRL's GRPO on the tiny world, paid by our reward service: trains what is missing of the tiny world (world, SFT, reward model,
# start of the policy), exports the policy, starts the service, trains with TRL, and measures held-out pictures before and after.
#
# Hardware: CPU, two cores. Time: about 10 minutes for what is missing, beside other jobs; the rest 3 (166 s of GRPO measured).
# bash scripts/setup_trl.sh first. Variables written as "${NAME:-value}" can be set in the environment.
set -euo pipefail
HERE="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
source "$HERE/../../scripts/tiny/common.sh"

TRL_VENV="${TRL_VENV:-$ROOT/.venv-trl}"
GRPO_STEPS="${GRPO_STEPS:-60}"
PORT="${PORT:-8100}"
absolute TRL_VENV
export RUN_DIR

if [ ! -x "$TRL_VENV/bin/python" ]; then
    echo "error: no TRL in $TRL_VENV: bash scripts/setup_trl.sh installs it" >&2
    exit 2
fi
stage() { env PART_OF=trl_grpo "${@:2}" bash "$ROOT/scripts/tiny/$1.sh"; }

if [ ! -f "$RUN_DIR/policy_init/finished.json" ]; then
    for name in make_world train_sft sample_preferences; do stage "$name"; done
    stage train_reward_model FACTS=True ${REWARD_MODEL_STEPS:+MAX_STEPS="$REWARD_MODEL_STEPS"}
    stage initialize_policy_model
fi
if [ ! -d "$RUN_DIR/policy" ]; then
    tool llava_rlhf.export_policy --base_model_name "$RUN_DIR/sft/merged" --adapter "$RUN_DIR/policy_init" \
        --output_dir "$RUN_DIR/policy"
fi

"$PYTHON" -m llava_rlhf.serve_reward --reward_model "$RUN_DIR/fact_reward_model" --use_cpu True --batch_size 64 --port "$PORT" \
    >"$RUN_DIR/reward_service.log" 2>&1 &
service=$!
trap 'kill "$service" 2>/dev/null || true' EXIT
# Ours, and not another service that already has the port: that one would pay with another reward model.
until grep -qs "^scoring at" "$RUN_DIR/reward_service.log"; do
    kill -0 "$service" 2>/dev/null || { cat "$RUN_DIR/reward_service.log" >&2; exit 1; }
    sleep 1
done

REWARD_URL="http://127.0.0.1:$PORT" "$TRL_VENV/bin/python" "$HERE/train.py" \
    --model "$RUN_DIR/policy" --world "$RUN_DIR/world" --output_dir "$RUN_DIR/trl_grpo" --steps "$GRPO_STEPS"

stage evaluate SFT_MODEL="$RUN_DIR/policy" OUTPUT_DIR="$RUN_DIR/evaluation/before_grpo"
stage evaluate SFT_MODEL="$RUN_DIR/policy" ADAPTER="$RUN_DIR/trl_grpo" OUTPUT_DIR="$RUN_DIR/evaluation/after_grpo"

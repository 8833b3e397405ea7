#!/usr/bin/env bash
# Take the method apart: PPO with and without facts, correct-answer bonus, length term, missing-stop penalty, and with
# three forms of the KL penalty, in every combination, over seeds. Tables and picture with intervals: docs/ablation.md.
#
# Hardware: the tiny world needs two CPU cores, 2 GB of memory (estimated) and 2 GB of disk (measured).
# Time: 80 minutes for 48 combinations × 3 seeds on two cores (measured, beside other work); DESIGN=one_off, 7 runs a seed, 20
# minutes (estimated). Run it again after a stop: what is done is not done again; a run that was stopped goes on.
# Another size: SCRIPTS=scripts/7b-v1.5-224 JOBS=1. Its variables reach every run: KL_COEF=0.05, for example.
# Every variable below can be set in the environment; flags on the command line are passed on and win.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

SCRIPTS="${SCRIPTS:-$ROOT/scripts/tiny}"
OUTPUT_DIR="${OUTPUT_DIR:-$ROOT/runs/ablation/$(basename -- "$SCRIPTS")}"
absolute SCRIPTS OUTPUT_DIR

DESIGN="${DESIGN:-full}" # one_off: the recipe, and what differs from it in one ingredient
FACTORS="${FACTORS:-facts correct_bonus length_term stop_penalty kl_form}"
SEEDS="${SEEDS:-0 1 2}"
JOBS="${JOBS:-2}" # runs at a time; 1 where a run takes all GPUs
MEASURES="${MEASURES:-}" # columns of the tables; empty: all

# Lists are meant to be split at spaces.
# shellcheck disable=SC2086
start "$PYTHON" -m llava_rlhf.ablate \
    --scripts "$SCRIPTS" \
    --output_dir "$OUTPUT_DIR" \
    --design "$DESIGN" \
    --factors $FACTORS \
    --seeds $SEEDS \
    --jobs "$JOBS" \
    ${MEASURES:+--measures $MEASURES} \
    "$@"

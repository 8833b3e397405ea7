#!/usr/bin/env bash
# Write a tiny world: pictures of coloured shapes, captions and every data file in the published formats.
#
# Hardware: one CPU core, 1 GB of memory. Time: 15 s (estimated).
# Every variable below can be set in the environment; flags on the command line are passed on and win.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

WORLD_DIR="${WORLD_DIR:-$RUN_DIR/world}"
SEED="${SEED:-0}"
NOISE="${NOISE:-0.5}" # pixel noise: the vision bottleneck
# How wrong the annotations are that the SFT model learns from
FALSE_OBJECT="${FALSE_OBJECT:-0.9}"
WRONG_YES="${WRONG_YES:-0.9}"
CLEAN="${CLEAN:-0.05}"
TRAIN_IMAGES="${TRAIN_IMAGES:-2000}"
INIT_IMAGES="${INIT_IMAGES:-500}"
PREFERENCE_IMAGES="${PREFERENCE_IMAGES:-4000}"
PPO_IMAGES="${PPO_IMAGES:-1000}"
EVAL_IMAGES="${EVAL_IMAGES:-256}"
absolute WORLD_DIR

tool llava_rlhf.tiny_world.make_world \
    --output_dir "$WORLD_DIR" \
    --seed "$SEED" \
    --pictures "$PICTURES" \
    --noise "$NOISE" \
    --false_object "$FALSE_OBJECT" \
    --wrong_yes "$WRONG_YES" \
    --clean "$CLEAN" \
    --train_images "$TRAIN_IMAGES" \
    --init_images "$INIT_IMAGES" \
    --preference_images "$PREFERENCE_IMAGES" \
    --ppo_images "$PPO_IMAGES" \
    --eval_images "$EVAL_IMAGES" \
    "$@"

#!/usr/bin/env bash
# Start a vLLM server that answers the prompts of PPO, of benchmarks and of preference collection: it holds the base, and is
# given the policy's adapter anew at each step. scripts/setup_vllm.sh installs vLLM; docs/vllm.md says where to place servers.
#
# Hardware: a GPU of its own that holds the base in 16 bits, its cache and pictures (7B: 1 of 24 GB, estimated); without one
# vLLM runs on the CPU, for tests. Time: about a minute until it answers at /health (25 to 50 s for the tiny base, measured).
# Then start training with --rollout_engine vllm --vllm_servers http://HOST:PORT.
# Variables written as "${NAME:-value}" can be set in the environment; flags on the command line are passed on and win, and
# what stands behind -- goes to vLLM.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

BASE_MODEL="${BASE_MODEL:-$ROOT/checkpoints/llava-7b-v1.5-224-sft}" # that of the policy, in 16 bits
VLLM_VENV="${VLLM_VENV:-$ROOT/.venv-vllm}"
absolute BASE_MODEL VLLM_VENV

# Where it listens. Another address than this machine's own asks for a key in VLLM_API_KEY, here and where training runs.
HOST="${HOST:-127.0.0.1}"
PORT="${PORT:-8000}"

# What requests may ask for
LORA_RANK="${LORA_RANK:-64}" # the highest of the adapters; rounded up to one that vLLM has
MAX_MODEL_LEN="${MAX_MODEL_LEN:-}" # tokens of prompt, pictures and answer; empty: what the base can, up to 4096
IMAGES_PER_PROMPT="${IMAGES_PER_PROMPT:-1}"
MIN_PIXELS="${MIN_PIXELS:-}" # Qwen: of a picture, as in training
MAX_PIXELS="${MAX_PIXELS:-}"

# How much at once
MAX_NUM_SEQS="${MAX_NUM_SEQS:-256}" # answers
DTYPE="${DTYPE:-auto}" # bfloat16 as in training; auto: that or float16, as the base is stored
GPU_MEMORY="${GPU_MEMORY:-0.9}" # share of each GPU
TENSOR_PARALLEL="${TENSOR_PARALLEL:-1}" # GPUs that share the model
SLEEP="${SLEEP:-False}" # whether it can be sent to sleep, to leave its GPU to training for a while
SEED="${SEED:-0}" # of requests that bring none

command=(
    "$PYTHON" -m llava_rlhf.serve_policy
    --base_model_name "$BASE_MODEL"
    --vllm_venv "$VLLM_VENV"
    --host "$HOST"
    --port "$PORT"
    --lora_rank "$LORA_RANK"
    ${MAX_MODEL_LEN:+--max_model_len "$MAX_MODEL_LEN"}
    --images_per_prompt "$IMAGES_PER_PROMPT"
    ${MIN_PIXELS:+--min_pixels "$MIN_PIXELS"}
    ${MAX_PIXELS:+--max_pixels "$MAX_PIXELS"}
    --max_num_seqs "$MAX_NUM_SEQS"
    --dtype "$DTYPE"
    --gpu_memory "$GPU_MEMORY"
    --tensor_parallel "$TENSOR_PARALLEL"
    --sleep "$SLEEP"
    --seed "$SEED"
    "$@"
)
if [ "$DRY_RUN" = 1 ]; then start "${command[@]}"; else exec "${command[@]}"; fi # so that a signal reaches the server

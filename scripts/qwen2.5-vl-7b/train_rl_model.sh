#!/usr/bin/env bash
# PPO of the Qwen2.5-VL-7B policy: policy, value, reference and reward model are four adapters over one 4-bit base.
#
# Hardware: 8 GPUs of 80 GB. Memory: 43.5 GiB a GPU (planned for pictures of 640x640 pixels, nothing was measured on a GPU).
# Time: not measured; a checkpoint every 10 steps, and a rerun continues from the newest.
# Before it: initialize_policy_model.sh and train_reward_model.sh here; REWARD_MODEL may also name a checkpoint of the latter.
# Several nodes: run it on every node with NNODES=2 NODE_RANK=0 (1, ...) MASTER_ADDR=<address of node 0>.
# Variables written as "${NAME:-value}" can be set in the environment; flags on the command line are passed on and win.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/../common.sh"
source "$(dirname -- "${BASH_SOURCE[0]}")/../launch/training.sh"

# Paths: the instruct model on the Hugging Face Hub, or a folder, earlier results, the published data, COCO train2017 images.
DATA_DIR="${DATA_DIR:-$ROOT/data}"
BASE_MODEL="${BASE_MODEL:-Qwen/Qwen2.5-VL-7B-Instruct}"
REWARD_BASE_MODEL="${REWARD_BASE_MODEL:-$BASE_MODEL}"
POLICY_MODEL="${POLICY_MODEL:-$ROOT/runs/qwen2.5-vl-7b/policy_init}"
REWARD_MODEL="${REWARD_MODEL:-$ROOT/runs/qwen2.5-vl-7b/reward_model}"
MORE_REWARD_MODELS="${MORE_REWARD_MODELS:-}" # of the same base, separated by commas: all score together; empty: none
PROMPTS="${PROMPTS:-$DATA_DIR/llava_ppo50k-aokvqa12k-vqa10k.json}"
CAPTIONS="${CAPTIONS:-$DATA_DIR/image_to_caption.json}"
MORE_FACTS="${MORE_FACTS:-}" # facts beside captions (docs/facts.md), the same as of the reward model; empty: none
IMAGE_FOLDER="${IMAGE_FOLDER:-$DATA_DIR/coco/train2017}"
REWARD_PROMPT="${REWARD_PROMPT:-$ROOT/prompts/fact_rlhf_reward_prompt.txt}"
OUTPUT_DIR="${OUTPUT_DIR:-$ROOT/runs/qwen2.5-vl-7b/rl_model}"

# Processes
NUM_PROCESSES="${NUM_GPUS:-8}"

# Batches: rollouts per PPO step and rollouts per optimizer step (all processes), and what one GPU does at once. As published for
# LLaVA, like what follows; nothing was tuned for this base.
EPOCHS="${EPOCHS:-4}"
MAX_STEPS="${MAX_STEPS:--1}" # -1: as EPOCHS says
ROLLOUT_BATCH_SIZE="${ROLLOUT_BATCH_SIZE:-512}"
STEP_BATCH_SIZE="${STEP_BATCH_SIZE:-256}"
ROLLOUT_PER_DEVICE_BATCH_SIZE="${ROLLOUT_PER_DEVICE_BATCH_SIZE:-64}"
REWARD_MODEL_PER_DEVICE_BATCH_SIZE="${REWARD_MODEL_PER_DEVICE_BATCH_SIZE:-16}"
STEP_PER_DEVICE_BATCH_SIZE="${STEP_PER_DEVICE_BATCH_SIZE:-16}"
NOPTEPOCHS="${NOPTEPOCHS:-2}"

# Who answers prompts: the policy itself, or servers (vllm; scripts/serve_policy.sh) that VLLM_SERVERS names, separated by commas
ROLLOUT_ENGINE="${ROLLOUT_ENGINE:-local}"
VLLM_SERVERS="${VLLM_SERVERS:-}"
VLLM_SLEEP="${VLLM_SLEEP:-}" # True: they share GPUs with training, and sleep while it computes (SLEEP=True there)

# Optimisation: how advantages are estimated (gae: a critic; rloo, grpo, reinforce: none is loaded), and the rest
RECIPE="${RECIPE:-modern}" # published: the critic as in 2023; docs/optimisers.md
ADVANTAGE_ESTIMATOR="${ADVANTAGE_ESTIMATOR:-gae}"
SAMPLES_PER_PROMPT="${SAMPLES_PER_PROMPT:-1}" # rloo and grpo need several
LEARNING_RATE="${LEARNING_RATE:-3e-5}"
LR_SCHEDULER="${LR_SCHEDULER:-cosine}"
WARMUP_STEPS="${WARMUP_STEPS:-5}"
MAX_GRAD_NORM="${MAX_GRAD_NORM:-1.0}"
OPTIM="${OPTIM:-paged_adamw_32bit}"
VF_COEF="${VF_COEF:-0.1}"
CLIPRANGE="${CLIPRANGE:-0.2}"
CLIPRANGE_VALUE="${CLIPRANGE_VALUE:-0.2}"
INIT_VALUE_WITH_REWARD="${INIT_VALUE_WITH_REWARD:-True}"
SEED="${SEED:-42}"

# Reward
KL_COEF="${KL_COEF:-0.1}"
PENALTY="${PENALTY:--8.0}" # no stop token
LENGTH_BONUS="${LENGTH_BONUS:--10.0}" # times length / RESPONSE_LEN
CORRECT_BONUS="${CORRECT_BONUS:-2.0}"
FACT_REWARD="${FACT_REWARD:-none}" # mentions: things that an answer names are paid by the facts, as the next two say; claims: its sentences are (docs/facts.md)
FACT_WORDS="${FACT_WORDS:-coco}"
UNMENTIONED="${UNMENTIONED:-neutral}" # a thing that no fact names, or a claim they leave open; penalise: it is not there
PICTURE_QUESTION="${PICTURE_QUESTION:-}" # of mentions and UNMENTIONED=ask_picture; empty: the program's default
CLAIM_JUDGE_URL="${CLAIM_JUDGE_URL:-}" # who judges claims, with CLAIM_JUDGE_NAME; empty: the reward model's base
CLAIM_JUDGE_NAME="${CLAIM_JUDGE_NAME:-}" # the model, as that endpoint calls it
TEMPERATURE="${TEMPERATURE:-1.0}"

# Lengths in tokens. QUERY_LEN counts an image as one, MODEL_MAX_LENGTH all its positions: the published 2048 of text, and 576
# as a picture of LLaVA took. A picture of COCO takes up to 531 (640x640 pixels); a row that is longer is left out.
QUERY_LEN="${QUERY_LEN:-128}"
RESPONSE_LEN="${RESPONSE_LEN:-896}"
MODEL_MAX_LENGTH="${MODEL_MAX_LENGTH:-2624}"

# Size of a picture in pixels, of which a position takes 784 (28x28): pictures above MAX_PIXELS are made smaller, so that they
# take less memory and time, and show less. The same in all four scripts: a model is not asked with others than its own.
MIN_PIXELS="${MIN_PIXELS:-}" # empty: what the image processor of the base says
MAX_PIXELS="${MAX_PIXELS:-}"

# Model
BITS="${BITS:-4}"
BF16="${BF16:-True}"
GRADIENT_CHECKPOINTING="${GRADIENT_CHECKPOINTING:-True}"

# Checkpoints and logs
SAVE_STEPS="${SAVE_STEPS:-10}"
REPORT_TO="${REPORT_TO:-tensorboard}"
DATALOADER_WORKERS="${DATALOADER_WORKERS:-4}" # processes that decode images, for each GPU

# Fixed, whatever the environment says
VERSION=chat # the template of the base itself
IMAGE_ASPECT_RATIO="" # pictures keep their shape
FACTS="" SAVE_TOTAL_LIMIT="" USE_CPU="" # empty: the program's default

train_rl_model "$@"

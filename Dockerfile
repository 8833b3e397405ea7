# CUDA image for the training scripts. Nobody has built it for a release yet: tell us what fails.
#   docker build -t llava-rlhf .
#   docker run --gpus all --shm-size 16g -v $PWD/data:/app/data -v $PWD/checkpoints:/app/checkpoints -v $PWD/runs:/app/runs \
#       llava-rlhf bash scripts/13b-v1.5-336/train_reward_model.sh
FROM nvidia/cuda:12.8.1-devel-ubuntu24.04
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install -y --no-install-recommends git python3 python3-dev python3-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY setup.py requirements.txt ./
COPY scripts/setup_venv.sh scripts/
COPY data_utils data_utils
COPY models models
COPY llava_rlhf llava_rlhf
# The build of PyTorch for the CUDA above; another one: docker build --build-arg TORCH_SPEC=...
ARG TORCH_SPEC="torch==2.13.0"
RUN TORCH_SPEC="$TORCH_SPEC" bash scripts/setup_venv.sh
COPY . .
# With --build-arg VLLM=1 also what scripts/serve_policy.sh starts (docs/vllm.md), in an environment of its own.
ARG VLLM=""
RUN if [ -n "$VLLM" ]; then VLLM_BUILD=gpu bash scripts/setup_vllm.sh; fi
CMD ["bash"]

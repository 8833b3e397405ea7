# shellcheck shell=bash
# Sourced by the scripts, not run: where the repository is, which Python, and the one way a program is started.
#
# LAUNCHER     torchrun (default); deepspeed; none: one process without a launcher; else the path of a program that takes
#              torchrun's arguments.
# NUM_PROCESSES, NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT    processes per node, and how several nodes find each other.
# PYTHON       default: that of .venv if there is one, else python3.
# DRY_RUN=1    print what would be started, quoted for a shell, and start nothing.

ROOT="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    if [ -x "$ROOT/.venv/bin/python" ]; then PYTHON="$ROOT/.venv/bin/python"; fi
fi

# Programs are found from any directory, and a folder there that is called models or data_utils does not hide ours.
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1

# absolute NAME...: make the paths in these variables absolute (run folders record them). An empty one stays empty, and so
# does a model's or data set's id on the Hugging Face Hub, where nothing of that name is here.
absolute() {
    local name
    for name in "$@"; do
        if [ -z "${!name+set}" ]; then echo "error: $name is not set" >&2; exit 2; fi
        if is_hub_id "$name"; then continue; fi
        case "${!name}" in "" | /*) ;; *) printf -v "$name" '%s/%s' "$PWD" "${!name}" ;; esac
    done
}

# is_hub_id NAME: whether a variable that may name a model or data set is owner/name[@revision][/folder or file]. The
# programs look again (llava_rlhf/hub/places.py).
is_hub_id() {
    case "$1" in *_MODEL | ADAPTER | JUDGE_MODEL_PATH | PREFERENCES | DIALOGUES | PROMPTS | CAPTIONS | DATASET) ;; *) return 1 ;; esac
    [[ "${!1}" =~ ^([A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*)(@[^/@[:space:]]+)?(/.*)?$ ]] || return 1
    if [ -e "${!1}" ] || [ -L "${!1}" ] || [ -e "${BASH_REMATCH[1]}" ] || [ -L "${BASH_REMATCH[1]}" ]; then return 1; fi
    [[ "${!1}" =~ ^[^/]+/[^/@]+\.(json|jsonl|gz)$ ]] && return 1 # two names of which the second is a file's
    return 0
}

# start COMMAND ARGUMENT...: run it, or say that it would be run.
start() {
    if [ "${DRY_RUN:-0}" = 1 ]; then
        "$PYTHON" -c 'import shlex, sys; print(shlex.join(sys.argv[1:]))' "$@"
    else
        "$@"
    fi
}

# launch MODULE ARGUMENT...: start a training program on every process.
launch() {
    local topology=(--nnodes "${NNODES:-1}" --nproc-per-node "${NUM_PROCESSES:-1}")
    if [ "${NNODES:-1}" != 1 ]; then
        : "${NODE_RANK:?NNODES is above 1: set NODE_RANK (0 on the first node, 1 on the next ...)}"
        : "${MASTER_ADDR:?NNODES is above 1: set MASTER_ADDR to the address of node 0}"
    fi
    if [ -n "${MASTER_ADDR:-}${MASTER_PORT:-}" ]; then
        topology+=(--node-rank "${NODE_RANK:-0}" --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${MASTER_PORT:-29500}")
    else
        topology+=(--standalone --local-addr 127.0.0.1) # a free port, so that runs on one machine do not collide
    fi
    # Without ssh: like torchrun, the script is started on every node.
    local deepspeed_topology=(--no_local_rank --num_gpus "${NUM_PROCESSES:-1}" --master_port "${MASTER_PORT:-29500}")
    local hosts="" status=0
    if [ "${NNODES:-1}" != 1 ] && [ "${LAUNCHER:-}" = deepspeed ]; then
        hosts="$(mktemp)" # its launcher counts nodes in a file of hosts only; without ssh their names mean nothing
        printf "node%d slots=${NUM_PROCESSES:-1}\n" $(seq 0 $((NNODES - 1))) >"$hosts"
        deepspeed_topology+=(--hostfile "$hosts" --no_ssh --num_nodes "$NNODES" --node_rank "$NODE_RANK")
        deepspeed_topology+=(--master_addr "$MASTER_ADDR")
    fi
    case "${LAUNCHER:-torchrun}" in
        none) start "$PYTHON" -m "$@" ;;
        torchrun) start "$PYTHON" -m torch.distributed.run "${topology[@]}" -m "$@" ;;
        deepspeed) start "$PYTHON" -m deepspeed.launcher.runner "${deepspeed_topology[@]}" --module "$@" ;;
        *) start "$LAUNCHER" "${topology[@]}" -m "$@" ;;
    esac || status=$?
    rm -f -- "$hosts"
    return "$status"
}

# shellcheck shell=bash
# Sourced by the scripts, not run: where the repository is, which Python, and the one way a program is started.
#
# LAUNCHER     torchrun (default); deepspeed; none: one process without a launcher; else the path of a program that takes
#              torchrun's arguments.
# NUM_PROCESSES, NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT    processes per node, and how several nodes find each other.
# PYTHON       default: that of .venv if there is one, else python3.
# DRY_RUN      1, true or yes: print what would be started, quoted for a shell, and start nothing; 0, false, no or empty: start.

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
    case "$1" in *_MODEL | ADAPTER | JUDGE_MODEL_PATH | PREFERENCES | DIALOGUES | PROMPTS | CAPTIONS | MORE_FACTS | DATASET) ;; *) return 1 ;; esac
    [[ "${!1}" =~ ^([A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*)(@[^/@[:space:]]+)?(/.*)?$ ]] || return 1
    if [ -e "${!1}" ] || [ -L "${!1}" ] || [ -e "${BASH_REMATCH[1]}" ] || [ -L "${BASH_REMATCH[1]}" ]; then return 1; fi
    [ -n "${BASH_REMATCH[2]}" ] && return 0 # with a revision
    case "${!1}" in checkpoints/* | runs/* | data/*) return 1 ;; esac
    [ -d "${!1%%/*}" ] && return 1
    [[ "${!1}" =~ ^[^/]+/[^/@]+\.(json|jsonl|gz)$ ]] && return 1 # two names of which the second is a file's
    return 0
}

# From here on it is 1 or 0, for the scripts that this one starts, too.
case "${DRY_RUN:-}" in
    1 | [Tt][Rr][Uu][Ee] | [Yy][Ee][Ss]) DRY_RUN=1 ;;
    "" | 0 | [Ff][Aa][Ll][Ss][Ee] | [Nn][Oo]) DRY_RUN=0 ;;
    *)
        echo "error: DRY_RUN=$DRY_RUN: 1, true or yes prints what would be started; 0, false, no or nothing starts it" >&2
        exit 2
        ;;
esac

source "$ROOT/scripts/launch/environment.sh"
tell_environment "${BASH_SOURCE[@]}"

# start COMMAND ARGUMENT...: run it, or say that it would be run.
start() {
    if [ "$DRY_RUN" = 1 ]; then
        "$PYTHON" -c 'import shlex, sys; print(shlex.join(sys.argv[1:]))' "$@"
    else
        "$@"
    fi
}

# engine_flags: add to `flags` who answers prompts, and the servers that VLLM_SERVERS names, separated by commas.
engine_flags() {
    flags+=(--rollout_engine "$ROLLOUT_ENGINE")
    if [ -z "$VLLM_SERVERS" ]; then return 0; fi
    local servers=()
    IFS=, read -r -a servers <<<"$VLLM_SERVERS"
    flags+=(--vllm_servers "${servers[@]}")
}

# checked_for PROCESSES MODULE ARGUMENT...: let a program check settings, paths and data, alone and before anything is
# started. Status 10: the processes may start; 0: there is nothing to do; else it has refused. It sees one GPU.
checked_for() {
    local gpus="${CUDA_VISIBLE_DEVICES-0}"
    CHECK_FOR_PROCESSES="$1" CUDA_VISIBLE_DEVICES="${gpus%%,*}" "$PYTHON" -m "${@:2}"
}

# launch MODULE ARGUMENT...: check, then start a training program on every process. Ends the script after --summary_only.
launch() {
    local status=0 refusals="" processes="${NNODES:-1} * ${NUM_PROCESSES:-1}"
    export STATUS_OF_SUMMARY=11
    if [ "${NNODES:-1}" != 1 ]; then
        : "${NODE_RANK:?NNODES is above 1: set NODE_RANK (0 on the first node, 1 on the next ...)}"
        : "${MASTER_ADDR:?NNODES is above 1: set MASTER_ADDR to the address of node 0}"
    fi
    # One process says itself what is wrong; of several, each would, and the launcher adds its trace.
    if [[ "${LAUNCHER:-torchrun}" != none && "$DRY_RUN" != 1 && "$1" = llava_rlhf.* && "$processes" =~ ^[0-9\ *]+$ ]]; then
        checked_for "$((processes))" "$@" || status=$?
        if [ "$status" = "$STATUS_OF_SUMMARY" ]; then exit 0; fi
        if [ "$status" != 10 ]; then return "$status"; fi
        refusals="$(mktemp -d)"
    fi
    status=0
    REFUSALS_DIR="$refusals" start_processes "$@" || status=$?
    if [ "$status" = "$STATUS_OF_SUMMARY" ]; then exit 0; fi
    if [ -n "$refusals" ]; then
        show_refusal "$refusals" # of a file that changed since the check; each process says the same
        rm -rf -- "$refusals"
    fi
    return "$status"
}

# show_refusal FOLDER: print what the first process wrote there, if any did.
show_refusal() {
    local file
    for file in "$1"/*; do
        if [ -f "$file" ]; then cat -- "$file" >&2; return; fi
    done
}

# start_processes MODULE ARGUMENT...: start a training program on every process.
start_processes() {
    local topology=(--nnodes "${NNODES:-1}" --nproc-per-node "${NUM_PROCESSES:-1}")
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

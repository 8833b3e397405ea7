# Sourced by the scripts of the tiny world, not run: everything on the CPU, one thread a process, one run folder.

source "$(dirname -- "${BASH_SOURCE[0]}")/../common.sh"

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" DS_ACCELERATOR=cpu TOKENIZERS_PARALLELISM=false
NUM_PROCESSES="${NUM_PROCESSES:-1}"
if [ "$NUM_PROCESSES" = 1 ] && [ "${NNODES:-1}" = 1 ]; then LAUNCHER="${LAUNCHER:-none}"; fi

RUN_DIR="${RUN_DIR:-$ROOT/runs/tiny}"
absolute RUN_DIR

# tool MODULE ARGUMENT...: run a program that needs no launcher.
tool() { start "$PYTHON" -m "$@"; }

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

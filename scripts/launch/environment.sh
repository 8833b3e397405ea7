# shellcheck shell=bash
# Sourced by common.sh, not run: which variables of a script come out of the environment, and which were meant to.

# Reads every script. Prints "set NAME" for each exported variable that the script in use reads, and "meant NAME OTHER" for
# each that no script reads and that is one of its variables but for capitals, underscores or one slip of the keyboard.
# shellcheck disable=SC2016 # awk's own variables
NAMES_OF_SCRIPTS='
function plain(name) { name = toupper(name); gsub(/_/, "", name); return name }

# One letter more, less or another, or two changed places: what is left of both between their common ends.
function slip(a, b,    start) {
    if (length(a) < 6 || length(b) < 6) return 0
    while (start < length(a) && start < length(b) && substr(a, start + 1, 1) == substr(b, start + 1, 1)) start++
    a = substr(a, start + 1); b = substr(b, start + 1)
    while (length(a) && length(b) && substr(a, length(a)) == substr(b, length(b))) {
        a = substr(a, 1, length(a) - 1); b = substr(b, 1, length(b) - 1)
    }
    if (length(a) < 2 && length(b) < 2) return 1
    return length(a) == 2 && length(b) == 2 && substr(a, 1, 1) == substr(b, 2) && substr(a, 2) == substr(b, 1, 1)
}

BEGIN {
    split(ENVIRON["USING"], files, "\n"); for (i in files) in_use[files[i]] = 1
    split(ENVIRON["EXPORTED"], names, "\n"); for (i in names) given[names[i]] = 1
    split("PYTHON PYTHONPATH DRY_RUN OMP_NUM_THREADS CUDA_VISIBLE_DEVICES PART_OF", skipped, " ")
}
{
    text = $0
    sub(/^[ \t]*#.*/, "", text)
    if (FILENAME in in_use && match(text, /^[A-Z][A-Z0-9_]*=/)) {
        name = substr(text, 1, RLENGTH - 1)
        if (!index(text, "${" name)) fixed[name] = 1
    }
    while (match(text, /[$][{][A-Z][A-Z0-9_]*:?[-+?]/)) {
        name = substr(text, RSTART + 2, RLENGTH - 3); sub(/:$/, "", name)
        known[name] = 1
        if (FILENAME in in_use) own[name] = 1
        text = substr(text, RSTART + RLENGTH)
    }
}
END {
    for (i in skipped) { delete own[skipped[i]]; known[skipped[i]] = 1 }
    for (name in fixed) delete own[name]
    for (name in given) {
        if (name in own) print "set", name
        if (name in known || name in fixed) continue
        for (other in own) if (plain(name) == plain(other) || slip(plain(name), plain(other))) { print "meant", name, other; break }
    }
}'

# tell_environment FILE...: say what the script made of these files takes from the environment.
tell_environment() {
    local kind name other line="" found
    found="$(EXPORTED="$(compgen -e)" USING="$(printf '%s\n' "$@")" awk "$NAMES_OF_SCRIPTS" \
        "$ROOT"/scripts/*.sh "$ROOT"/scripts/*/*.sh "$@" | LC_ALL=C sort)"
    while read -r kind name other; do
        if [ "$kind" = set ]; then line+=" $name=$(printf %q "${!name}")"; fi
        if [ "$kind" = meant ]; then
            echo "$name is set in the environment and read by nothing: did you mean $other?" >&2
        fi
    done <<<"$found"
    if [ -n "$line" ]; then echo "from the environment:$line" >&2; fi
}

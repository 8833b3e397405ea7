# shellcheck shell=bash disable=SC2034 # the scripts that source it read its variables
# Sourced by ../tiny/common.sh and ../quickstart.sh, not run: the family of the tiny world, and all that it decides.

FAMILY="${FAMILY:-llava}"
case "$FAMILY" in
    llava)
        TINY_BASE="$ROOT/scripts/tiny/base"
        VERSION=tiny # template of the prompts
        PICTURES=noisy
        RUN_SUFFIX=""
        ;;
    qwen2_5_vl)
        TINY_BASE="$ROOT/scripts/tiny/base-qwen2_5_vl"
        VERSION=chat
        PICTURES=drawn
        RUN_SUFFIX=-qwen2_5_vl
        NOISE="${NOISE:-0}" # small and half-hidden objects are hard enough
        QUERY_LEN="${QUERY_LEN:-48}" # the template is longer
        ;;
    *)
        echo "error: FAMILY=$FAMILY: there is no tiny world for it; choose llava or qwen2_5_vl" >&2
        exit 2
        ;;
esac

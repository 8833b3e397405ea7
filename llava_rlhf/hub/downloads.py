"""From the Hub to the download cache: models and adapters as safetensors, and single files.

The cache is the normal one of `huggingface_hub` (HF_HOME, HF_HUB_CACHE). Several processes may ask at once: every file is
written under a lock of its own (`huggingface_hub.file_download` takes it before it looks whether the file is there), so one
downloads and the others wait and find it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_rlhf.hub.places import MODEL, HubPlace, is_first_of_machine
from llava_rlhf.hub.refusals import explained

CONFIGURATIONS = ("*.json",)
# Weights as safetensors, and whatever a model, an adapter or a run folder of ours has beside them. Never a pickle.
MODEL_FILES = (*CONFIGURATIONS, "*.safetensors", "*.txt", "*.model", "*.jinja", "metrics.jsonl")
# What training goes on with is of no use to who only reads a result.
LEFT_OUT = ("*checkpoint-*/*", "*optimizer.safetensors", "*process_*.safetensors", "*random_*.safetensors")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def fetch_model(what: str, place: HubPlace, patterns: Sequence[str] = MODEL_FILES) -> str:
    """The folder of a model or adapter in the cache, downloaded where it is not there yet.

    Args:
        what: flag and value, for messages.
        place: the repository, or a folder in it.
        patterns: of the files that are wanted; without weights among them none are asked for.

    Raises:
        ValueError: it can't be had, there is no such folder, or its weights are pickles only.
    """
    below = f"{place.inside}/" if place.inside else ""
    left_out = [pattern for pattern in LEFT_OUT if "checkpoint-" not in below or "checkpoint-" not in pattern]
    wanted = [below + pattern for pattern in patterns]
    told = () if patterns == MODEL_FILES else wanted
    snapshot = download(what, place, MODEL, wanted, left_out, told)
    folder = snapshot / place.inside
    if patterns != MODEL_FILES and folder.is_dir():
        return str(folder)
    if not folder.is_dir() or not any(folder.rglob("*.safetensors")):
        raise ValueError(f"{what}: {_why_unusable(what, place)}")
    return str(folder)


def download(
    what: str,
    place: HubPlace,
    kind: str,
    patterns: Sequence[str],
    left_out: Sequence[str] = (),
    told: Sequence[str] = (),
) -> Path:
    """The root of a snapshot that holds the files of these patterns. Raises ValueError as `explained` says.

    `told`: the patterns that the command of a refusal has; none: it gets everything.
    """
    from huggingface_hub import snapshot_download

    quiet: dict[str, Any] = {} if is_first_of_machine() else {"tqdm_class": _silent_bar()}
    with explained(what, place, kind, told):
        snapshot = snapshot_download(
            place.repo,
            repo_type=kind,
            revision=place.revision,
            allow_patterns=list(patterns),
            ignore_patterns=list(left_out),
            **quiet,
        )
    return Path(snapshot)


def list_files(what: str, place: HubPlace, kind: str) -> list[str]:
    """All files of a repository, from the Hub, or where it can't be reached those in the cache. Raises ValueError."""
    from huggingface_hub import HfApi

    try:
        found = HfApi().repo_info(place.repo, repo_type=kind, revision=place.revision)
        return sorted(file.rfilename for file in found.siblings)
    except (
        Exception
    ):  # the HTTP package behind it differs by version; what is wrong is said below, if the cache won't do
        snapshot = download(what, place, kind, ())
    return sorted(path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file())


def _why_unusable(what: str, place: HubPlace) -> str:
    """Why a repository, or a folder in it, gives no model; the rest of a sentence."""
    files = list_files(what, place, MODEL)
    here = [name for name in files if name.startswith(f"{place.inside}/") or not place.inside]
    if not here:
        folders = sorted({name.rsplit("/", 1)[0] for name in files if "/" in name})
        listed = f"it has {', '.join(folders[:20])}" if folders else "it has no folders"
        return f"the model {place.repo} has no folder {place.inside}; {listed}"
    pickles = [name for name in here if name.endswith(PICKLES)]
    if not pickles:
        return f"the model {place.repo} holds no weights: no safetensors file among {', '.join(here[:8])}"
    return (
        f"{place} has its weights as pickles only ({', '.join(pickles[:3])}), which are never downloaded here, as one could "
        "run any code. Name a revision or repository that has safetensors; files of the original LLaVA-RLHF: download "
        f"them yourself (hf download {place.repo} --local-dir DIR) and convert them: "
        "bash scripts/convert_checkpoint.sh --input DIR --output NEW"
    )


def _silent_bar() -> type:
    """A progress bar that shows nothing: one process of a machine speaks for all."""
    from huggingface_hub.utils import tqdm

    class Silent(tqdm):
        def __init__(self, *arguments: Any, **settings: Any):
            super().__init__(*arguments, **{**settings, "disable": True})

    return Silent

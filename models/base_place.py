"""Where a base should be: a folder with a `config.json`. What else was named is told, with the way to a base."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

_HUB_ID = re.compile(r"(?:https?://[^/]+/)?([\w][\w.-]*/[\w][\w.-]*)/?")
# Where the documents put things, and why nothing may be there yet.
DOCUMENTED = {
    "checkpoints": "misspelt, or not converted yet (docs/weights_and_data.md)",
    "runs": "misspelt, or not trained yet",
    "data": "misspelt, or not downloaded yet (docs/weights_and_data.md)",
}
_ROLES = ("lora_policy", "lora_reward", "lora_value", "lora_default", "adapter_model")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_GGUF = (
    "a GGUF model (llama.cpp's format), which is not read here; name the same model's folder of safetensors"
)


def check_place(path: str | Path) -> None:
    """Raise ValueError, with what to do, unless `path` is a folder that holds a model's `config.json`."""
    folder = Path(path)
    if folder.is_dir() and (folder / "config.json").is_file():
        return
    if folder.is_dir():
        reason = f"it has no config.json{_what_else(folder)}"
    elif folder.is_file():
        reason = _file(folder)
    else:
        reason = why_absent(path)
    raise ValueError(f"{path} is not a model directory: {reason}")


def why_absent(path: str | Path) -> str:
    """Why there may be no folder at a place that a user named, and what to write instead."""
    text = str(path)
    if os.path.islink(text):
        return f"it is a link to {os.readlink(text)}, which is not there"
    if text.startswith("~"):
        home = os.path.expanduser(text)
        return f"no such folder; a shell leaves ~ as it is in quotes and behind = or a comma: write {home}"
    if hint := local_hint(text):
        return f"no such folder: {hint}"
    if (hub_id := _HUB_ID.fullmatch(text)) and not os.path.isdir(text.split("/")[0]):
        name = hub_id[1]
        return (
            "no such folder. If that is the id of a model on the Hugging Face Hub, download it first and name the folder: "
            f"hf download {name} --local-dir {name.split('/')[1]}"
        )
    return "no such folder"


def local_hint(path: str | Path) -> str:
    """Why there may be nothing at a place in one of the documented folders; empty for any other place."""
    parts = Path(path).parts
    found = next((part for part in reversed(parts[:-1]) if part in DOCUMENTED), "")
    return DOCUMENTED.get(found, "")


def _file(file: Path) -> str:
    if file.suffix == ".gguf":
        return f"it is {_GGUF}"
    if file.suffix in _WEIGHTS or file.name == "config.json":
        return f"it is a file; name the folder that it lies in, {file.parent}"
    return "it is a file, not a folder"


def _what_else(folder: Path) -> str:
    """What a folder without `config.json` is, as the rest of a sentence; empty where nothing is known."""
    if os.path.islink(folder / "config.json"):
        return " but a link to one that is not there; download the model again"
    if (folder / "snapshots").is_dir():
        return _cache_entry(folder)
    if entries := sorted(path.name for path in folder.glob("models--*")):
        return f"; it is a download cache: name the folder of one model, {folder / entries[0]}/snapshots/<id>"
    if (folder / "adapter_config.json").is_file():
        return f"; it holds an adapter, which needs a base: name {_recorded_base(folder)}, and this folder as the adapter"
    if found := [name for name in _ROLES if (folder / name).is_dir()] or _checkpoints(folder):
        return f"; it holds what was trained on a base ({', '.join(found)}): name the base that it was trained on"
    if any(folder.glob("*.gguf")):
        return f"; it holds {_GGUF}"
    if below := sorted(path.parent.name for path in folder.glob("*/config.json")):
        return f"; the folder in it does: name {folder / below[0]}"
    if any(folder.glob("*.safetensors")):
        return ", only weights; fetch the model's other files too"
    return ""


def _cache_entry(folder: Path) -> str:
    """The root of one model in the Hub's cache: models--OWNER--NAME/snapshots/<id>."""
    snapshots = sorted(path.parent for path in folder.glob("snapshots/*/config.json"))
    if not snapshots:
        return "; it is a model's root in the download cache, and no download of it was finished: download it again"
    reference = folder / "refs" / "main"
    current = reference.read_text(encoding="utf-8").strip() if reference.is_file() else ""
    chosen = next((path for path in snapshots if path.name == current), snapshots[-1])
    return f"; it is a model's root in the download cache: name its snapshots/<id>, {chosen}"


def _recorded_base(adapter: Path) -> str:
    try:
        recorded = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))[
            "base_model_name_or_path"
        ]
    except (ValueError, KeyError, TypeError):
        recorded = None
    return f"the base that it was trained on ({recorded})" if recorded else "the base that it was trained on"


def _checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*") if path.is_dir())[-1:]

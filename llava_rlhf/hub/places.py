"""`owner/name[@revision][/folder or file]`: what such a text means, and which one a downloaded path came from."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

MODEL, DATASET = "model", "dataset"
# Folders where the documents put things: what begins so is a path, also where it is not there yet.
DOCUMENTED = frozenset({"checkpoints", "runs", "data"})

# A revision that holds slashes (a branch a/b) can't be told from a folder; those of pull requests can.
_PLACE = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>refs/pr/\d+|[^/@\s]+))?(?:/(?P<inside>[^\s].*?))?/?"
)
_FILE = re.compile(
    r"\.(json|jsonl|gz|txt|csv|parquet|safetensors|bin|pt|pth|ckpt|gguf|png|jpe?g|sh|py|md)$", re.I
)
# <cache>/models--owner--name/snapshots/<commit>/<folder or file>
_CACHED = re.compile(
    r".*/(?:model|dataset)s--(?P<owner>[^/]+?)--(?P<name>[^/]+)/snapshots/(?P<commit>[0-9a-f]{40})(?:/(?P<inside>.+))?"
)


@dataclass(frozen=True)
class HubPlace:
    """A repository, a folder or a file in one.

    Attributes:
        repo: `owner/name`.
        revision: branch, tag or commit; None: the newest.
        inside: folder or file, "" for the whole repository.
    """

    repo: str
    revision: str | None = None
    inside: str = ""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.repo}{revision}{f'/{self.inside}' if self.inside else ''}"

    @property
    def newest(self) -> HubPlace:
        """The same without a revision."""
        return replace(self, revision=None)


def hub_place(text: str) -> HubPlace | None:
    """What a text means that may name a path or a place on the Hub; None: a path.

    What exists here always wins, and with a folder `owner/name` here everything below it is a path too. So is what begins
    with a dot, a slash or ~, two names of which the second ends like a file's, and without a revision whatever begins with
    a folder that is here, or with one that the documents name (checkpoints, runs, data).
    """
    found = _PLACE.fullmatch(text)
    if found is None or os.path.lexists(text) or os.path.lexists(found["repo"]):
        return None
    inside = found["inside"] or ""
    name = found["repo"].split("/")[1]
    if ".." in found["repo"] or "--" in found["repo"] or (inside and {"", ".."} & set(inside.split("/"))):
        return None
    if not found["revision"] and (_begins_here(text) or (not inside and _FILE.search(name))):
        return None
    return HubPlace(found["repo"], found["revision"], inside)


def _begins_here(text: str) -> bool:
    first = text.split("/")[0]
    return first in DOCUMENTED or os.path.isdir(first)


def place_of_download(path: str | Path) -> HubPlace | None:
    """Where a path in the download cache came from, its commit as the revision; None for any other path."""
    found = _CACHED.fullmatch(os.path.abspath(path))
    if found is None:
        return None
    return HubPlace(f"{found['owner']}/{found['name']}", found["commit"], found["inside"] or "")


def is_first_of_machine() -> bool:
    """Whether this process speaks for all of its machine; launchers number them."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def public_name(path: str | Path) -> str:
    """How to name a model or file in a record: by repository and commit where it was downloaded, else by its path."""
    return str(place_of_download(path) or path)


def base_name(path: str | Path) -> str:
    """The name of a base, given by path or public name, as a PEFT configuration has it: that knows no `@commit`."""
    place = place_of_download(path) or hub_place(str(path))
    return str(path if place is None else place.newest)

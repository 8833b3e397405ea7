"""What is said when the Hub does not give what was asked for: one message, with the command that gets it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from llava_rlhf.hub.places import DATASET, HubPlace

_KINDS = {DATASET: "data set"}


def download_command(place: HubPlace, kind: str, patterns: Sequence[str] = ()) -> str:
    """The `hf download` line of a place; `patterns`: of its files, where not all are wanted."""
    words = ["hf", "download", place.repo]
    if kind == DATASET and place.inside:
        words.append(place.inside)
    if kind == DATASET:
        words += ["--repo-type", DATASET]
    if place.revision:
        words += ["--revision", place.revision]
    if kind != DATASET and place.inside and not patterns:
        patterns = [f"{place.inside}/*"]
    words += [word for pattern in patterns for word in ("--include", pattern)]
    return shlex.join(words)


@contextmanager
def explained(what: str, place: HubPlace, kind: str, patterns: Sequence[str] = ()) -> Iterator[None]:
    """Turn what `huggingface_hub` raises into a ValueError that says what to do.

    Args:
        what: flag and value, or whatever names the place.
        place: that is asked for.
        kind: `MODEL` or `DATASET`.
        patterns: of the files that are wanted, where not all are.
    """
    try:
        yield
    except (
        Exception
    ) as error:  # the HTTP package behind it, and so the types of its errors, differ by version
        raise ValueError(f"{what}: {_reason(error, place, kind, patterns)}") from error


def _reason(error: Exception, place: HubPlace, kind: str, patterns: Sequence[str]) -> str:
    from huggingface_hub import constants, errors

    repo, download = place.repo, download_command(place, kind, patterns)
    name = f"{_KINDS.get(kind, kind)} {repo}"
    causes = _causes(error)
    status = next(
        (cause.response.status_code for cause in causes if getattr(cause, "response", None) is not None), None
    )
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == DATASET else ''}{repo}"
    if isinstance(error, errors.GatedRepoError):
        return f"the {name} is gated: ask for access at {page}, then run: hf auth login, and: {download}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the {name} has no revision {place.revision or 'main'}; {page} lists them. Then: {download}"
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        return (
            f"no such path here, and {constants.ENDPOINT} shows no {name} to you: correct the name; if it is a private "
            f"one, run: hf auth login, and: {download}"
        )
    if status == 403:
        return f"your token may not read the {name}: take one that may (hf auth login), then run: {download}"
    if constants.HF_HUB_OFFLINE:
        return (
            f"no such path here, HF_HUB_OFFLINE is set, and the cache ({constants.HF_HUB_CACHE}) holds no whole copy of "
            f"the {name}: where there is a network, run: {download}"
        )
    if isinstance(error, OSError) and error.errno and error.filename:
        return f"the {name} can't be written to the cache ({error}); make room, or set HF_HOME, then run: {download}"
    told = (
        f"it answers with status {status}" if status else f"it can't be reached ({type(causes[-1]).__name__})"
    )
    return (
        f"no such path here, and {constants.ENDPOINT}, where the {name} could be: {told}; the cache "
        f"({constants.HF_HUB_CACHE}) holds no whole copy. Once it can, run: {download}"
    )


def _causes(error: BaseException | None) -> list[BaseException]:
    """The error and what it was raised from, down to the first."""
    return [] if error is None else [error, *_causes(error.__cause__)]

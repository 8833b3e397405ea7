"""Sending a finished folder to the Hub: whether it may go there is asked first, before hours of work."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from llava_rlhf.hub.places import MODEL

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_upload(what: str, repo: str, private: bool) -> None:
    """Ask the Hub who we are. Raises ValueError unless a model may be sent to `owner/name`.

    Args:
        what: flag and value, for messages.
        repo: `owner/name`.
        private: whether nobody else is to see it: a repository that is public already is refused.
    """
    from huggingface_hub import HfApi, constants, errors

    if not _REPOSITORY.fullmatch(repo) or ".." in repo or "--" in repo or len(repo) > 96:
        raise ValueError(f"{what}: write owner/name, letters, digits and single - _ . between them")
    if constants.HF_HUB_OFFLINE:
        raise ValueError(f"{what}: HF_HUB_OFFLINE is set; unset it, or leave the flag out and upload later")
    try:
        who = HfApi().whoami()
    except errors.LocalTokenNotFoundError:
        raise ValueError(f"{what}: there is no token; run: hf auth login (or set HF_TOKEN)") from None
    except Exception as error:  # the HTTP package behind it differs by version
        raise ValueError(
            f"{what}: {constants.ENDPOINT} does not say who you are ({_first_line(error)}); run: hf auth login"
        ) from error
    if who.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise ValueError(f"{what}: your token may only read; make one that may write, and run: hf auth login")
    owners = [who["name"], *(organisation["name"] for organisation in who.get("orgs", ()))]
    if repo.split("/")[0] not in owners:
        raise ValueError(f"{what}: you are {who['name']}, who may write to {', '.join(owners)} only")
    if private and _is_public(repo):
        raise ValueError(
            f"{what}: that repository is public already; choose another name, or make it private there"
        )


def upload_folder(folder: Path, repo: str, private: bool) -> str:
    """Make the repository if there is none, and send the folder; the address of the model.

    Raises SystemExit, with the command that tries again, when the Hub takes it not: the folder stays as it is.
    """
    from huggingface_hub import HfApi

    try:
        url = HfApi().create_repo(repo, repo_type=MODEL, private=private or None, exist_ok=True)
        HfApi().upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload the exported policy")
    except Exception as error:  # the HTTP package behind it differs by version
        words = ["hf", "upload", repo, str(folder.absolute()), ".", *(["--private"] if private else [])]
        raise SystemExit(
            f"error: {folder} is written, and whole, but did not get to the Hub ({_first_line(error)}); to try again, run: "
            f"{shlex.join(words)}"
        ) from None
    return str(url)


def _is_public(repo: str) -> bool:
    from huggingface_hub import HfApi

    try:
        return HfApi().repo_info(repo, repo_type=MODEL).private is False
    except Exception:  # there is none yet, mostly; what else is wrong is said when it is made
        return False


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__

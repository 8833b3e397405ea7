"""The commands of docs/walkthrough.md, in a copy of the repository."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.browser.collecting import wait_for

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "walkthrough.md"
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", "__pycache__", "*.egg-info", ".*_cache")


def sections() -> dict[str, list[str]]:
    """Heading → bash blocks, in the order of the document."""
    _, *parts = re.split(r"^## (.+)$", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {title: BLOCK.findall(text) for title, text in zip(parts[::2], parts[1::2], strict=True)}


def _left_out(folder: str, names: list[str]) -> set[str]:
    """What git does not have: run folders too, but not the room of that name in the package."""
    return LEFT_OUT(folder, names) | ({"runs"} & set(names) if Path(folder) == ROOT else set())


class Reader:
    """Somebody who pastes blocks into a shell, in a fresh copy of the repository.

    Args:
        folder: a new folder for the copy.
        exported: variables that were set in the shell.
    """

    def __init__(self, folder: Path, **exported: str):
        self.clone = folder / "clone"
        shutil.copytree(ROOT, self.clone, ignore=_left_out)
        self.log = folder / "log.txt"
        # As `source .venv/bin/activate` leaves it, without anything that points to the original.
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if name
            not in ("PYTHONPATH", "PYTHONSAFEPATH", "RUN_DIR", "PYTHON", "PICTURES", "CHECKED_QUESTIONS")
        } | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            **exported,
        }

    def paste(self, block: str) -> str:
        """Run a block to its end; its output. A command that fails is an AssertionError with the output."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=self.clone,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        with self.log.open("a") as file:
            file.write(f"$ {block}{done.stdout}{done.stderr}\n")
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def serving(self, block: str) -> Iterator[None]:
        """A block that serves a page; Ctrl-C at the end, after which it must have ended well."""
        log = self.clone.parent / "page.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", block],
                cwd=self.clone,
                env=self._environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_hear_ctrl_c,
            )
        try:
            wait_for(
                lambda: process.poll() is not None or "open http" in log.read_text(), "the page is served"
            )
            assert process.poll() is None, log.read_text()
            yield
            os.killpg(process.pid, signal.SIGINT)
            process.wait(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        text = log.read_text()
        assert process.returncode == 0 and "Traceback" not in text, text


def _hear_ctrl_c() -> None:
    """What a shell starts in the background ignores SIGINT, and so would the programs started by a test there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

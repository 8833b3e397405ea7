"""What a program prints besides its result."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from huggingface_hub.utils import disable_progress_bars
from transformers.utils import logging as hf_logging

from data_utils.summary import DataReport, format_report, vocabulary_warnings
from llava_rlhf.runs.checking import was_checked

logger = logging.getLogger(__name__)


def start_logging(main_process: bool) -> None:
    """Messages of the main process at INFO, of the others at WARNING."""
    logging.basicConfig(
        level=logging.INFO if main_process else logging.WARNING, format="%(asctime)s %(name)s: %(message)s"
    )
    for client in ("httpx", "httpx2"):  # they tell of every request
        logging.getLogger(client).setLevel(logging.WARNING)
    hf_logging.set_verbosity_warning()


def on_a_terminal() -> bool:
    """Whether somebody sees bars move: in a file they would be one long line."""
    return sys.stderr.isatty()


def leave_bars_out_of_files() -> None:
    """Let the libraries draw bars on a terminal only."""
    if not on_a_terminal():
        hf_logging.disable_progress_bar()
        disable_progress_bars()  # downloads
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # read when `datasets` is loaded


def announce_result(output_dir: str | Path) -> None:
    """Print what a run has written."""
    folder = Path(output_dir)
    names = [f"{path.name}/" if path.is_dir() else path.name for path in sorted(folder.iterdir())]
    checkpoints = [name for name in names if name.startswith("checkpoint-")]
    shown = [name for name in names if name not in checkpoints and not name.startswith(".")]
    if checkpoints:
        shown.append(f"{len(checkpoints)} checkpoint{'s' * (len(checkpoints) > 1)}")
    print(f"written to {folder}: {', '.join(shown)}", flush=True)


def describe_passes(max_steps: int, epochs_flag: str, passes: float, rows: str) -> str:
    """What a number of steps means, which goes before the passes that `epochs_flag` asks for."""
    return f"--max_steps {max_steps} goes before {epochs_flag}: {passes:.1f} passes over the {rows}"


def announce(report: DataReport, main_process: bool, in_full: bool = False) -> None:
    """Print the data summary on the main process, unless the check before the launch has: one example, or all of them."""
    if main_process and not was_checked():
        print(format_report(report, in_full), flush=True)
        for warning in vocabulary_warnings(report):
            logger.warning(warning)

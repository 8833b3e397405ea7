"""What a program prints besides its result."""

from __future__ import annotations

import logging

from transformers.utils import logging as hf_logging

from data_utils.summary import DataReport, format_report
from llava_rlhf.runs.checking import was_checked


def start_logging(main_process: bool) -> None:
    """Messages of the main process at INFO, of the others at WARNING."""
    logging.basicConfig(
        level=logging.INFO if main_process else logging.WARNING, format="%(asctime)s %(name)s: %(message)s"
    )
    for client in ("httpx", "httpx2"):  # they tell of every request
        logging.getLogger(client).setLevel(logging.WARNING)
    hf_logging.set_verbosity_warning()


def announce(report: DataReport, main_process: bool, in_full: bool = False) -> None:
    """Print the data summary on the main process, unless the check before the launch has: one example, or all of them."""
    if main_process and not was_checked():
        print(format_report(report, in_full), flush=True)

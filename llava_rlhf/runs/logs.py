"""What a program prints besides its result."""

from __future__ import annotations

import logging

from transformers.utils import logging as hf_logging

from data_utils.summary import DataReport, format_report, vocabulary_warnings

logger = logging.getLogger(__name__)


def start_logging(main_process: bool) -> None:
    """Messages of the main process at INFO, of the others at WARNING."""
    logging.basicConfig(
        level=logging.INFO if main_process else logging.WARNING, format="%(asctime)s %(name)s: %(message)s"
    )
    for client in ("httpx", "httpx2"):  # they tell of every request
        logging.getLogger(client).setLevel(logging.WARNING)
    hf_logging.set_verbosity_warning()


def describe_passes(max_steps: int, epochs_flag: str, passes: float, rows: str) -> str:
    """What a number of steps means, which goes before the passes that `epochs_flag` asks for."""
    return f"--max_steps {max_steps} goes before {epochs_flag}: {passes:.1f} passes over the {rows}"


def announce(report: DataReport, main_process: bool) -> None:
    """Print the data summary on the main process."""
    if main_process:
        print(format_report(report), flush=True)
        for warning in vocabulary_warnings(report):
            logger.warning(warning)

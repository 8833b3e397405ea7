"""How much memory an import takes, and how fast it is, by the number of rows.

    python -m benchmarks.import_stream                        1 million rows
    python -m benchmarks.import_stream 10000 1000000          so many, one run each

Rows are written for the run (JSON Lines in TRL's conversational layout, about 600 bytes each, about 1000 pictures in a folder),
imported by the real program in a process of its own, and its peak memory is read from the system.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PICTURES = 1000


def write_rows(folder: Path, count: int) -> Path:
    """A file of rows, and the pictures that they name."""
    (folder / "pictures").mkdir()
    for number in range(PICTURES):
        Image.new("RGB", (32, 32), (number % 256, number // 256, 0)).save(
            folder / "pictures" / f"{number}.png"
        )
    words = "a grey cat sleeps on a red mat beside the open door of a small house "
    with (folder / "rows.jsonl").open("w") as file:
        for number in range(count):
            content = [{"type": "image"}, {"type": "text", "text": f"What is on the mat, question {number}?"}]
            row = {
                "prompt": [{"role": "user", "content": content}],
                "chosen": [{"role": "assistant", "content": words * 2}],
                "rejected": [{"role": "assistant", "content": words * 2 + str(number)}],
                "images": [f"{number // 7 % PICTURES}.png"],
            }
            file.write(json.dumps(row) + "\n")
    return folder / "rows.jsonl"


def measure(count: int) -> None:
    """Import so many rows and print time and memory."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        rows = write_rows(folder, count)
        command = [sys.executable, "-m", "llava_rlhf.make_dataset", "import", "--source", str(rows)]
        command += ["--image_folder", str(folder / "pictures"), "--output_dir", str(folder / "out")]
        start = time.monotonic()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - start
        used = resource.getrusage(
            resource.RUSAGE_CHILDREN
        )  # the largest of all runs so far: name them by size
        with (folder / "out" / "preferences.jsonl").open("rb") as file:
            written = sum(1 for _ in file)
        size = os.path.getsize(rows)
    print(
        f"{count} rows ({size / 1e6:.0f} MB): {written} written, {seconds:.0f} s, {count / seconds:.0f} rows/s, "
        f"{used.ru_utime + used.ru_stime:.0f} s of CPU time in all, peak {used.ru_maxrss / 1024:.0f} MiB"
    )


if __name__ == "__main__":
    for wanted in sys.argv[1:] or ["1000000"]:
        measure(int(wanted))

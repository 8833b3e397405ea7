"""How long the files of tests take, so that costly ones start first and no worker is left alone with one at the end.

`file_costs.txt` is drawn anew from JUnit reports of the two suites:

    bash scripts/run_tests.sh --junitxml quick.xml
    bash scripts/run_tests.sh --all --junitxml all.xml
    python -m tests.support.file_costs quick.xml all.xml
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

TABLE = Path(__file__).with_suffix(".txt")
ROOT = Path(__file__).parents[2]
WORTH_A_LINE = 4.0  # seconds
USUAL = 0.1  # seconds of a test of another file


def costs_of(tests: Iterable[Path], whole: bool) -> dict[Path, float]:
    """The file of each test → seconds of all of them.

    Args:
        tests: a file as often as it has tests.
        whole: with the slow ones.
    """
    lines = (line.split() for line in TABLE.read_text(encoding="utf-8").splitlines()[1:])
    measured = {ROOT / name: float(every if whole else quick) for quick, every, name in lines}
    return {file: max(measured.get(file, 0.0), USUAL * count) for file, count in Counter(tests).items()}


def seconds_in(report: str) -> Counter[str]:
    """File, relative to the repository → seconds, of a JUnit report of pytest."""
    seconds: Counter[str] = Counter()
    for case in ElementTree.parse(report).iter("testcase"):
        parts = case.get("classname", "").split(".")
        seconds["/".join(parts) + ".py"] += float(case.get("time", 0))
    return seconds


def main(quick_report: str, whole_report: str) -> None:
    """Write the table: files by what they take in the whole suite."""
    quick, whole = seconds_in(quick_report), seconds_in(whole_report)
    lines = [
        f"{quick[name]:6.1f} {seconds:6.1f} {name}"
        for name, seconds in whole.most_common()
        if seconds >= WORTH_A_LINE
    ]
    TABLE.write_text("\n".join([" quick    all seconds of", *lines]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The folder of a collection, which one program has open at a time.

<output_dir>/preferences.json    the result, in the published format; written whole after every judgement
             judgements.jsonl    every judgement, also ties and withdrawn ones; what everything else follows from
             pairs.jsonl         the sampled pairs
             summary.json        counts and agreement
             collection.json     where the pairs came from; another source is refused
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from llava_rlhf.collection.assignments import AssignmentQueue
from llava_rlhf.collection.judgements import Journal
from llava_rlhf.collection.pairs import PairFile
from llava_rlhf.collection.preference_file import PreferenceFile, summarise
from llava_rlhf.runs.run_folder import write_text_whole

SETTINGS, PAIRS = "collection.json", "pairs.jsonl"


class CollectionFolder:
    """An open collection.

    Args:
        path: the folder; it is created.
        source: what the pairs depend on.

    Attributes:
        pairs, journal, preferences: its files.

    Raises:
        ValueError: the folder holds pairs from another source, files that can't be read, or is open elsewhere.
    """

    def __init__(self, path: str | Path, source: Mapping[str, Any]):
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        _check_source(self.path, source)
        self.pairs = PairFile(self.path / PAIRS)
        try:
            write_text_whole(self.path / SETTINGS, json.dumps(source, indent=2) + "\n")
            self.journal = Journal(self.path / "judgements.jsonl")
            strangers = sorted(self.journal.all().keys() - self.pairs.pairs.keys())
            if strangers:
                self.journal.close()
                raise ValueError(
                    f"{self.path}: judgements of rows {strangers[:5]}, of which pairs.jsonl knows no pair"
                )
        except ValueError:
            self.pairs.close()
            raise
        self.preferences = PreferenceFile(self.path / "preferences.json")

    def queue(self, shared_share: float, seed: int) -> AssignmentQueue:
        """Where annotators get their pairs."""
        return AssignmentQueue(self.pairs, self.journal, self.preferences, shared_share, seed)

    def summarise(self) -> dict[str, Any]:
        """Counts and agreement as they are now; they are written to `summary.json` too."""
        summary = summarise(self.pairs.pairs, self.journal.all())
        write_text_whole(self.path / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
        return summary

    def close(self) -> None:
        """Let another program open it."""
        self.journal.close()
        self.pairs.close()


def answered_rows(path: str | Path) -> frozenset[int]:
    """Rows that a collection, which need not be there, has answers to; nothing is made or locked, and nothing refused."""
    file, rows = Path(path) / PAIRS, set()
    for line in file.read_text("utf-8", errors="replace").splitlines() if file.is_file() else ():
        with suppress(ValueError, KeyError, TypeError):  # whoever opens the file says what is wrong with it
            rows.add(json.loads(line)["row"])
    return frozenset(rows)


def _check_source(path: Path, source: Mapping[str, Any]) -> None:
    file = path / SETTINGS
    if not file.is_file():
        return
    try:
        known = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: no settings of a collection ({error}); move the folder away") from None
    changed = [
        f"{name}: {known.get(name)!r}, now {value!r}"
        for name, value in source.items()
        if known.get(name) != value
    ]
    if changed:
        raise ValueError(
            f"--output_dir {path} holds pairs from another source ({'; '.join(changed)}); choose another folder, or the "
            "settings of the first start"
        )

"""What a judge reads: a text file with places to fill in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path


class JudgePrompt:
    """A prompt with a place for each of some names, such as `{question}`; as many `{}` in the order of the names do as well.

    Args:
        path: a text file.
        names: what is filled in.

    Attributes:
        mark: SHA-256 of the text.

    Raises:
        ValueError: it is missing, or has other places to fill in.
    """

    def __init__(self, path: str | Path, names: Sequence[str]):
        if not Path(path).is_file():
            raise ValueError(f"--judge_prompt_file {path}: no such file")
        self._text = Path(path).read_text(encoding="utf-8").strip()
        self._names = tuple(names)
        self.mark = hashlib.sha256(self._text.encode()).hexdigest()
        marks = {name: f"<{name}>" for name in names}
        try:
            filled = self.render(**marks)
        except (KeyError, IndexError, ValueError) as error:
            known = [f"{{{name}}}" for name in names]
            raise ValueError(
                f"--judge_prompt_file {path}: braces are for {', '.join(known[:-1])} and {known[-1]} only, others are "
                f"doubled ({error!r})"
            ) from None
        missing = [name for name, mark in marks.items() if mark not in filled]
        if missing:
            raise ValueError(f"--judge_prompt_file {path}: does not show the judge the <{missing[0]}>")

    def render(self, **values: str) -> str:
        """The prompt with the values of all names."""
        return self._text.format(*(values[name] for name in self._names), **values)

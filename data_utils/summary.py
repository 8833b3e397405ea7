"""What became of a data file: rows, drops, lengths, facts, examples — printed before a model is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from data_utils.fact_lists import CAPTION

SHOWN_EXAMPLES = 3
EXAMPLE_CHARACTERS = 1200
SHORT_EXAMPLE = 400  # characters of the one that a run shows before it begins
SHOWN_WORDS = 8
MANY_UNKNOWN = 0.05  # share of tokens from which a warning is due


@dataclass
class UnknownTokens:
    """How many of the tokens of some texts stand for what the vocabulary lacks, and which words those are."""

    tokens: int = 0
    unknown: int = 0
    words: Counter[str] = field(default_factory=Counter)

    @property
    def many(self) -> bool:
        """Whether a warning is due."""
        return self.unknown >= MANY_UNKNOWN * self.tokens > 0

    def describe(self, texts: str) -> str:
        """`texts` names them; the most frequent words are shown."""
        shown = ", ".join(repr(word) for word, _ in self.words.most_common(SHOWN_WORDS))
        more = ", …" if len(self.words) > SHOWN_WORDS else ""
        share = f"{100 * self.unknown / self.tokens:.2g} %"
        return f"{share} of the tokens of {texts} are <unk> ({self.unknown} of {self.tokens}): {shown}{more}"


@dataclass
class DataReport:
    """Numbers of one file. Lengths are in tokens of the rows kept, an image counted as one.

    `images` is (rows with an image, rows of text alone) of those kept;
    `caption_coverage` is (rows with facts, rows without), None when no facts are asked for;
    `fact_sources` is by source (rows, facts);
    `unknown` is by kind of text, and empty where the tokenizer can write every text; `repeated_ids` counts rows whose id an earlier row has; `answer_types` counts the rows of each answer type, None where rows have none.
    """

    file: str
    rows_read: int = 0
    rows_kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    token_lengths: dict[str, list[int]] = field(default_factory=dict)
    repeated_ids: int = 0
    images: tuple[int, int] = (0, 0)
    caption_coverage: tuple[int, int] | None = None
    fact_sources: dict[str, tuple[int, int]] = field(default_factory=dict)
    answer_types: Counter[str] | None = None
    unknown: dict[str, UnknownTokens] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)


def format_report(report: DataReport, in_full: bool = True) -> str:
    """The report as text of a few lines and three examples, or a short one, without what `vocabulary_warnings` says."""
    lines = [f"Data {report.file}: {report.rows_kept} of {report.rows_read} rows kept"]
    lines += [f"  dropped {count}: {reason}" for reason, count in sorted(report.dropped.items())]
    if report.repeated_ids:
        lines.append(
            f"  ids: {report.repeated_ids} rows have that of an earlier row (nothing is looked up by id)"
        )
    if report.token_lengths:
        lines.append(f"  {'tokens':<14}{'p50':>8}{'p95':>8}{'max':>8}")
    for name, lengths in report.token_lengths.items():
        p50, p95, most = _percentiles(lengths)
        lines.append(f"  {name:<14}{p50:>8}{p95:>8}{most:>8}")
    if any(report.images):
        shown, text_only = report.images
        lines.append(f"  images: {shown} rows with, {text_only} without")
    if report.caption_coverage is not None:
        known, unknown = report.caption_coverage
        lines.append(f"  facts: {known} rows with, {unknown} without")
    if report.fact_sources.keys() - {CAPTION}:
        said = (
            f"{source} {count} in {rows} rows"
            for source, (rows, count) in sorted(report.fact_sources.items())
        )
        lines.append(f"  facts by source: {'; '.join(said)}")
    if report.answer_types is not None:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(report.answer_types.items()))
        lines.append(f"  answer types: {counts}")
    lines += [
        f"  vocabulary: {some.describe(texts)}"
        for texts, some in report.unknown.items()
        if some.unknown and not some.many
    ]
    shown, width = (SHOWN_EXAMPLES, EXAMPLE_CHARACTERS) if in_full else (1, SHORT_EXAMPLE)
    for number, example in enumerate(report.examples[:shown], start=1):
        lines += [f"  --- example {number}", shorten_middle(example, width)]
    return "\n".join(lines)


def vocabulary_warnings(report: DataReport) -> list[str]:
    """Warnings about texts of which the model can't read a good part."""
    return [
        f"{report.file}: {some.describe(texts)}. The vocabulary of the base lacks these words, so the model can't tell "
        "them apart: use a base that knows them, or other words"
        for texts, some in report.unknown.items()
        if some.many
    ]


def shorten_middle(text: str, width: int) -> str:
    """`text`, its middle replaced by a count of the characters left out when it is longer than `width`."""
    if len(text) <= width:
        return text
    head = width // 2
    tail = width - head
    return f"{text[:head]} […{len(text) - width} characters…] {text[-tail:]}"


def _percentiles(lengths: Sequence[int]) -> tuple[int, int, int]:
    if not lengths:
        return 0, 0, 0
    # "higher": a length that occurs, never an average of two.
    p50, p95 = np.percentile(lengths, [50, 95], method="higher")
    return int(p50), int(p95), max(lengths)

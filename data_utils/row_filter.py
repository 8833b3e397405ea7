"""Which rows of a data file are kept: invalid ones are refused or dropped, over-long ones dropped, all counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_utils.fact_lists import FactList
from data_utils.facts import FactBook, MissingCaptions, RewardPrompt, caption_key, shuffled_captions
from data_utils.images import QUICK_CHECKS, ImageChecks, check_image
from data_utils.problems import SHOWN_PROBLEMS, DataError, Problem, shorten
from data_utils.schema import AnswerType, PreferenceRecord, Record
from data_utils.summary import SHOWN_EXAMPLES, DataReport, UnknownTokens
from data_utils.tokens import SegmentEncoder

CHECKING_THREADS = 16


@dataclass(frozen=True)
class Limits:
    """Length limits in tokens, an image counted as one."""

    query_len: int
    response_len: int
    model_max_length: int

    def exceeded(self, query: int, response: int, total: int) -> str | None:
        """Why the lengths do not fit, or None."""
        if query > self.query_len:
            return f"query longer than query_len {self.query_len}"
        if response > self.response_len:
            return f"response longer than response_len {self.response_len}"
        if total > self.model_max_length:
            return f"sequence longer than model_max_length {self.model_max_length}"
        return None


@dataclass
class RowFilter:
    """Collects the rows of one file that can be used, and counts the others by reason."""

    file: str
    problems: list[Problem]
    skip_invalid: bool
    image_checks: ImageChecks = QUICK_CHECKS
    one_image: str | None = None  # the family of the base, where it reads an image otherwise beside others
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.report = DataReport(self.file)
        for _ in {problem.row for problem in self.problems if problem.row is not None}:
            self.drop("invalid record")

    def usable(self, records: Sequence[Record], image_folder: str | Path | None) -> Iterator[Record]:
        """Records whose images can be read, with a progress bar on a terminal."""
        self.report.rows_read = len(records) + sum(self.report.dropped.values())
        named = Counter(record.id for record in records if record.id)
        self.report.repeated_ids = sum(named.values()) - len(named)
        checked = self._check_images(records, image_folder)
        for record in tqdm(records, desc=f"reading {Path(self.file).name}", unit="row", disable=None):
            bad = [name for name in record.images if checked[name]]
            for name in bad:
                self._refuse(record, "image", name, f"{checked[name]}; fix the file or the row")
            if bad:
                self.drop("missing or unreadable image")
            elif self.one_image and len(record.images) > 1:
                remedy = f"{self.one_image} reads an image beside others otherwise than alone; name one in each row"
                self._refuse(record, "image", list(record.images), remedy)
                self.drop("several images in a row")
            else:
                yield record

    def _check_images(
        self, records: Sequence[Record], image_folder: str | Path | None
    ) -> dict[str, str | None]:
        """Name → why the image can't be used, or None. In threads: the files may lie behind a slow network."""
        names = list(dict.fromkeys(name for record in records for name in record.images))
        if image_folder is None:
            return dict.fromkeys(names, "no image folder was given")
        bar = partial(tqdm, total=len(names), desc="checking images", unit="image", disable=None)
        with ThreadPoolExecutor(CHECKING_THREADS) as pool:
            reasons = pool.map(partial(check_image, image_folder, checks=self.image_checks), names)
            return dict(zip(names, bar(reasons), strict=True))

    def captions(
        self,
        record: Record,
        answer_type: AnswerType,
        facts: FactBook,
        prompt: RewardPrompt,
        seed: int,
        row: int,
    ) -> tuple[str, ...] | None:
        """The facts the reward model reads, in a random order that `seed` and `row` give.

        () for none; None when the record is dropped.
        """
        if not prompt.uses_facts:
            return ()
        found = facts.find(record, answer_type)
        if found is None and facts.missing is not MissingCaptions.NO_FACT:
            if facts.missing is MissingCaptions.ERROR:
                keys = [caption_key(image, answer_type) for image in record.images]
                names = ", ".join(map(repr, keys))
                remedy = f"no captions under {names} and none on the row; add them, or --missing_captions skip|no_fact"
                # Looked for among all keys, so only where it is shown.
                if len(self.problems) < SHOWN_PROBLEMS and (other := facts.key_like(keys[0])) is not None:
                    remedy += f"; a key that is there: {other!r}"
                named = record.images[0] if len(keys) == 1 else list(record.images)
                self._refuse(record, "image", named, remedy)
            self.drop("missing captions")
            return None
        return shuffled_captions(found or (), seed, row)

    def differ(self, record: PreferenceRecord, pair: Sequence[Sequence[int]]) -> bool:
        """Whether the two answers of a pair, here their dialogues as ids, differ; a row in which they do not is refused."""
        if pair[0] != pair[1]:
            return True
        remedy = "both outputs are the same text to the model, so that none is preferred; remove the row"
        self._refuse(record, "output_2.value", record.outputs[1], remedy)
        self.drop("both outputs are the same")
        return False

    def fits(self, limits: Limits, query: int, response: int, total: int) -> bool:
        """Whether the lengths in tokens are within the limits; a row that is not is dropped and counted."""
        reason = limits.exceeded(query, response, total)
        if reason:
            self.drop(reason)
        return reason is None

    def drop(self, reason: str) -> None:
        """Count a row that is left out."""
        self.report.dropped[reason] += 1

    def keep(self, row: dict[str, Any], lengths: dict[str, list[int]]) -> None:
        """Add a row of the table and its lengths in tokens."""
        self.rows.append(row)
        shown, text_only = self.report.images
        self.report.images = (shown + bool(row["images"]), text_only + (not row["images"]))
        for name, values in lengths.items():
            self.report.token_lengths.setdefault(name, []).extend(values)

    def describe(self, encoder: SegmentEncoder, ids: Sequence[int], captions: Sequence[str] | None) -> None:
        """Count a kept row's facts (None: none were asked for) and show the first few rows decoded."""
        if captions is not None:
            known, unknown = self.report.caption_coverage or (0, 0)
            self.report.caption_coverage = (known + bool(captions), unknown + (not captions))
        if len(self.report.examples) < SHOWN_EXAMPLES:
            self.report.examples.append(encoder.decode(ids))

    def count_facts(self, known: FactList) -> None:
        """Count the facts of a kept row by their sources."""
        for source, count in Counter(fact.source for fact in known.facts).items():
            rows, facts = self.report.fact_sources.get(source, (0, 0))
            self.report.fact_sources[source] = (rows + 1, facts + count)

    def count_unknown(
        self,
        encoder: SegmentEncoder,
        conversations: Sequence[Sequence[int]],
        texts: Sequence[str],
        captions: Sequence[str],
    ) -> None:
        """Count what the vocabulary lacks in a kept row.

        Args:
            encoder: the tokenizer.
            conversations: ids, without reward prompt.
            texts: of the conversations, for the words.
            captions: the facts that are read.
        """
        if not encoder.lacks_words:
            return
        conversation = [index for ids in conversations for index in ids]
        self._count("conversations", encoder, conversation, texts)
        for caption in captions:
            self._count("captions", encoder, encoder.encode_response(caption), [caption])

    def _count(self, kind: str, encoder: SegmentEncoder, ids: Sequence[int], texts: Sequence[str]) -> None:
        counts = self.report.unknown.setdefault(kind, UnknownTokens())
        unknown = encoder.count_unknown(ids)
        counts.tokens, counts.unknown = counts.tokens + len(ids), counts.unknown + unknown
        if unknown:
            counts.words.update(word for text in texts for word in encoder.unknown_words(text))

    def finish(self) -> list[dict[str, Any]]:
        """The rows kept. Raises DataError for problems that may not be skipped, or when nothing is left."""
        self.report.rows_kept = len(self.rows)
        unreadable = any(problem.row is None for problem in self.problems)
        if self.problems and (unreadable or not self.skip_invalid):
            raise DataError(self.problems)
        if not self.rows and self.problems:  # all were dropped: why, says more than how many
            raise DataError(self.problems)
        if not self.rows:
            reasons = (
                "; ".join(f"{count} × {why}" for why, count in self.report.dropped.items()) or "it is empty"
            )
            remedy = f"no row is left ({reasons}); raise the length limits or mend the data"
            raise DataError([Problem(self.file, None, "rows", f"{self.report.rows_read} rows read", remedy)])
        return self.rows

    def _refuse(self, record: Record, name: str, value: Any, remedy: str) -> None:
        self.problems.append(Problem(record.file, record.row, name, shorten(value), remedy))

"""Data files → datasets: every row is checked and tokenised before a model is loaded.

A row is kept whole or dropped whole. Rows that cannot be used raise one error that lists them, unless
`skip_invalid` asks to drop and count them; rows over a length limit are always dropped and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_utils.conversation import ConversationTemplate, dialogue_segments, query_segments
from data_utils.datasets import DialogueDataset, PreferenceDataset, PromptDataset
from data_utils.facts import FactBook, MissingCaptions, RewardPrompt, caption_key, shuffled_captions
from data_utils.images import ImagePipeline, check_image
from data_utils.schema import (
    IMAGE_MARKER,
    AnswerType,
    DataError,
    Problem,
    PromptRecord,
    Record,
    Turn,
    read_dialogues,
    read_preferences,
    read_prompts,
    shorten,
)
from data_utils.summary import SHOWN_EXAMPLES, DataReport
from data_utils.tokens import SegmentEncoder


def build_preferences(
    path: str | Path,
    *,
    image_folder: str | Path | None,
    encoder: SegmentEncoder,
    template: ConversationTemplate,
    pipeline: ImagePipeline,
    facts: FactBook,
    prompt: RewardPrompt,
    query_len: int,
    response_len: int,
    model_max_length: int,
    seed: int,
    skip_invalid: bool,
) -> PreferenceDataset:
    """Judged pairs as query + response + stop + reward prompt; both answers read the facts in the same order.

    Limits in tokens: the query, each response with its stop, and each whole sequence. Raises DataError.
    """
    records, problems = read_preferences(path)
    sieve = _Sieve(str(path), problems, skip_invalid)
    limits = _Limits(query_len, response_len, model_max_length)
    for record in sieve.usable(records, image_folder):
        captions = sieve.captions(record, AnswerType.GENERAL, facts, prompt, seed)
        if captions is None:
            continue
        judge = encoder.encode_reward_prompt(prompt.render(captions))
        n_images = len(record.images)
        query = len(encoder.encode(query_segments(template, record.turns, n_images)).ids)
        pair = []
        for output in record.outputs:
            turns = (*record.turns, Turn("gpt", output))
            pair.append([*encoder.encode(dialogue_segments(template, turns, n_images)).ids, *judge])
        totals = [len(ids) for ids in pair]
        responses = [total - query - len(judge) for total in totals]
        if sieve.fits(limits, query, max(responses), max(totals)):
            row = {
                "ids_1": pair[0],
                "ids_2": pair[1],
                "images": record.images,
                "preference": record.preference,
            }
            sieve.keep(row, {"query": [query], "response": responses, "total": totals})
            sieve.describe(encoder, pair[0], captions if prompt.uses_facts else None)
    return PreferenceDataset(sieve.finish(), image_folder, pipeline, sieve.report)


def build_dialogues(
    path: str | Path,
    *,
    image_folder: str | Path | None,
    encoder: SegmentEncoder,
    template: ConversationTemplate,
    pipeline: ImagePipeline,
    model_max_length: int,
    query_len: int,
    response_len: int,
    skip_invalid: bool,
) -> DialogueDataset:
    """Dialogues whose answers carry loss.

    Limits in tokens: the text before the first answer, the longest answer with its stop, and the whole
    dialogue. Raises DataError.
    """
    records, problems = read_dialogues(path)
    sieve = _Sieve(str(path), problems, skip_invalid)
    limits = _Limits(query_len, response_len, model_max_length)
    for record in sieve.usable(records, image_folder):
        tokens = encoder.encode(dialogue_segments(template, record.turns, len(record.images)))
        runs = [(answer, len(list(run))) for answer, run in groupby(tokens.supervised)]
        query, answers = runs[0][1], [length for answer, length in runs if answer]
        if sieve.fits(limits, query, max(answers), len(tokens.ids)):
            row = {"ids": list(tokens.ids), "supervised": list(tokens.supervised), "images": record.images}
            sieve.keep(row, {"query": [query], "response": answers, "total": [len(tokens.ids)]})
            sieve.describe(encoder, tokens.ids, None)
    return DialogueDataset(sieve.finish(), image_folder, pipeline, sieve.report)


def build_prompts(
    path: str | Path,
    *,
    image_folder: str | Path | None,
    encoder: SegmentEncoder,
    template: ConversationTemplate,
    pipeline: ImagePipeline,
    reward_pipeline: ImagePipeline | None,
    facts: FactBook | None,
    prompt: RewardPrompt | None,
    query_len: int,
    response_len: int,
    model_max_length: int,
    seed: int,
    skip_invalid: bool,
) -> PromptDataset:
    """PPO prompts, each with the reward prompt that will judge its answer (none without `facts` and `prompt`).

    Limits in tokens: the query, and query + `response_len` + reward prompt against `model_max_length`.
    Raises DataError.
    """
    records, problems = read_prompts(path)
    sieve = _Sieve(str(path), problems, skip_invalid)
    sieve.report.answer_types = Counter()
    limits = _Limits(query_len, response_len, model_max_length)
    for record in sieve.usable(records, image_folder):
        captions: tuple[str, ...] | None = ()
        judge: list[int] = []
        if prompt is not None and facts is not None:
            captions = sieve.captions(record, record.answer_type, facts, prompt, seed)
            if captions is None:
                continue
            judge = encoder.encode_reward_prompt(prompt.render(captions))
        query = list(encoder.encode(query_segments(template, record.turns, len(record.images))).ids)
        total = len(query) + response_len + len(judge)
        if sieve.fits(limits, len(query), response_len, total):
            lengths = {"query": [len(query)], "reward prompt": [len(judge)], "total": [total]}
            sieve.keep(_prompt_row(record, query, judge, captions), lengths)
            sieve.describe(
                encoder, [*query, *judge], captions if prompt is not None and prompt.uses_facts else None
            )
            sieve.report.answer_types[record.answer_type.name] += 1
    return PromptDataset(sieve.finish(), image_folder, pipeline, sieve.report, reward_pipeline)


def _prompt_row(
    record: PromptRecord, query: list[int], judge: list[int], captions: tuple[str, ...]
) -> dict[str, Any]:
    return {
        "row": record.row,
        "id": record.id,
        "query_ids": query,
        "reward_prompt_ids": judge,
        "images": record.images,
        "answer_type": int(record.answer_type),
        "length_bonus": record.length_bonus,
        "captions": captions,
        "question": record.turns[0].text.replace(IMAGE_MARKER, "").strip(),
    }


@dataclass(frozen=True)
class _Limits:
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
class _Sieve:
    """Collects the rows of one file that can be used, and counts the others by reason."""

    file: str
    problems: list[Problem]
    skip_invalid: bool
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.report = DataReport(self.file)
        for _ in {problem.row for problem in self.problems if problem.row is not None}:
            self.drop("invalid record")

    def usable(self, records: Sequence[Record], image_folder: str | Path | None) -> Iterator[Record]:
        """Records whose images can be read, with a progress bar on a terminal."""
        self.report.rows_read = len(records) + sum(self.report.dropped.values())
        checked: dict[str, str | None] = {}
        for record in tqdm(records, desc=f"reading {Path(self.file).name}", unit="row", disable=None):
            for name in record.images:
                if name not in checked:
                    checked[name] = (
                        "no image folder was given"
                        if image_folder is None
                        else check_image(image_folder, name)
                    )
            bad = [name for name in record.images if checked[name]]
            for name in bad:
                self._refuse(record, "image", name, f"{checked[name]}; fix the file or the row")
            if bad:
                self.drop("missing or unreadable image")
            else:
                yield record

    def captions(
        self, record: Record, answer_type: AnswerType, facts: FactBook, prompt: RewardPrompt, seed: int
    ) -> tuple[str, ...] | None:
        """The facts the judge reads, in their random order; () for none; None when the row is dropped."""
        if not prompt.uses_facts:
            return ()
        found = facts.find(record, answer_type)
        if found is None and facts.missing is not MissingCaptions.NO_FACT:
            if facts.missing is MissingCaptions.ERROR:
                keys = ", ".join(repr(caption_key(image, answer_type)) for image in record.images)
                remedy = f"no captions under {keys} and none on the row; add them, or --missing_captions skip|no_fact"
                self._refuse(record, "image", record.images, remedy)
            self.drop("missing captions")
            return None
        return shuffled_captions(found or (), seed, record.row)

    def fits(self, limits: _Limits, query: int, response: int, total: int) -> bool:
        """Whether the lengths in tokens are within the limits; a row that is not is dropped and counted."""
        reason = limits.exceeded(query, response, total)
        if reason:
            self.drop(reason)
        return reason is None

    def drop(self, reason: str) -> None:
        self.report.dropped[reason] += 1

    def keep(self, row: dict[str, Any], lengths: dict[str, list[int]]) -> None:
        self.rows.append(row)
        for name, values in lengths.items():
            self.report.token_lengths.setdefault(name, []).extend(values)

    def describe(self, encoder: SegmentEncoder, ids: Sequence[int], captions: Sequence[str] | None) -> None:
        """Count a kept row's facts (None: none were asked for) and show the first few rows decoded."""
        if captions is not None:
            known, unknown = self.report.caption_coverage or (0, 0)
            self.report.caption_coverage = (known + bool(captions), unknown + (not captions))
        if len(self.report.examples) < SHOWN_EXAMPLES:
            self.report.examples.append(encoder.decode(ids))

    def finish(self) -> list[dict[str, Any]]:
        """The rows kept. Raises DataError for problems that may not be skipped, or when nothing is left."""
        self.report.rows_kept = len(self.rows)
        unreadable = any(problem.row is None for problem in self.problems)
        if self.problems and (unreadable or not self.skip_invalid):
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

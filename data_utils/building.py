"""Data files → datasets: every row is checked and tokenised before a model is loaded.

A row is kept whole or dropped whole. Rows that cannot be used raise one error that lists them, unless
`skip_invalid` asks to drop and count them; rows over a length limit are always dropped and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from data_utils.answer_pairs import AnswerPairDataset
from data_utils.conversation import dialogue_segments, message_parts, query_segments
from data_utils.datasets import DialogueDataset, PreferenceDataset, PromptDataset
from data_utils.fact_lists import FactList
from data_utils.facts import FactBook, RewardPrompt
from data_utils.images import ImagePipeline
from data_utils.row_settings import RowSettings, beyond_one
from data_utils.schema import (
    IMAGE_MARKER,
    AnswerType,
    PromptRecord,
    Turn,
    read_dialogues,
    read_preferences,
    read_prompts,
)


def build_preferences(
    path: str | Path, settings: RowSettings, *, facts: FactBook, prompt: RewardPrompt, seed: int
) -> PreferenceDataset:
    """Preference pairs as query + response + stop + reward prompt; both answers read the facts in the same order.

    Limits in tokens: the query, each response with its stop, and each whole sequence. Raises DataError.
    """
    records, problems = read_preferences(path)
    encoder, template = settings.encoder, settings.template
    row_filter = settings.row_filter(path, problems)
    for record in row_filter.usable(records, settings.image_folder):
        captions = row_filter.captions(record, AnswerType.GENERAL, facts, prompt, seed, record.row)
        if captions is None:
            continue
        reward_prompt = encoder.encode_behind(template.reward_prompt(prompt.render(captions)))
        n_images = len(record.images)
        query = len(encoder.encode(query_segments(template, record.turns, n_images)).ids)
        pair = []
        for output in record.outputs:
            turns = (*record.turns, Turn("gpt", output))
            pair.append([*encoder.encode(dialogue_segments(template, turns, n_images)).ids, *reward_prompt])
        responses = [len(ids) - query - len(reward_prompt) for ids in pair]
        pictures = settings.picture_lengths(record.images)
        totals = [len(ids) + beyond_one(pictures) for ids in pair]
        if row_filter.fits(settings.limits, query, max(responses), max(totals)):
            row = {
                "row": record.row,
                "ids_1": pair[0],
                "ids_2": pair[1],
                "images": record.images,
                "preference": record.preference,
            }
            row_filter.keep(row, {"query": [query], "response": responses, "total": totals, **pictures})
            row_filter.describe(encoder, pair[0], captions if prompt.uses_facts else None)
            row_filter.count_facts(facts.known(record, AnswerType.GENERAL))
            dialogues = [ids[: len(ids) - len(reward_prompt)] for ids in pair]
            texts = [*_texts(record.turns), *record.outputs]
            row_filter.count_unknown(encoder, dialogues, texts, captions)
    return PreferenceDataset(row_filter.finish(), settings.image_folder, settings.pipeline, row_filter.report)


def build_answer_pairs(path: str | Path, settings: RowSettings) -> AnswerPairDataset:
    """Preference pairs as two dialogues each, of which the answers that were compared carry loss; no facts are read.

    Limits in tokens: the query, each response with its stop, and each whole dialogue. Raises DataError; so are rows refused
    whose responses are the same.
    """
    records, problems = read_preferences(path)
    encoder, template = settings.encoder, settings.template
    row_filter = settings.row_filter(path, problems)
    for record in row_filter.usable(records, settings.image_folder):
        n_images = len(record.images)
        pair = [
            encoder.encode(dialogue_segments(template, (*record.turns, Turn("gpt", output)), n_images))
            for output in record.outputs
        ]
        if not row_filter.differ(record, [tokens.ids for tokens in pair]):
            continue
        supervised = [_last_answer(tokens.supervised) for tokens in pair]
        query = supervised[0].index(True)
        responses = [sum(answer) for answer in supervised]
        pictures = settings.picture_lengths(record.images)
        totals = [len(tokens.ids) + beyond_one(pictures) for tokens in pair]
        if row_filter.fits(settings.limits, query, max(responses), max(totals)):
            row = {"row": record.row, "images": record.images, "preference": record.preference}
            for number, (tokens, answer) in enumerate(zip(pair, supervised, strict=True), start=1):
                row |= {f"ids_{number}": list(tokens.ids), f"supervised_{number}": answer}
            row_filter.keep(row, {"query": [query], "response": responses, "total": totals, **pictures})
            row_filter.describe(encoder, pair[0].ids, None)
            texts = [*_texts(record.turns), *record.outputs]
            row_filter.count_unknown(encoder, [tokens.ids for tokens in pair], texts, ())
    return AnswerPairDataset(row_filter.finish(), settings.image_folder, settings.pipeline, row_filter.report)


def build_dialogues(path: str | Path, settings: RowSettings) -> DialogueDataset:
    """Dialogues whose answers carry loss.

    Limits in tokens: the text before the first answer, the longest answer with its stop, and the whole
    dialogue. Raises DataError.
    """
    records, problems = read_dialogues(path)
    encoder, template = settings.encoder, settings.template
    row_filter = settings.row_filter(path, problems)
    for record in row_filter.usable(records, settings.image_folder):
        tokens = encoder.encode(dialogue_segments(template, record.turns, len(record.images)))
        runs = [(answer, len(list(run))) for answer, run in groupby(tokens.supervised)]
        query, answers = runs[0][1], [length for answer, length in runs if answer]
        pictures = settings.picture_lengths(record.images)
        total = len(tokens.ids) + beyond_one(pictures)
        if row_filter.fits(settings.limits, query, max(answers), total):
            row = {
                "row": record.row,
                "ids": list(tokens.ids),
                "supervised": list(tokens.supervised),
                "images": record.images,
            }
            row_filter.keep(row, {"query": [query], "response": answers, "total": [total], **pictures})
            row_filter.describe(encoder, tokens.ids, None)
            row_filter.count_unknown(encoder, [tokens.ids], _texts(record.turns), ())
    return DialogueDataset(row_filter.finish(), settings.image_folder, settings.pipeline, row_filter.report)


def build_prompts(
    path: str | Path,
    settings: RowSettings,
    *,
    reward_pipeline: ImagePipeline | None,
    facts: FactBook | None,
    prompt: RewardPrompt | None,
    seed: int,
) -> PromptDataset:
    """PPO prompts, each with the reward prompt that its answer is scored with.

    Without `facts` and `prompt` there is none, and captions and facts are the row's own.

    Limits in tokens: the query, and query + `response_len` + reward prompt against `model_max_length`.
    Raises DataError.
    """
    records, problems = read_prompts(path)
    encoder, template = settings.encoder, settings.template
    row_filter = settings.row_filter(path, problems)
    row_filter.report.answer_types = Counter()
    for record in row_filter.usable(records, settings.image_folder):
        captions: tuple[str, ...] | None = record.captions or ()
        known = record.facts if facts is None else facts.known(record, record.answer_type)
        reward_prompt: list[int] = []
        if prompt is not None and facts is not None:
            captions = row_filter.captions(record, record.answer_type, facts, prompt, seed, record.row)
            if captions is None:
                continue
            reward_prompt = encoder.encode_behind(template.reward_prompt(prompt.render(captions)))
        query = list(encoder.encode(query_segments(template, record.turns, len(record.images))).ids)
        pictures = settings.picture_lengths(record.images)
        total = len(query) + settings.response_len + len(reward_prompt) + beyond_one(pictures)
        if row_filter.fits(settings.limits, len(query), settings.response_len, total):
            lengths = {"query": [len(query)], "reward prompt": [len(reward_prompt)], "total": [total]}
            row_filter.keep(
                _prompt_row(record, query, reward_prompt, captions, known), {**lengths, **pictures}
            )
            row_filter.count_facts(known)
            row_filter.describe(
                encoder,
                [*query, *reward_prompt],
                captions if prompt is not None and prompt.uses_facts else None,
            )
            row_filter.count_unknown(encoder, [query], _texts(record.turns), captions)
            row_filter.report.answer_types[record.answer_type.name] += 1
    return PromptDataset(
        row_filter.finish(), settings.image_folder, settings.pipeline, row_filter.report, reward_pipeline
    )


def _last_answer(supervised: Sequence[bool]) -> list[bool]:
    """True at the tokens of the last answer alone."""
    runs = [(answer, len(list(run))) for answer, run in groupby(supervised)]
    last = max(place for place, (answer, _) in enumerate(runs) if answer)
    return [place == last for place, (_, length) in enumerate(runs) for _ in range(length)]


def _texts(turns: Iterable[Turn]) -> list[str]:
    return [turn.text.replace(IMAGE_MARKER, "") for turn in turns]


def _prompt_row(
    record: PromptRecord,
    query: list[int],
    reward_prompt: list[int],
    captions: tuple[str, ...],
    known: FactList,
) -> dict[str, Any]:
    return {
        "row": record.row,
        "id": record.id,
        "query_ids": query,
        "reward_prompt_ids": reward_prompt,
        "images": record.images,
        "answer_type": int(record.answer_type),
        "length_bonus": record.length_bonus,
        "captions": captions,
        "facts": [vars(fact) for fact in known.facts],
        "facts_complete": known.complete,
        "question": message_parts(record.turns[0].text, len(record.images))[1],
    }

"""A file of scored pairs as the page on a judge's quality."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_utils.facts import caption_key
from data_utils.problems import shorten
from data_utils.schema import AnswerType
from llava_rlhf.evaluation.benchmarks.items import Record, read_objects
from llava_rlhf.evaluation.benchmarks.reward_files import RewardAccuracy
from llava_rlhf.evaluation.benchmarks.scored_pairs import (
    ScoredPair,
    calibration_error,
    check_fields,
    confidence,
    is_number,
    scored_pairs,
)
from llava_rlhf.evaluation.calibration import pair_outcome, reliability_bins
from llava_rlhf.evaluation.score_files import ALL, summarise
from llava_rlhf.reporting.judge_quality import JudgeQuality, Lengths, ShownPair
from llava_rlhf.reporting.statistics import RESAMPLES, SEED

PARTS = 10  # of the pairs, by length difference


def judge_quality(
    path: str, captions: Mapping[str, Sequence[str]] | None, worst: int, moved: str | None = None
) -> JudgeQuality:
    """What a file that `llava_rlhf.score` wrote of preferences says of the reward model.

    Args:
        path: the file.
        captions: image → captions, to be shown beside the worst pairs; None: none were given.
        worst: so many pairs of the lowest margins are kept.
        moved: the file of captions that the run names and that is not there; None: there is no such.

    Raises:
        ValueError: it is another file, or holds no pairs.
    """
    records = [record for _, record in read_objects(path, "--pairs")]
    if not records:
        raise ValueError(f"--pairs {path}: holds no pairs")
    try:
        for line, record in enumerate(records, 1):
            _check_shown(line, record)
        pairs = scored_pairs(records)
        scores = RewardAccuracy().of_pairs(records, pairs)
    except ValueError as error:
        raise ValueError(f"--pairs {path}: {str(error).removeprefix('answers').lstrip(',: ')}") from None
    outcomes = [float(pair_outcome(pair.margin)) for pair in pairs]
    table = summarise(scores.items, list(RewardAccuracy.metrics), RESAMPLES, SEED)
    bins = reliability_bins([confidence(pair.margin) for pair in pairs], outcomes)
    order = sorted(range(len(pairs)), key=lambda place: pairs[place].margin)
    shown = [_shown(records[place], pairs[place], captions) for place in order[:worst]]
    return JudgeQuality(
        source=_source(path),
        table=table,
        calibration_error={
            name: scores.counts["calibration_error"] if name == ALL else _error(name, pairs, outcomes)
            for name in table
        },
        meanings=RewardAccuracy.metrics,
        margins=[pair.margin for pair in pairs],
        bins=[(one.predicted, one.observed, one.count) for one in bins if one.count],
        by_length=_by_length(pairs, outcomes),
        lengths=_lengths(pairs, outcomes),
        ties=sum(pair.margin == 0 for pair in pairs),
        worst=shown,
        notes=_notes(shown, captions, moved),
    )


def _check_shown(line: int, record: Record) -> None:
    """Raise ValueError where what only this page shows of a pair is missing or damaged."""
    check_fields(line, record, {"scores": list})
    scores, images = record["scores"], record.get("image") or []
    for name, right in (
        ("scores", len(scores) == 2 and all(map(is_number, scores))),
        ("image", isinstance(images, list) and all(isinstance(image, str) for image in images)),
    ):
        if not right:
            raise ValueError(
                f"line {line}: field {name!r} is {shorten(record[name])}; score the file with llava_rlhf.score first"
            )


def _error(answer_type: str, pairs: Sequence[ScoredPair], outcomes: Sequence[float]) -> float:
    kept = [place for place, pair in enumerate(pairs) if pair.answer_type == answer_type]
    return calibration_error([pairs[place] for place in kept], [outcomes[place] for place in kept])


def _by_length(pairs: Sequence[ScoredPair], outcomes: Sequence[float]) -> list[tuple[float, float]]:
    """Mean length difference and accuracy of ten equal parts of the pairs; none of fewer pairs, or where all are alike."""
    differences = np.array([len(pair.preferred) - len(pair.other) for pair in pairs], float)
    if len(pairs) < PARTS or differences.min() == differences.max():
        return []
    order = np.argsort(differences, kind="stable")
    right = np.asarray(outcomes)
    return [
        (float(differences[part].mean()), float(right[part].mean())) for part in np.array_split(order, PARTS)
    ]


def _lengths(pairs: Sequence[ScoredPair], outcomes: Sequence[float]) -> Lengths:
    """Each pair is seen from both sides, so that which response comes first means nothing."""
    longer = np.array([len(pair.preferred) - len(pair.other) for pair in pairs], float)
    margins = np.array([pair.margin for pair in pairs])
    kept = longer != 0
    if not kept.any():
        return Lengths(None, None, None, 0)
    right = np.asarray(outcomes)[kept]
    picks_longer = np.where(longer[kept] > 0, right, 1 - right)
    correlation = None
    if margins[kept].any():
        from scipy import stats  # slow to load

        both = [np.concatenate([side, -side]) for side in (margins[kept], longer[kept])]
        correlation = float(stats.spearmanr(*both).statistic)
    people = float((longer[kept] > 0).mean())
    return Lengths(people, float(picks_longer.mean()), correlation, int(kept.sum()))


def _shown(record: Record, pair: ScoredPair, captions: Mapping[str, Sequence[str]] | None) -> ShownPair:
    images = [str(name) for name in record.get("image") or []]
    kind = AnswerType.__members__.get(pair.answer_type, AnswerType.GENERAL)
    known = [text for image in images for text in (captions or {}).get(caption_key(image, kind), ())]
    first, second = map(float, record["scores"])
    preferred, other = (first, second) if record["preference"] == 1 else (second, first)
    return ShownPair(
        pair.row,
        pair.id,
        pair.answer_type,
        images,
        str(record.get("question", "")),
        known,
        {"text": pair.preferred, "score": preferred, "length": len(pair.preferred)},
        {"text": pair.other, "score": other, "length": len(pair.other)},
        pair.margin,
    )


def _notes(
    shown: Sequence[ShownPair], captions: Mapping[str, Sequence[str]] | None, moved: str | None
) -> list[str]:
    if moved is not None:
        return [
            f"The run's captions, {moved}, are not there any more: the worst pairs stand without. "
            "Name the file with --image_to_caption_file."
        ]
    if captions is None:
        return ["No captions were given (--image_to_caption_file), so that the worst pairs stand without."]
    missing = sum(bool(pair.image) and not pair.captions for pair in shown)
    return [f"{missing} of the worst pairs have no captions in --image_to_caption_file."] if missing else []


def _source(path: str) -> str:
    """Who scored what, from the summary beside the file, where it is there."""
    summary = Path(f"{path}.summary.json")
    try:
        found: Any = json.loads(summary.read_text(encoding="utf-8"))
        return f"{found['reward_model']} on {found['dataset']}"
    except (OSError, ValueError, KeyError, TypeError):
        return path

"""The studies by name: what of each is shown, and which arms are compared."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.facts import blind, studies
from benchmarks.facts.gradients import gradients
from benchmarks.facts.studies import GOLD, KL_LEVELS, Study

_NS = (1, 4, 8, 16, 64)
_ENDS = tuple(f"{name} {way}" for way in ("sampled", "greedy") for name in ("hallucination", "recall"))
_BEST = tuple(f"{name}@{n}" for name in (*GOLD, "proxy") for n in _NS)
_FACTUAL_AND_PLAIN = [
    tuple(f"{kind}, {judge} judge, {policy} policy" for kind in ("factual", "plain"))
    for policy in blind.BASES
    for judge in blind.BASES
]

STUDIES: Mapping[str, Study] = {
    "best_of_n": Study(studies.best_of_n, _BEST, [("factual", "plain")]),
    "pairs": Study(
        studies.pairs,
        ("accuracy", "descriptions"),
        [(f"factual-{n}", f"plain-{n}") for n in (100, 1000, 8000)]
        + [(f"factual-{n}", "plain-8000") for n in (100, 1000)],
    ),
    "gradients": Study(gradients, ("reliability", "cosine", "corrected", "slope"), []),
    "noisy_captions": Study(
        studies.noisy_captions,
        ("accuracy", "descriptions"),
        [("factual", "plain")]
        + [(f"{kind}-{percent}", "plain") for kind in ("missing", "wrong") for percent in (10, 30, 50)],
    ),
    "unmentioned": Study(
        studies.unmentioned,
        (*_ENDS, "yes_no_accuracy sampled"),
        [
            (f"missing-{percent}-{one}", f"missing-{percent}-{other}")
            for percent, one, other in (
                (30, "penalise", "neutral"),
                (30, "ask_picture", "neutral"),
                (30, "ask_picture", "penalise"),
                (50, "penalise", "neutral"),
            )
        ],
    ),
    "pareto": Study(
        studies.pareto,
        (*_ENDS, "yes_no_accuracy sampled"),
        [("factual", "plain"), ("mentions + coverage", "plain")]
        + [
            (arm, "factual")
            for arm in (
                "mentions",
                "mentions + coverage",
                "mentions + coverage, weighed",
                "factual + mentions + coverage",
                "claims, judged by words",
            )
        ],
    ),
    "selection": Study(
        studies.selection,
        (*_ENDS, "gold sampled", "gold greedy"),
        [(f"{way}, factual", f"{way}, plain") for way in ("SFT", "DPO")]
        + [("SFT, plain", "SFT, random"), ("SFT, factual", "SFT, random")],
    ),
    "long_ppo": Study(
        studies.long_ppo,
        tuple(f"{name}@{at}" for at in (*KL_LEVELS, "end") for name in ("kl", "proxy", *GOLD)),
        [
            ("factual-100", "plain-100"),
            ("factual-8000", "plain-8000"),
            ("mentions + coverage", "factual-8000"),
        ],
    ),
    "blind_base": Study(blind.blind_base, ("accuracy", "descriptions", *_BEST), _FACTUAL_AND_PLAIN),
    "blind_ppo": Study(blind.blind_ppo, (*_ENDS, "yes_no_accuracy sampled"), _FACTUAL_AND_PLAIN),
}

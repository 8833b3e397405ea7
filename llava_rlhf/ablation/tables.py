"""A study as Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from llava_rlhf.ablation.design import RECIPE, Arm
from llava_rlhf.ablation.effects import (
    Contrast,
    Estimate,
    arm_mean,
    contrasts,
    effect_in_recipe,
    interactions,
    main_effect,
)
from llava_rlhf.ablation.results import Numbers

SHOWN_INTERACTIONS = 20


def markdown(numbers: Numbers, measures: Sequence[str]) -> str:
    """Effects over the whole grid, in the recipe alone, together, and every arm."""
    results = numbers.results
    runs = sum(map(len, results.values()))
    seeds = sum(map(bool, results.values()))  # with a run, not only prepared
    asked = contrasts(results)
    parts = [
        f"{runs} PPO runs, {seeds} seeds. Numbers are what the ingredient adds: mean over seeds and 95 % interval (Student's "
        "t over seeds; bold where it leaves out 0). Not corrected for their number: about one in twenty is bold by chance."
    ]
    missing = seeds * len({arm for arms in results.values() for arm in arms}) - runs
    if missing:
        parts.append(
            f"**Not complete**: {missing} runs that another seed has are missing. Each leaves out its pairs, so that seeds are "
            "averaged over different combinations."
        )
    parts += [
        "## Over all combinations of the others",
        _effects(asked, measures, lambda contrast, measure: main_effect(results, contrast, measure)),
        "## Everything else as in the recipe",
        _effects(asked, measures, lambda contrast, measure: effect_in_recipe(results, contrast, measure)),
    ]
    parts += _together(numbers, measures)
    parts += ["## Every arm", "Mean over seeds ± standard error over seeds.", _arms(numbers, measures)]
    parts += ["\n".join(f"- `{name}`: {numbers.meanings[name]}." for name in measures)]
    return "\n\n".join(parts) + "\n"


def as_json(numbers: Numbers) -> str:
    """Every measure of every run, and every effect, at full precision."""
    results, measures = numbers.results, list(numbers.meanings)

    def entry(found: Estimate | None) -> dict | None:
        if found is None:
            return None
        return {
            "mean": found.mean,
            "interval": found.interval,
            "per_seed": found.per_seed,
            "pairs": found.pairs,
        }

    asked = contrasts(results)
    effects = [
        {
            "ingredient": contrast.title,
            "measure": measure,
            "over_the_grid": entry(main_effect(results, contrast, measure)),
            "in_the_recipe": entry(effect_in_recipe(results, contrast, measure)),
        }
        for contrast in asked
        for measure in measures
    ]
    together = [
        {"ingredients": [one.title, other.title], "measure": measure, "difference": entry(found)}
        for one, other, measure, found in interactions(results, measures)
    ]
    runs = [
        {"seed": seed, "arm": arm.name, "values": values}
        for seed, arms in results.items()
        for arm, values in arms.items()
    ]
    content = {
        "measures": numbers.meanings,
        "effects": effects,
        "interactions": together,
        "before": numbers.before,
        "runs": runs,
    }
    return json.dumps(content, indent=1) + "\n"


def _effects(
    asked: Sequence[Contrast],
    measures: Sequence[str],
    estimate: Callable[[Contrast, str], Estimate | None],
) -> str:
    rows = [["ingredient", *measures]]
    rows += [
        [contrast.title, *(_cell(estimate(contrast, measure)) for measure in measures)] for contrast in asked
    ]
    return _table(rows)


def _together(numbers: Numbers, measures: Sequence[str]) -> list[str]:
    found = list(interactions(numbers.results, measures))
    sure = sorted(
        (entry for entry in found if entry[3].sure), key=lambda entry: entry[3].strength, reverse=True
    )
    if not found:
        return []
    rows = [["the effect of", "on", "is larger, with instead of without", "by"]]
    rows += [
        [one.title, measure, other.title, _cell(estimate)]
        for one, other, measure, estimate in sure[:SHOWN_INTERACTIONS]
    ]
    return [
        "## Together",
        f"{len(sure)} of {len(found)} differences between effects have an interval that leaves out 0"
        + (f"; the {SHOWN_INTERACTIONS} surest:" if len(sure) > SHOWN_INTERACTIONS else ":" if sure else "."),
        *([_table(rows)] if sure else []),
    ]


def _arms(numbers: Numbers, measures: Sequence[str]) -> str:
    results = numbers.results
    found: dict[Arm, None] = dict.fromkeys(arm for arms in results.values() for arm in arms)
    rows = [["arm", *measures]]
    names = dict.fromkeys(name for models in numbers.before.values() for name in models)
    for name in names:
        cells = []
        for measure in measures:
            values = {
                seed: models[name][measure]
                for seed, models in numbers.before.items()
                if models.get(name, {}).get(measure) is not None
            }
            cells.append(_mean(Estimate(values, len(values)) if values else None))
        rows.append([f"before PPO: {name}", *cells])
    for arm in found:
        title = f"{arm.name} (the recipe)" if arm == RECIPE else arm.name
        rows.append([title, *(_mean(arm_mean(results, arm, measure)) for measure in measures)])
    return _table(rows)


def _cell(found: Estimate | None) -> str:
    if found is None:
        return "–"
    text = f"{found.mean:+.3f}"
    if found.interval is not None:
        text += f" [{found.interval[0]:+.3f}, {found.interval[1]:+.3f}]"
    return f"**{text}**" if found.sure else text


def _mean(found: Estimate | None) -> str:
    if found is None:
        return "–"
    error = found.standard_error
    return f"{found.mean:.3f}" + ("" if error is None else f" ± {error:.3f}")


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])

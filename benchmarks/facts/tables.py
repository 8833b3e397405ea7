"""Tables of the studies: means over seeds with standard errors, and differences within seeds with 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.facts.studies import Study
from benchmarks.facts.world import pairs_needed
from llava_rlhf.ablation.effects import Estimate

Found = dict[str, dict[str, dict[int, float]]]  # arm → measure → seed → number


def difference(one: Mapping[int, float], other: Mapping[int, float]) -> Estimate | None:
    """one − other within the seeds that both have; None where there is none."""
    seeds = [seed for seed in one if seed in other]
    return Estimate({seed: one[seed] - other[seed] for seed in seeds}, len(seeds)) if seeds else None


def report(name: str, study: Study, found: Found) -> str:
    """Markdown: a row for each measure, a column for each arm; then the differences."""
    seeds = sorted({seed for arm in found.values() for numbers in arm.values() for seed in numbers})
    lines = [f"## {name}: seeds {' '.join(map(str, seeds)) or 'none'}", ""]
    lines += _row(["", *found]) + _row(["---"] * (len(found) + 1))
    for measure in study.shown:
        cells = [_cell(arm.get(measure)) for arm in found.values()]
        if any(cell != "–" for cell in cells):
            lines += _row([measure, *cells])
    lines += ["", *_row(["difference", "measure", "mean", "95 %", "sure"]), *_row(["---"] * 5)]
    for one, other in study.contrasts:
        for measure in study.shown:
            numbers = [found.get(arm, {}).get(measure, {}) for arm in (one, other)]
            estimate = difference(*numbers)
            if estimate is not None:
                lines += _row([f"{one} − {other}", measure, *_difference(estimate)])
    if name == "pairs":
        lines += ["", *_worth(found)]
    return "\n".join(lines) + "\n"


def worth_of_facts(found: Found, measure: str) -> dict[int, dict[int, float]]:
    """pairs of a factual judge → seed → pairs that the plain judge of this seed needs for the same accuracy."""
    sizes = sorted(int(arm.removeprefix("plain-")) for arm in found if arm.startswith("plain-"))
    needed: dict[int, dict[int, float]] = {}
    for size in sizes:
        for seed, reached in found.get(f"factual-{size}", {}).get(measure, {}).items():
            curve = {n: found[f"plain-{n}"][measure][seed] for n in sizes}
            needed.setdefault(size, {})[seed] = pairs_needed(curve, reached)
    return needed


def _worth(found: Found) -> list[str]:
    lines = _row(["pairs with facts", "pairs without for the same accuracy, seed by seed"]) + _row(
        ["---"] * 2
    )
    for size, by_seed in worth_of_facts(found, "accuracy").items():
        cells = [f"{value:.0f}" if value < float("inf") else "more" for value in by_seed.values()]
        lines += _row([str(size), " ".join(cells)])
    return lines


def _row(cells: list[str]) -> list[str]:
    return [f"| {' | '.join(cells)} |"]


def _cell(numbers: Mapping[int, float] | None) -> str:
    if not numbers:
        return "–"
    estimate = Estimate(numbers, len(numbers))
    error = estimate.standard_error
    return f"{estimate.mean:.3f}" + (f" ± {error:.3f}" if error is not None else "")


def _difference(estimate: Estimate) -> list[str]:
    if estimate.interval is None:
        return [f"{estimate.mean:+.3f}", "–", "–"]
    low, high = estimate.interval
    return [f"{estimate.mean:+.3f}", f"{low:+.3f} to {high:+.3f}", "yes" if estimate.sure else "no"]

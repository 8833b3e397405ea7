"""What changed during training, from what the run itself logged: the first line of a page without held-out scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, variance

from llava_rlhf.reporting.changes import Cell, Measure, Measured
from llava_rlhf.reporting.run_data import RunData
from llava_rlhf.reporting.statistics import Difference
from llava_rlhf.runs.metrics import meaning_of

# What a reader asks about first, first; the first of them that a run logged begins its page.
ASKED = {
    "objective/rewards": "reward",
    "objective/reward_model": "score of the reward model",
    "objective/kl_sum_seq": "KL to the first policy (nats)",
    "response/length_mean": "response length (tokens)",
    "response/stop_rate": "stop rate",
    "ppo/val/explained_variance": "explained variance of the critic",
    "eval_accuracy": "accuracy on held-out pairs",
    "eval_loss": "loss on held-out rows",
    "loss": "training loss",
}
IN_ROLLOUTS = {
    "objective/rewards": "score",
    "objective/kl_sum_seq": "kl",
    "response/length_mean": "length",
}
Z = 1.96  # a normal distribution lies within so many standard deviations with probability 0.95
TITLE = "In training"
SAMPLED = "Intervals: ± 1.96 standard errors, the steps' responses taken as independent."
OWN = "It is the run's own reward, on its own prompts: whether answers got better, held-out scores say (--scores)."
SOURCE = f"The first and the last step that logged it. {SAMPLED} {OWN}"
LAST = f"The last step that logged it, in each run. {SAMPLED} {OWN}"


def training_change(run: RunData) -> Measured | None:
    """First against last step of what the run logged; None before there are two steps."""
    measures = [
        measure for name, title in ASKED.items() if (measure := _first_and_last(run, name, title)) is not None
    ]
    return Measured(TITLE, ("first logged", "last logged"), measures, SOURCE) if measures else None


def side_by_side(runs: Sequence[RunData], names: Sequence[str]) -> Measured | None:
    """What the runs logged last, a column a run; None before any has ended a step."""
    measures = []
    for name, title in ASKED.items():
        last = [_last(run, name) for run in runs]
        if any(cell.value is not None for cell in last):
            first, *others = zip(runs, last, strict=True)
            cells = [first[1], *(_less(*first, *other, name) for other in others)]
            measures.append(Measure(name, title, meaning_of(name) or "", cells))
    return Measured(TITLE, names, measures, LAST) if measures else None


def difference_of_means(before: Sequence[float], after: Sequence[float]) -> Difference:
    """mean(after) − mean(before) ± 1.96 √(s²/n + s²/n); no interval where one side has fewer than two numbers."""
    value = fmean(after) - fmean(before)
    if min(len(before), len(after)) < 2:
        return Difference(value, None, None)
    error = math.sqrt(sum(variance(numbers) / len(numbers) for numbers in (before, after)))
    return Difference(value, (value - Z * error, value + Z * error), None)


def _first_and_last(run: RunData, name: str, title: str) -> Measure | None:
    steps, values = run.series(name)
    if len(values) < 2:
        return None
    sampled = [_sampled(run, name, step) for step in (steps[0], steps[-1])]
    after = Cell(values[-1], None, _difference(values[-1] - values[0], *sampled))
    return Measure(name, title, meaning_of(name) or "", (Cell(values[0]), after))


def _last(run: RunData, name: str) -> Cell:
    values = run.series(name)[1]
    return Cell(values[-1] if values else None)


def _less(first: RunData, before: Cell, other: RunData, after: Cell, name: str) -> Cell:
    if before.value is None or after.value is None:
        return Cell(after.value, None, Difference(None, None, None))
    sampled = [_sampled(run, name, run.series(name)[0][-1]) for run in (first, other)]
    return Cell(after.value, None, _difference(after.value - before.value, *sampled))


def _sampled(run: RunData, name: str, step: int) -> Sequence[float]:
    """The numbers of a step's rollouts of which a metric is the mean; none where it is another metric."""
    return run.values.get(step, {}).get(IN_ROLLOUTS.get(name, ""), [])


def _difference(value: float, before: Sequence[float], after: Sequence[float]) -> Difference:
    """The logged difference, with the width that the rollouts behind it give."""
    found = difference_of_means(before, after).interval if before and after else None
    half = 0.0 if found is None else (found[1] - found[0]) / 2
    return Difference(value, found and (value - half, value + half), None)

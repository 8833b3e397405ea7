"""How far annotators agree: shares, Cohen's kappa for two, Krippendorff's alpha for any number with gaps.

Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological Measurement 20 (1960)
Krippendorff, "Content Analysis" (2004), chapter 11: nominal data, any number of observers, missing data
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from itertools import combinations

# Item → annotator → label.
Labels = Mapping[Hashable, Mapping[str, Hashable]]


@dataclass(frozen=True)
class PairAgreement:
    """Two annotators on the items that both judged.

    Attributes:
        annotators: who.
        items: how many.
        agreement: share of equal labels.
        kappa: Cohen's, 1 for perfect and 0 for chance; None where chance alone would agree always.
    """

    annotators: tuple[str, str]
    items: int
    agreement: float
    kappa: float | None


def pairwise(labels: Labels) -> list[PairAgreement]:
    """Agreement of every two annotators with an item in common, by name."""
    names = sorted({name for by_annotator in labels.values() for name in by_annotator})
    found = []
    for one, other in combinations(names, 2):
        both = [(by[one], by[other]) for by in labels.values() if one in by and other in by]
        if both:
            same = sum(a == b for a, b in both) / len(both)
            found.append(PairAgreement((one, other), len(both), same, _kappa(both, same)))
    return found


def krippendorff_alpha(labels: Labels) -> float | None:
    """alpha = 1 − D_o / D_e for nominal labels; items with one label say nothing about agreement and are left out.

    1 is perfect, 0 is chance. None without two labels on any item, or where only one label was ever used.
    """
    units = [Counter(by.values()) for by in labels.values() if len(by) > 1]
    totals = sum(units, Counter())
    values = sum(totals.values())
    # Ordered pairs of different labels: expected among all values, observed within the units.
    expected = sum(count * (values - count) for count in totals.values())
    if not expected:
        return None
    observed = sum(
        sum(count * (unit.total() - count) for count in unit.values()) / (unit.total() - 1) for unit in units
    )
    return 1 - (values - 1) * observed / expected


def _kappa(both: list[tuple[Hashable, Hashable]], same: float) -> float | None:
    first, second = Counter(a for a, _ in both), Counter(b for _, b in both)
    chance = sum(first[label] * second[label] for label in first) / len(both) ** 2
    return None if chance == 1 else (same - chance) / (1 - chance)

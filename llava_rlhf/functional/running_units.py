"""Mean and spread of numbers that come in steps, from running sums in which older steps count for less."""

from __future__ import annotations

SMALLEST = 1e-4  # spread: numbers that are all alike


def running_units(weight: float, first: float, second: float) -> tuple[float, float]:
    """Mean and standard deviation; 0 and 1 before any number was seen.

    Args:
        weight: how much was seen.
        first, second: running sums of the numbers and of their squares.
    """
    if weight <= 0:
        return 0.0, 1.0
    mean = first / weight
    return mean, max(second / weight - mean**2, SMALLEST**2) ** 0.5

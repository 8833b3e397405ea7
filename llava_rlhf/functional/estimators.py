"""The choice between estimates of the KL penalty, apart from their arithmetic (`kl`): settings need no torch."""

from __future__ import annotations

from enum import Enum


class KLEstimator(str, Enum):
    """Which estimate; with d = log p_ref - log p: (names k1 to k3 after http://joschu.net/blog/kl-approx.html)."""

    K1_CLAMPED = "k1_clamped"
    """max(-d, 0): as published; biased upwards."""
    K1 = "k1"
    """-d: unbiased, may be negative."""
    K2 = "k2"
    """d² / 2: biased where the policies differ much, never negative."""
    K3 = "k3"
    """exp(d) - 1 - d: unbiased, never negative."""

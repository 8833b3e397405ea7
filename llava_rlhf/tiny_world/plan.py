"""How long the tiny world's base is trained, and on what: the numbers of `curriculum`, which loads torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

NOTHING_TO_SEE = (4.0, 4.0)  # pixel noise that hides everything


@dataclass(frozen=True)
class Plan:
    """Sizes of the curriculum.

    Attributes:
        naming_steps, naming_batch, naming_lr: stage 1, pictures per step.
        checking_steps, mixture_steps: stages 2 and 3.
        batch: rows of each kind per step (stage 3 has two kinds and a sixth of check lists).
        lr: peak learning rate of stages 2 and 3; held for half of stage 3, then cosine to 0.
        noise: pictures get a pixel noise drawn evenly from this range.
        facts_noise: the same where the reward model is given captions.
        nothing_weight: how much a position with nothing counts in stage 1, where one with an object counts 1.
        scenes: how many are drawn beforehand and met again and again; 0: every one is new.
        matching: whether any lesson asks if a word is in the picture.
    """

    naming_steps: int = 1000
    naming_batch: int = 128
    naming_lr: float = 3e-3
    checking_steps: int = 100
    mixture_steps: int = 2000
    batch: int = 24
    lr: float = 2e-3
    noise: tuple[float, float] = (0.1, 0.5)
    facts_noise: tuple[float, float] = (0.2, 0.8)
    nothing_weight: float = 1.0
    scenes: int = 0
    matching: bool = True

    def without_matching(self) -> Plan:
        """For a base that describes what it sees and reads captions, but can't say whether a given word is in the picture.

        There are no check lists, no questions but those to describe, and answers are graded by captions alone, beside pictures
        that show nothing.
        """
        return replace(self, matching=False, checking_steps=0, facts_noise=NOTHING_TO_SEE)

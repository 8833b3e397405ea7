"""Where judge, policy or both stand on a base that can't say whether a word is in the picture."""

from __future__ import annotations

from benchmarks.facts.stages import KINDS, Judge, Stages
from benchmarks.facts.studies import Arms, accuracy, best_of_answers, evaluated, most

BASES = ("sighted", "blind")


def blind_base(stages: Stages, seed: int) -> Arms:
    """Best of n, and the judges on held-out pairs."""
    stages.make_blind()
    for policy in BASES:
        judges = judges_by_arm(stages, seed)
        for arm, numbers in best_of_answers(stages, seed, policy, judges):
            own = accuracy(stages, judges[arm]) if arm in judges else {}
            yield f"{arm}, {policy} policy", {**numbers, **own}


def blind_ppo(stages: Stages, seed: int) -> Arms:
    """Where PPO ends."""
    stages.make_blind()
    for policy in BASES:
        name = "init" if policy == "sighted" else "init-blind"
        yield (
            f"policy init, {policy} policy",
            evaluated(stages, f"{name}-{seed}", stages.init(policy), seed, policy),
        )
        for arm, judge in judges_by_arm(stages, seed).items():
            own = f"blind-{policy}-{judge.base}-{judge.kind}"
            # Study `pareto` has the first of these.
            name = f"pareto-{judge.kind}" if (policy, judge.base) == ("sighted", "sighted") else own
            trained = stages.policy(name, judge, None, {}, base=policy)
            yield f"{arm}, {policy} policy", evaluated(stages, f"{name}-{seed}", trained, seed, policy)


def judges_by_arm(stages: Stages, seed: int) -> dict[str, Judge]:
    """Plain and factual, on each base."""
    return {
        f"{kind}, {base} judge": Judge(kind, most(stages), seed, None, base)
        for base in BASES
        for kind in KINDS
    }

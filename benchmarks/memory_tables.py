"""Print the memory tables of docs/recipe.md and docs/memory.md, as the planner gives them for the published scripts.

PYTHONPATH=. python benchmarks/memory_tables.py
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from llava_rlhf.memory_planning.plan import GIB, MemoryPlan
from llava_rlhf.plan_memory import prepare

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {
    "reward model, 13B": "13b-v1.5-336/train_reward_model.sh",
    "policy init (SFT), 7B": "7b-v1.5-224/initialize_policy_model.sh",
    "policy init (SFT), 13B": "13b-v1.5-336/initialize_policy_model.sh",
    "PPO, 7B with the 13B reward model": "7b-v1.5-224/train_rl_model.sh",
    "PPO, 13B": "13b-v1.5-336/train_rl_model.sh",
}
KINDS = ("sampling", "scoring", "update", "evaluation")
HEADS = ("run", "GPUs", "base weights", "adapters, optimizer, rollouts", *KINDS, "tensors", "a GPU in all")


def plans(names: Iterable[str] = SCRIPTS) -> Iterator[tuple[str, int, MemoryPlan]]:
    """Published runs by name, each on 1 and on 8 GPUs."""
    for name in names:
        for gpus in (1, 8):
            prepared = prepare([str(ROOT / "scripts" / SCRIPTS[name]), "--gpus", str(gpus)])
            yield name, gpus, prepared.planned[0][1]


def recipe_table(found: Sequence[tuple[str, int, MemoryPlan]]) -> str:
    """What a GPU must have: a row for each run."""
    totals = {(name, gpus): plan for name, gpus, plan in found}
    rows = [
        [name, f"`scripts/{SCRIPTS[name]}`", *(f"{totals[name, gpus].total / GIB:.0f}" for gpus in (1, 8))]
        for name in dict.fromkeys(name for name, _, _ in found)
    ]
    return _table(["run", "script", "GiB on 1 GPU", "GiB on each of 8"], rows)


def full_table(found: Sequence[tuple[str, int, MemoryPlan]]) -> str:
    """What that is made of: a row for each run and number of GPUs."""
    rows = []
    for name, gpus, plan in found:
        base = sum(part.size for part in plan.held if ": " in part.name)
        kinds = [[phase.size for phase in plan.phases if kind in phase.name] for kind in KINDS]
        sizes = [
            base,
            plan.held_bytes - base,
            *(max(sizes, default=0) for sizes in kinds),
            plan.peak,
            plan.total,
        ]
        rows.append([name, str(gpus), *(f"{size / GIB:.1f}" if size else "–" for size in sizes)])
    return _table(HEADS, rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    found = list(plans())
    print(recipe_table(found), full_table(found), sep="\n\n")

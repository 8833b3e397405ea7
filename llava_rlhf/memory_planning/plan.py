"""A plan: what a run holds all the time, what each of its phases adds, and how that is printed."""

from __future__ import annotations

from dataclasses import dataclass

MIB, GIB = 2**20, 2**30
CONTEXT = (
    2 * GIB
)  # assumed for what is no tensor: CUDA's context, kernels' workspaces, what the allocator can't reuse


@dataclass(frozen=True)
class Part:
    """Some bytes and what they are."""

    name: str
    size: int


@dataclass(frozen=True)
class Phase:
    """What one phase holds at most, besides what is held all the time.

    Attributes:
        name: what happens, by whom.
        size: bytes.
    """

    name: str
    size: int


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of one process.

    Attributes:
        title: program and bases.
        held: from the first step to the last.
        phases: one after the other.
        context: what is assumed for everything that is no tensor; 0 on a CPU.
        notes: what to know besides.
    """

    title: str
    held: tuple[Part, ...]
    phases: tuple[Phase, ...]
    context: int
    notes: tuple[str, ...] = ()

    @property
    def held_bytes(self) -> int:
        """Sum of what is held."""
        return sum(part.size for part in self.held)

    @property
    def widest(self) -> Phase:
        """The phase that decides the peak."""
        return max(self.phases, key=lambda phase: phase.size)

    @property
    def peak(self) -> int:
        """The most that tensors take at any time."""
        return self.held_bytes + self.widest.size

    @property
    def total(self) -> int:
        """What a GPU must have."""
        return self.peak + self.context


def unit_of(plan: MemoryPlan) -> tuple[int, str]:
    """In what a plan is best told: bytes of the unit, and its name."""
    return (GIB, "GiB") if plan.peak >= GIB else (MIB, "MiB")


def format_plan(plan: MemoryPlan) -> str:
    """The plan as a table of one line for each part and phase."""
    unit, name = unit_of(plan)

    def line(text: str, size: int) -> str:
        return f"  {text:<68}{size / unit:9.2f}"

    lines = [f"Memory of {plan.title}, estimated, {name} a process:"]
    lines += [line(f"held: {part.name}", part.size) for part in plan.held]
    lines.append(line("held in all", plan.held_bytes))
    for phase in plan.phases:
        mark = "  <- peak" if phase is plan.widest else ""
        lines.append(line(f"+ {phase.name}", phase.size) + mark)
    lines.append(line("peak of tensors", plan.peak))
    if plan.context:
        lines.append(line("CUDA's context, workspaces of kernels, fragmentation (assumed)", plan.context))
        lines.append(line("a GPU in all", plan.total))
    return "\n".join([*lines, *(f"  ({note})" for note in plan.notes)])

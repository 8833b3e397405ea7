"""The rooms of llava_rlhf/, who imports whom, and the picture of it in docs/architecture.md.

    python -m tests.house.rooms     draws the picture again

`ROOMS` is the one place where the order is written: a room imports from rooms that stand below it in the list.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "llava_rlhf"
ROOMS = (
    "pages",
    "collection",
    "reward_service",
    "interactive",
    "ablation",
    "evaluation",
    "memory_planning",
    "tiny_world",
    "importing",
    "exporting",
    "conversion",
    "ppo",
    "supervised",
    "reporting",
    "engines",
    "fact_rewards",
    "assembly",
    "runs",
    "hub",
    "functional",
)
LAYERS = ("models", "data_utils")  # packages of their own, below the rooms, which know none of the others
DOCUMENT = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- drawn by tests/house/rooms.py -->\n", "<!-- end -->\n"


def imported_modules(source: str, package: str = "") -> set[str]:
    """Full names of all modules a source imports anywhere in it; relative ones are resolved against ``package``.

    ``from a.b import c`` gives ``a.b`` and ``a.b.c``, as ``c`` may be a module too.
    """
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            kept = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            name = ".".join([*kept, *([node.module] if node.module else [])])
            modules |= {name, *(f"{name}.{alias.name}" for alias in node.names)}
    return modules


def room_of(path: Path) -> str:
    """The room of a file below llava_rlhf/; "" for one that lies in its root."""
    parts = path.relative_to(ROOT / PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def rooms_entered(source: str, package: str = "") -> set[str]:
    """Rooms that a source imports from; other packages of ours by their names."""
    entered = set()
    for module in imported_modules(source, package):
        head, *rest = module.split(".")
        if head == PACKAGE and rest and rest[0] in ROOMS:
            entered.add(rest[0])
        elif head in LAYERS:
            entered.add(head)
    return entered


def package_files() -> list[Path]:
    """Every Python file of llava_rlhf/."""
    return sorted((ROOT / PACKAGE).rglob("*.py"))


def programs() -> list[Path]:
    """What can be run: the root of llava_rlhf/; ``__main__`` lists it."""
    return [path for path in sorted((ROOT / PACKAGE).glob("*.py")) if not path.name.startswith("_")]


def arrows() -> dict[str, set[str]]:
    """Room → what it imports from. "programs" stands for all files in the root."""
    found: dict[str, set[str]] = {}
    for path in package_files():
        if path.parent == ROOT / PACKAGE and path.name == "__init__.py":
            continue
        name = room_of(path) or "programs"
        package = ".".join(path.relative_to(ROOT).parent.parts)
        found.setdefault(name, set()).update(rooms_entered(path.read_text("utf-8"), package) - {name})
    return found


def floors(entered: dict[str, set[str]]) -> dict[str, int]:
    """Room → its floor: 1 for one that imports from no other, else one above the highest that it imports from."""
    found: dict[str, int] = {}

    def floor(name: str) -> int:
        if name not in found:
            found[name] = 1 + max((floor(below) for below in entered.get(name, ())), default=0)
        return found[name]

    for name in entered:
        floor(name)
    return found


def shortened(entered: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same without arrows that a longer way says already."""

    def reached(name: str) -> set[str]:
        return entered.get(name, set()).union(*(reached(below) for below in entered.get(name, ())))

    return {
        name: {below for below in names if not any(below in reached(other) for other in names - {below})}
        for name, names in entered.items()
    }


def drawing() -> str:
    """The picture as a Mermaid flowchart."""
    entered = arrows()
    levels = floors(entered)
    lines = ["```mermaid", "flowchart TB"]
    for level in sorted(set(levels.values()), reverse=True):
        names = sorted(name for name, floor in levels.items() if floor == level)
        lines.append(f"    subgraph floor{level}[ ]")
        lines += [f'        {name}["{label(name)}"]' for name in names]
        lines.append("    end")
    for name, below in sorted(shortened(entered).items()):
        lines += [f"    {name} --> {other}" for other in sorted(below)]
    return "\n".join([*lines, "```", ""])


def label(name: str) -> str:
    """How a room is called in the picture."""
    if name == "programs":
        return f"programs: {PACKAGE}/*.py"
    return f"{name}/"


def redrawn(text: str) -> str:
    """The document with the picture of today."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}{drawing()}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    DOCUMENT.write_text(redrawn(DOCUMENT.read_text("utf-8")), "utf-8")

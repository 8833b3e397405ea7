"""List what can be run: python -m llava_rlhf"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from pathlib import Path

ORDER = ("train_reward_model", "initialize_policy_model", "train_rl_model")  # the method; the rest by name


def programs() -> dict[str, str]:
    """Every program with the first sentence of what it says of itself; none is imported."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found[path.stem] = text.partition("\n")[0]
    return {name: found[name] for name in (*ORDER, *(name for name in found if name not in ORDER))}


def main(argv: Sequence[str]) -> None:
    """Print the list; the name of a program is refused with how it is written."""
    listed = programs()
    if argv and argv[0] in listed:
        raise SystemExit(f"error: write python -m llava_rlhf.{argv[0]}")
    width = max(map(len, listed))
    print("python -m llava_rlhf.NAME --help tells the flags of a program:\n")
    for name, text in listed.items():
        print(f"  {name:<{width}}  {text}")


if __name__ == "__main__":
    main(sys.argv[1:])

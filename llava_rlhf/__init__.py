"""Factually Augmented RLHF for vision-language models (arXiv 2309.14525): the files here are what can be run, folders how it works.

What lives elsewhere: records and batches in ``data_utils``, networks in ``models``. ``RewardModel`` and ``Policy``
(docs/python.md) are looked up when they are asked for, so that importing one module never loads another.
"""

from __future__ import annotations

import logging
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_rlhf.interactive.python_api import Policy, RewardModel

__all__ = ["Policy", "RewardModel"]

# `python -m` looks for its program now: without the packages it would end in a traceback.
if sys.argv[:1] == ["-m"] and not (find_spec("torch") and find_spec("transformers")):
    raise SystemExit(
        "error: torch or transformers is not installed here: run bash scripts/setup_venv.sh, then source .venv/bin/activate"
    )

# transformers and PEFT import bitsandbytes, which tells every CPU user about an optional kernel that nothing here needs.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def _take_name(name: str, root: Path) -> None:
    """Make `import name` mean the package in `root`, although another is found first or was imported before.

    Modules of the other stay importable where ours has none of that name; what was imported from it goes on working.
    """
    own, before = root / name, sys.modules.get(name)
    if before is not None and [Path(place).resolve() for place in _folders(before)][:1] == [own]:
        return
    package = sys.modules[name] = module_from_spec(PathFinder.find_spec(name, [str(root)]))
    package.__spec__.loader.exec_module(package)
    other = PathFinder.find_spec(name) if before is None else None
    places = _folders(before) if other is None else other.submodule_search_locations or ()
    package.__path__ += [place for place in places if Path(place).resolve() != own]
    for loaded in [key for key in sys.modules if key.startswith(f"{name}.")]:
        module = loaded.split(".")[1]
        if (own / f"{module}.py").is_file():
            del sys.modules[loaded]
        else:
            setattr(package, module, sys.modules[f"{name}.{module}"])


def _folders(module: ModuleType | None) -> list[str]:
    return list(getattr(module, "__path__", ()))


for _name in ("models", "data_utils"):
    _take_name(_name, Path(__file__).resolve().parents[1])


def __getattr__(name: str) -> Any:
    """Load what Python users import from here."""
    if name in __all__:
        from llava_rlhf.interactive import python_api

        return getattr(python_api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

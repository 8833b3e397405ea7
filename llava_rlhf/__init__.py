"""Factually Augmented RLHF for vision-language models (arXiv 2309.14525): the files here are what can be run, folders how it works.

What lives elsewhere: records and batches in ``data_utils``, networks in ``models``. ``RewardModel`` and ``Policy``
(docs/python.md) are looked up when they are asked for, so that importing one module never loads another.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_rlhf.interactive.python_api import Policy, RewardModel

__all__ = ["Policy", "RewardModel"]

# transformers and PEFT import bitsandbytes, which tells every CPU user about an optional kernel that nothing here needs.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def __getattr__(name: str) -> Any:
    """Load what Python users import from here."""
    if name in __all__:
        from llava_rlhf.interactive import python_api

        return getattr(python_api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

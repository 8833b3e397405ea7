"""Policy initialisation with vocabulary projections of 3 tokens, so that processes need unequal numbers of them."""

from __future__ import annotations

from llava_rlhf.initialize_policy_model import prepare, run
from llava_rlhf.supervised.sft_trainer import DialogueLoss

__all__ = ["prepare", "run"]

DialogueLoss.__init__.__defaults__ = (3, None)

"""An engine that answers from a second, whole copy of the policy's base in the same process, as a server would beside it.

Each step the policy's adapter is written to a folder of its own, and the copy reads it from there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers.integrations import deepspeed as transformers_deepspeed

from data_utils.batches import PromptBatch
from llava_rlhf.engines.policy_engine import PolicyEngine
from models.adapters import AdapterBank, AdapterSpec
from models.generation import Sample, SamplingSettings
from models.packed_features import PackedFeatures
from models.roles import Policy
from models.vlm import BaseSettings, VisionLanguageModel, load_base

COPY = "copy"


class CopyEngine:
    """As `llava_rlhf.engines.interface.RolloutEngine`.

    Args:
        policy: the role that trains, whatever divides its weights.
        settings: how it answers.
        base: directory of its base.
        folder: where its adapter is written; all processes see it.
    """

    def __init__(self, policy: Policy, settings: SamplingSettings, base: str, folder: Path):
        self.policy, self.settings, self.base, self.folder = policy, settings, base, folder
        self._copy: PolicyEngine | None = None

    def begin_step(self, step: int) -> None:
        """Write the adapter as it is now, and read it into the copy."""
        written, bank = self.folder / f"step-{step}", self.policy.bank
        with bank.whole(self.policy.adapter):
            if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
                bank.save(self.policy.adapter, written)
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        if self._copy is None:
            with torch.random.fork_rng(devices=[]):  # no number that the run would miss
                self._copy = self._copy_of(written)
        self._copy.policy.bank.load(COPY, written)

    def _copy_of(self, written: Path) -> PolicyEngine:
        base = _load_whole(self.base, self.policy.bank)
        bank = AdapterBank(base, {COPY: AdapterSpec(written, trainable=False)})
        return PolicyEngine(Policy(bank, COPY), self.settings)

    def start(
        self, batch: PromptBatch, uniforms: Tensor, features: PackedFeatures | None
    ) -> Callable[[], Sample]:
        """As `PolicyEngine.start`, of the copy."""
        return self._copy.start(batch, uniforms, features)

    def rest(self) -> None:
        """Nothing to do: nobody is waited for."""

    def end(self) -> None:
        """Nothing is left behind that a server would have to give back."""


def _load_whole(base: str, bank: AdapterBank) -> VisionLanguageModel:
    """The base again; DeepSpeed's configuration, which would divide it, is out of sight meanwhile."""
    kept = transformers_deepspeed._hf_deepspeed_config_weak_ref
    transformers_deepspeed.unset_hf_deepspeed_config()
    settings = BaseSettings(compute_dtype=bank.vlm.compute_dtype, device=str(bank.vlm.device))
    copied = load_base(base, settings)
    transformers_deepspeed._hf_deepspeed_config_weak_ref = kept
    return copied

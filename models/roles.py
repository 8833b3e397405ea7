"""Policy, value model and reward model. Each enters its own adapter, so that no loop ever switches one.

A *sequence batch* is `input_ids` int64[B, L] with `mask` bool[B, L] (True at real tokens), images expanded to their
positions, and `image_features` float[S, K, D] for the slots of its rows in order. Where a response is scored its `T`
columns are the last ones of the sequence: `L = P + T`, prompts left-padded, responses right-padded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.adapters import AdapterBank
from models.generation import Sample, SamplingSettings, sample
from models.heads import ScalarHead


class Policy(nn.Module):
    """A language policy: base + adapter. Also the reference policy, whose adapter is frozen."""

    def __init__(self, bank: AdapterBank, adapter: str):
        super().__init__()
        self.bank = bank
        self.adapter = adapter

    def hidden_states(
        self, input_ids: Tensor, mask: Tensor, image_features: Tensor | None, training: bool = False
    ) -> Tensor:
        """Final hidden states float[B, L, D] of a sequence batch."""
        with self.bank.use(self.adapter, training) as vlm:
            return vlm(input_ids, mask, image_features)

    def response_states(
        self,
        input_ids: Tensor,
        mask: Tensor,
        image_features: Tensor | None,
        response_len: int,
        training: bool = False,
    ) -> Tensor:
        """Hidden states float[B, T, D] from which the last `response_len` = T columns are predicted.

        The state that predicts column t stands at t − 1, so the prompt must have at least one column.
        """
        hidden = self.hidden_states(input_ids, mask, image_features, training)
        return hidden[:, -response_len - 1 : -1]

    def project(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits float[..., V] of hidden states float[..., D]."""
        return self.bank.vlm.project(hidden)

    def sample(
        self,
        input_ids: Tensor,
        mask: Tensor,
        image_features: Tensor | None,
        settings: SamplingSettings,
        uniforms: Tensor | None = None,
    ) -> Sample:
        """Answer left-padded prompts int64[B, P]; see `models.generation.sample`."""
        with self.bank.use(self.adapter, training=False) as vlm:
            return sample(vlm, input_ids, mask, image_features, settings, uniforms)


class ValueModel(nn.Module):
    """V(s_t) in (scaled) reward units for every response position: base + adapter + scalar head."""

    def __init__(self, bank: AdapterBank, adapter: str, head: ScalarHead):
        super().__init__()
        self.bank = bank
        self.adapter = adapter
        self.head = head

    def forward(
        self,
        input_ids: Tensor,
        mask: Tensor,
        image_features: Tensor | None,
        response_len: int,
        training: bool = False,
    ) -> Tensor:
        """float32[B, T]: the value before each response token is emitted (read one position earlier)."""
        with self.bank.use(self.adapter, training) as vlm:
            hidden = vlm(input_ids, mask, image_features)
        return self.head(hidden[:, -response_len - 1 : -1])


class RewardModel(nn.Module):
    """r(x, y) = w · h_last + b, h_last at the last real token (arXiv 2309.14525, section 2)."""

    def __init__(self, bank: AdapterBank, adapter: str, head: ScalarHead):
        super().__init__()
        self.bank = bank
        self.adapter = adapter
        self.head = head

    def forward(
        self, input_ids: Tensor, mask: Tensor, image_features: Tensor | None, training: bool = False
    ) -> Tensor:
        """float32[B] scores of a sequence batch, padded on either side. No vocabulary logits are computed."""
        with self.bank.use(self.adapter, training) as vlm:
            hidden = vlm(input_ids, mask, image_features)
        rows = torch.arange(len(mask), device=mask.device)
        columns = torch.arange(mask.shape[1], device=mask.device)
        last = (mask * columns).argmax(dim=1)  # the largest column index among the real tokens
        return self.head(hidden[rows, last])

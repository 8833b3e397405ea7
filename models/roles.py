"""Policy, value model and reward model. Each enters its own adapter, so that no loop ever switches one.

A *sequence batch* is `input_ids` int64[B, L] with `mask` bool[B, L] (True at real tokens), images expanded to their
positions, and `image_features` float[S, K, D] for the slots of its rows in order. `mask` may be None where padding stands
behind every row and is not read (see `VisionLanguageModel.forward`). Where a response is scored, `columns` int64[B, T] says
where in the sequence its tokens stand.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.adapters import AdapterBank
from models.generation import Sample, SamplingSettings, sample
from models.heads import Head
from models.packed_features import PackedFeatures
from models.settings import NO_ADAPTER


class Policy(nn.Module):
    """A language policy: base + adapter. Also the reference policy, whose adapter is frozen."""

    def __init__(self, bank: AdapterBank, adapter: str):
        super().__init__()
        self.bank = bank
        self.adapter = adapter

    def hidden_states(
        self,
        input_ids: Tensor,
        mask: Tensor | None,
        image_features: PackedFeatures | None,
        training: bool = False,
    ) -> Tensor:
        """Final hidden states float[B, L, D] of a sequence batch."""
        with self.bank.use(self.adapter, training) as vlm:
            return vlm(input_ids, mask, image_features)

    def response_states(
        self,
        input_ids: Tensor,
        mask: Tensor | None,
        image_features: PackedFeatures | None,
        columns: Tensor,
        training: bool = False,
    ) -> Tensor:
        """Hidden states float[B, T, D] from which the tokens at `columns` are predicted: those one column earlier.

        So the prompt must have at least one column.
        """
        return _before(self.hidden_states(input_ids, mask, image_features, training), columns)

    def project(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits float[..., V] of hidden states float[..., D]."""
        return self.bank.vlm.project(hidden)

    def sample(
        self,
        input_ids: Tensor,
        mask: Tensor,
        image_features: PackedFeatures | None,
        settings: SamplingSettings,
        uniforms: Tensor | None = None,
        merge_adapter: bool = True,
        on_tokens: Callable[[Tensor, Tensor], None] | None = None,
    ) -> Sample:
        """Answer left-padded prompts int64[B, P]; see `models.generation.sample`, `AdapterBank.use_for_sampling`."""
        with self.bank.use_for_sampling(self.adapter, merge_adapter) as vlm:
            return sample(vlm, input_ids, mask, image_features, settings, uniforms, on_tokens=on_tokens)


class BasePolicy(Policy):
    """The base without any adapter, as a reference policy; it does not sample."""

    def __init__(self, bank: AdapterBank):
        super().__init__(bank, NO_ADAPTER)

    def hidden_states(
        self,
        input_ids: Tensor,
        mask: Tensor | None,
        image_features: PackedFeatures | None,
        training: bool = False,
    ) -> Tensor:
        """Final hidden states float[B, L, D] of a sequence batch; never in training mode, as nothing of it trains."""
        with self.bank.use_base() as vlm:
            return vlm(input_ids, mask, image_features)


class _HeadedModel(nn.Module):
    """Base + adapter + head; a value model's is linear, as return normalisation rewrites its one layer."""

    def __init__(self, bank: AdapterBank, adapter: str, head: Head):
        super().__init__()
        self.bank = bank
        self.adapter = adapter
        self.head = head


class ValueModel(_HeadedModel):
    """V(s_t) in (scaled) reward units for every response position: base + adapter + scalar head."""

    def forward(
        self,
        input_ids: Tensor,
        mask: Tensor | None,
        image_features: PackedFeatures | None,
        columns: Tensor,
        training: bool = False,
    ) -> Tensor:
        """float32[B, T]: the value before each response token is emitted (read one position earlier)."""
        with self.bank.use(self.adapter, training) as vlm:
            hidden = vlm(input_ids, mask, image_features)
        return self.head(_before(hidden, columns))


class RewardModel(_HeadedModel):
    """r(x, y) = head(h_last), h_last at the last real token (arXiv 2309.14525, section 2: w · h_last + b)."""

    def forward(
        self,
        input_ids: Tensor,
        mask: Tensor,
        image_features: PackedFeatures | None,
        training: bool = False,
        right_padded: bool = False,
        head_dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """float32[B] scores of a sequence batch. No vocabulary logits are computed.

        Rows may be padded on either side; `right_padded` promises that they are padded behind, which is faster.
        `head_dtype` is what the head computes in; from float64 it is rounded once.
        """
        with self.bank.use(self.adapter, training) as vlm:
            hidden = vlm(input_ids, None if right_padded else mask, image_features)
        rows = torch.arange(len(mask), device=mask.device)
        columns = torch.arange(mask.shape[1], device=mask.device)
        last = (mask * columns).argmax(dim=1)  # the largest column index among the real tokens
        return self.head(hidden[rows, last], head_dtype)


def _before(hidden: Tensor, columns: Tensor) -> Tensor:
    """float[B, T, D]: the states one column before int64[B, T]."""
    rows = torch.arange(len(columns), device=columns.device).unsqueeze(1)
    return hidden[rows, columns - 1]

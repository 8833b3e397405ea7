"""Supervised fine-tuning of the policy adapter: cross-entropy on assistant tokens only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import EvalPrediction

from data_utils.batches import NO_LOSS, ROWS, ImageBatch
from data_utils.feature_files import FeatureFiles
from llava_rlhf.assembly.image_features import encode_images
from llava_rlhf.supervised.labelled_log_probs import CHUNK_SIZE, Labelled, labelled_log_probs
from llava_rlhf.supervised.role_trainer import RoleTrainer
from models.roles import Policy


class DialogueLoss(nn.Module):
    """Summed cross-entropy of each row of a `data_utils.batches.DialogueBatch`; the module that DDP and DeepSpeed wrap.

    Args:
        policy: the trained role.
        banned_ids: int64[K] tokens that no answer holds and that can't be sampled: they take no probability.
        chunk_size: supervised tokens per vocabulary projection.
        files: the feature cache of the policy's tower, if there is one.
    """

    def __init__(
        self,
        policy: Policy,
        banned_ids: Tensor,
        chunk_size: int = CHUNK_SIZE,
        files: FeatureFiles | None = None,
    ):
        super().__init__()
        self.policy = policy
        self.banned_ids = banned_ids.to(policy.bank.vlm.device)
        self.chunk_size = chunk_size
        self.files = files

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        **images: Tensor,
    ) -> Tensor:
        """float32[B]: each row's sum over its supervised tokens, in nats; `labels` int64[B, L] stand at their token.

        Rows are padded behind, where no label stands: causal attention needs no `attention_mask`. `images` as in `ImageBatch`.
        """
        features = encode_images(self.policy.bank.vlm, ImageBatch(**images), self.files)
        rows = Labelled(input_ids, labels, features)
        found = labelled_log_probs(self.policy, rows, self.banned_ids, self.chunk_size, self.training)
        return -found.sum(dim=1)


class SFTTrainer(RoleTrainer):
    """`Trainer` whose loss is Σ / N, with N counted over all processes and accumulated batches."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, compute_metrics=token_loss, **kwargs)
        # Makes the Trainer count N (from `labels`) and leave the division to `compute_loss`.
        self.model_accepts_loss_kwargs = True

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Cross-entropy per supervised token of the step, times the processes (DDP averages over them)."""
        sums = model(**{name: tensor for name, tensor in inputs.items() if name != ROWS})
        loss = sums.sum() / num_items_in_batch * self.accelerator.num_processes
        self.guard.check_loss(loss, inputs, sums, self.state.global_step)
        return (loss, None) if return_outputs else loss

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[None, Tensor, Tensor]:
        """Sum and number of supervised tokens of each row; no loss, which would be a mean of unequal batches."""
        inputs = {name: tensor for name, tensor in self._prepare_inputs(inputs).items() if name != ROWS}
        with torch.no_grad():
            return None, model(**inputs), (inputs["labels"][:, 1:] != NO_LOSS).sum(dim=1)


def token_loss(prediction: EvalPrediction) -> dict[str, float]:
    """Cross-entropy per supervised token over the whole evaluation set."""
    return {"loss": float(prediction.predictions.sum(dtype="float64") / prediction.label_ids.sum())}

"""Direct preference optimisation of the policy adapter (arXiv 2305.18290; loss in `functional.preference_losses`).

Policy and reference are adapters of one base, or the reference is the base alone: there is no second copy, and images are
encoded once for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers import EvalPrediction

from data_utils.batches import NO_LOSS, ROWS, ImageBatch
from data_utils.feature_files import FeatureFiles
from llava_rlhf.assembly.image_features import encode_images
from llava_rlhf.functional.preference_losses import dpo_loss
from llava_rlhf.supervised.labelled_log_probs import CHUNK_SIZE, Labelled, labelled_log_probs
from llava_rlhf.supervised.objective_arguments import ObjectiveArguments
from llava_rlhf.supervised.pair_trainer import PairTrainer
from models.roles import Policy

PAIRS = "pairs"


class AnswerComparison(nn.Module):
    """What policy and reference say of a `data_utils.answer_pairs.AnswerPairBatch`; the module that DDP and DeepSpeed wrap.

    Args:
        policy: the trained role.
        reference: on the same base, frozen.
        banned_ids: int64[K] tokens that no answer holds and that can't be sampled: they take no probability.
        chunk_size: answer tokens per vocabulary projection.
        files: the feature cache of the base's tower, if there is one.
    """

    def __init__(
        self,
        policy: Policy,
        reference: Policy,
        banned_ids: Tensor,
        chunk_size: int = CHUNK_SIZE,
        files: FeatureFiles | None = None,
    ):
        super().__init__()
        self.policy = policy
        self.reference = reference
        self.banned_ids = banned_ids.to(policy.bank.vlm.device)
        self.chunk_size = chunk_size
        self.files = files

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, **images: Tensor) -> Tensor:
        """float32[B, 2, 3] of the preferred answer and the other, sums over their tokens in nats.

        log p under the policy, log p − log p_ref, and half the square of the latter of each token (no gradient). `labels`
        int64[B, 2, L]; rows are padded behind, where no label stands, so that `attention_mask` is not needed.
        """
        features = encode_images(self.policy.bank.vlm, ImageBatch(**images), self.files)
        rows = Labelled(input_ids, rearrange(labels, "b two l -> (b two) l"), features)
        # The reference first: its activations are gone before those of the policy are kept.
        with torch.no_grad():
            reference = labelled_log_probs(self.reference, rows, self.banned_ids, self.chunk_size, False)
        policy = labelled_log_probs(self.policy, rows, self.banned_ids, self.chunk_size, self.training)
        ratios = policy - reference
        table = torch.stack([policy, ratios, ratios.detach().square() / 2], dim=-1).sum(dim=1)
        return rearrange(table, "(b two) c -> b two c", two=2)


class DPOTrainer(PairTrainer):
    """`Trainer` with the loss of pairs, a mean over those of the whole step.

    Args:
        objective: beta and label smoothing.
        args, kwargs: as for `RoleTrainer`.
    """

    def __init__(self, *args: Any, objective: ObjectiveArguments, **kwargs: Any):
        metrics = partial(comparison_metrics, objective=objective)
        super().__init__(*args, compute_metrics=metrics, **kwargs)
        self.objective = objective

    @staticmethod
    def real_pairs(batch: Mapping[str, Tensor]) -> Tensor:
        """As `PairTrainer`."""
        return answer_tokens(batch["labels"])[:, 0] > 0

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The micro-batch's share of the step's mean over pairs, times the processes (DDP averages over them)."""
        table = model(**{name: tensor for name, tensor in inputs.items() if name != ROWS})
        tokens = answer_tokens(inputs["labels"])
        sums = comparison_sums(table, tokens, self.objective)
        loss = sums.pop("loss") / num_items_in_batch * self.accelerator.num_processes
        self.guard.check_loss(loss, inputs, table, self.state.global_step)
        everywhere = self.accelerator.reduce(torch.stack([*sums.values()]).double(), reduction="sum").tolist()
        for name, value in zip(sums, everywhere, strict=True):
            self.sums[name] = self.sums.get(name, 0.0) + value
        return (loss, None) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; with the loss of training also the means over the pairs since the last such line."""
        if "loss" in logs and self.sums:
            logs = {**logs, **means(self.sums)}
            self.sums.clear()
        super().log(logs, start_time)

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[None, Tensor, Tensor]:
        """What the module says of each pair, and the tokens int64[B, 2] of its answers; no loss, which would be a mean of unequal batches."""
        inputs = {name: tensor for name, tensor in self._prepare_inputs(inputs).items() if name != ROWS}
        with torch.no_grad():
            return None, model(**inputs), answer_tokens(inputs["labels"])


def answer_tokens(labels: Tensor) -> Tensor:
    """int64[B, 2]: tokens that are predicted of each answer of `labels` int64[B, 2, L]; 0 where a row only fills a step."""
    return (labels[..., 1:] != NO_LOSS).sum(dim=-1)


def comparison_sums(table: Tensor, tokens: Tensor, objective: ObjectiveArguments) -> dict[str, Tensor]:
    """Sums over the pairs of a batch, scalars; `loss` has a gradient.

    Args:
        table: float[B, 2, 3] of `AnswerComparison`.
        tokens: int64[B, 2] of `answer_tokens`.
        objective: beta and label smoothing.
    """
    real = tokens[:, 0] > 0
    found = dpo_loss(table[..., 1], real, objective.dpo_beta, objective.dpo_label_smoothing)
    known = table.detach()[real]
    return {
        "loss": found.sum,
        PAIRS: found.count,
        **found.stats,
        "chosen_log_prob": known[:, 0, 0].sum(),
        "rejected_log_prob": known[:, 1, 0].sum(),
        "approxkl": known[..., 2].sum(),
        "answer_tokens": tokens.sum().to(table.dtype),
    }


def means(sums: dict[str, float]) -> dict[str, float]:
    """Metrics from sums over pairs (`comparison_sums`); `approxkl` is a mean over tokens, all others over pairs."""
    tokens, pairs = sums["answer_tokens"], sums[PAIRS]
    of_pairs = {name: value / pairs for name, value in sums.items() if name not in ("answer_tokens", PAIRS)}
    return {**of_pairs, "approxkl": sums["approxkl"] / tokens}


def comparison_metrics(prediction: EvalPrediction, objective: ObjectiveArguments) -> dict[str, float]:
    """Loss and metrics over the whole evaluation set."""
    table, tokens = torch.as_tensor(prediction.predictions), torch.as_tensor(prediction.label_ids)
    sums = comparison_sums(table.double(), tokens, objective)
    return means({name: float(value) for name, value in sums.items()})

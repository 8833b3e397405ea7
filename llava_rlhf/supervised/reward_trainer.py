"""Training of the reward model on pairs of responses (arXiv 2309.14525, section 2; loss in `functional.losses`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers import EvalPrediction

from data_utils.batches import NO_LOSS, ROWS, ImageBatch
from data_utils.feature_files import FeatureFiles
from llava_rlhf.assembly.image_features import encode_images
from llava_rlhf.functional.losses import pairwise_accuracy, pairwise_reward_loss
from llava_rlhf.supervised.pair_trainer import PairTrainer
from models.roles import RewardModel


class PairScorer(nn.Module):
    """Scores a `data_utils.batches.PairBatch`; the module that DDP and DeepSpeed wrap.

    Args:
        reward_model: the trained role.
        files: the feature cache of its tower, if there is one.
    """

    def __init__(self, reward_model: RewardModel, files: FeatureFiles | None = None):
        super().__init__()
        self.reward_model = reward_model
        self.files = files

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        **images: Tensor,
    ) -> Tensor:
        """float32[B, 2]: the scores of both responses of each pair, from rows 2i and 2i + 1; `images` as in `ImageBatch`."""
        batch = ImageBatch(**images)
        features = encode_images(self.reward_model.bank.vlm, batch, self.files)
        mask = attention_mask.bool()
        # A `PairBatch` is padded behind; batches made elsewhere may not be.
        right_padded = bool(mask[:, 0].all())
        scores = self.reward_model(input_ids, mask, features, self.training, right_padded)
        return rearrange(scores, "(pairs two) -> pairs two", two=2)


class RewardTrainer(PairTrainer):
    """`Trainer` with the pairwise loss; evaluation gives accuracy, label_positive_rate and average_score."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, compute_metrics=pair_metrics, **kwargs)

    @staticmethod
    def real_pairs(batch: Mapping[str, Tensor]) -> Tensor:
        """As `PairTrainer`."""
        return batch["choice"] != NO_LOSS

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Pairwise loss of one batch, its share of the step's mean over `num_items_in_batch` pairs, if they are given.

        Times the processes, over which DDP averages. With `return_outputs` also the scores float32[B, 2].
        """
        arguments = dict(inputs)
        choice, real = arguments.pop("choice"), self.real_pairs(inputs)
        arguments.pop(ROWS, None)
        rewards = model(**arguments)
        # The centring term takes the mean over the pairs of all processes, so that it does not depend on their number.
        sums = torch.stack([(rewards.detach().sum(dim=1) * real).sum(), real.sum()])
        total, pairs = self.accelerator.reduce(sums, reduction="sum")
        if bool(real.any()):
            loss = pairwise_reward_loss(rewards[real], choice[real], global_center=total / pairs)
        else:  # a process whose whole micro-batch only fills the step: gradients of 0
            loss = rewards.sum() * 0.0
        if num_items_in_batch is not None:
            loss = loss * real.sum() / num_items_in_batch * self.accelerator.num_processes
            self.guard.check_loss(loss, inputs, rewards, self.state.global_step)
        return (loss, rewards) if return_outputs else loss

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Loss, scores float32[B, 2] and choices int64[B] of an evaluation batch."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            loss, rewards = self.compute_loss(model, inputs, return_outputs=True)
        return (loss, None, None) if prediction_loss_only else (loss, rewards, inputs["choice"])


def pair_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy (a tie counts half), share of pairs whose second response is preferred, mean score."""
    rewards, choice = torch.as_tensor(prediction.predictions), torch.as_tensor(prediction.label_ids)
    return {
        "accuracy": float(pairwise_accuracy(rewards, choice)),
        "label_positive_rate": float(choice.double().mean()),
        "average_score": float(rewards.double().mean()),
    }

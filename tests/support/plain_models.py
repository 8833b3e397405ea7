"""The roles with nothing of ours inside: Hugging Face's models and PEFT's own loader, one row at a time, no padding."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoTokenizer

from data_utils.items import PromptItem
from llava_rlhf.ppo.estimator_arguments import EstimatorArguments
from models.base_files import read_family
from tests.support.tiny_families import TINY_FAMILIES

Grids = tuple[tuple[int, ...], ...]
Images = Tensor | tuple[Tensor, Grids]


class PlainRole:
    """A base with one adapter folder of ours, and optionally a head of ours."""

    def __init__(self, base: Path, adapter: Path, head: Path | None = None, trainable: bool = False):
        model = AutoModelForImageTextToText.from_pretrained(base)
        self.config = model.config
        self.family = read_family(base)
        text, tokens = model.config.get_text_config(), len(AutoTokenizer.from_pretrained(base))
        self.image = model.config.image_token_id
        # What stands for no text: marks of pictures, and embeddings without a token.
        self.banned = [*self.family.banned_ids, *range(tokens, text.vocab_size)]
        self.model = PeftModel.from_pretrained(model, adapter, is_trainable=trainable).eval()
        state = (
            load_file(head) if head else {"weight": torch.zeros(1, text.hidden_size), "bias": torch.zeros(1)}
        )
        self.first = (
            (state.pop("hidden.weight"), state.pop("hidden.bias")) if "hidden.weight" in state else None
        )
        state = {name.removeprefix("output."): tensor for name, tensor in state.items()}
        self.weight, self.bias = (state[name].requires_grad_(trainable) for name in ("weight", "bias"))

    def expand(self, ids: list[int], grids: Grids | None = None) -> list[int]:
        """Ids with every image at its full width."""
        vision, waiting, expanded = self.config.vision_config, iter(grids or ()), []
        for index in ids:
            if index != self.image:
                expanded.append(index)
            elif grids is None:
                expanded += [index] * (vision.image_size // vision.patch_size) ** 2
            else:
                expanded += self.family.placeholder(next(waiting))
        return expanded

    def run(self, ids: list[int], images: Images) -> tuple[Tensor, Tensor]:
        """Final hidden states [L, D] and logits [L, V] of one row; images [n, 3, H, W], n may be 0, or with their grids."""
        pixels, grids = images if isinstance(images, tuple) else (images, None)
        row = torch.tensor([self.expand(ids, grids)])
        (native,) = (tiny.native for tiny in TINY_FAMILIES if tiny.model_type == self.family.model_type)
        seen = native(row, pixels if len(pixels) else None, grids or ())
        output = self.model(input_ids=row, **seen, output_hidden_states=True)
        return output.hidden_states[-1][0], output.logits[0]

    def read(self, hidden: Tensor) -> Tensor:
        """The head's number for each hidden state [..., D]."""
        if self.first is not None:
            sums = hidden @ self.first[0].T + self.first[1]
            hidden = sums / (1 + (-sums).exp())
        return hidden @ self.weight[0] + self.bias[0]

    def score(self, ids: list[int], images: Images) -> Tensor:
        """The head's number at the last token."""
        return self.read(self.run(ids, images)[0][-1])

    def response_log_probs(
        self, query: list[int], response: list[int], images: Images, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy [T] of each response token, what stands for no text excluded from the choice."""
        logits = self.run([*query, *response], images)[1][-len(response) - 1 : -1] / temperature
        logits = logits.index_fill(1, torch.tensor(self.banned), -torch.inf)
        distribution = torch.distributions.Categorical(logits=logits)
        return distribution.log_prob(torch.tensor(response)), distribution.entropy()

    def response_values(self, query: list[int], response: list[int], images: Images) -> Tensor:
        """The head's number [T] at the position before each response token."""
        return self.read(self.run([*query, *response], images)[0][-len(response) - 1 : -1])

    def adapter_parameters(self) -> list[Tensor]:
        """The weights of the adapter, in the order of the model."""
        return [value for name, value in self.model.named_parameters() if "lora_" in name]

    def adapter_state(self) -> dict[str, Tensor]:
        """The adapter's tensors under PEFT's names."""
        return get_peft_model_state_dict(self.model, save_embedding_layers=False)


def seen(item: PromptItem) -> tuple[Images, Images]:
    """The images of a prompt as policy and reward model see them."""
    images = item.images if item.grids is None else (item.images, item.grids)
    if item.reward_images is None:
        return images, images
    return images, item.reward_images if item.reward_grids is None else (
        item.reward_images,
        item.reward_grids,
    )


def value_ids(item: PromptItem, estimator: EstimatorArguments) -> list[int]:
    """What the critic reads before a response."""
    return [*item.query_ids, *(item.reward_prompt_ids if estimator.value_sees_facts else [])]


def plain_reward(base: Path, folder: str | Path) -> PlainRole:
    """The reward model of a folder."""
    return PlainRole(base, Path(folder) / "lora_reward", Path(folder) / "reward_head.safetensors")

"""The roles with nothing of ours inside: Hugging Face's models and PEFT's own loader, one row at a time, no padding."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForImageTextToText

Grids = tuple[tuple[int, ...], ...]
Images = Tensor | tuple[Tensor, Grids]


class PlainRole:
    """A base with one adapter folder of ours, and optionally a scalar head of ours."""

    def __init__(self, base: Path, adapter: Path, head: Path | None = None, trainable: bool = False):
        model = AutoModelForImageTextToText.from_pretrained(base)
        self.config = model.config
        self.image, self.banned = model.config.image_token_id, [model.config.image_token_id]
        if hasattr(model.config, "vision_start_token_id"):
            config = model.config
            self.banned += [config.video_token_id, config.vision_start_token_id, config.vision_end_token_id]
        self.model = PeftModel.from_pretrained(model, adapter, is_trainable=trainable).eval()
        hidden = model.config.text_config.hidden_size
        state = load_file(head) if head else {"weight": torch.zeros(1, hidden), "bias": torch.zeros(1)}
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
                patches = next(waiting)[0] // vision.spatial_merge_size**2
                marks = self.config.vision_start_token_id, self.config.vision_end_token_id
                expanded += [marks[0], *[index] * patches, marks[1]]
        return expanded

    def run(self, ids: list[int], images: Images) -> tuple[Tensor, Tensor]:
        """Final hidden states [L, D] and logits [L, V] of one row; images [n, 3, H, W], n may be 0, or with their grids."""
        pixels, grids = images if isinstance(images, tuple) else (images, None)
        row = torch.tensor([self.expand(ids, grids)])
        seen = {"pixel_values": pixels} if len(pixels) else {}
        if grids is not None:
            seen["mm_token_type_ids"] = (row == self.image).int()
        if grids:
            seen["image_grid_thw"] = torch.tensor([(1, h, w) for _, h, w in grids])
        output = self.model(input_ids=row, **seen, output_hidden_states=True)
        return output.hidden_states[-1][0], output.logits[0]

    def read(self, hidden: Tensor) -> Tensor:
        """The head's number for each hidden state [..., D]."""
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

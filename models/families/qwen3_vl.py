"""Qwen3-VL: as Qwen2.5-VL, and features of deeper vision layers that are added to the first layers of the language model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from models.families.base import Grid
from models.families.qwen2_5_vl import Qwen25VL

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel

_BLOCK = ("attn.qkv", "attn.proj", "norm1", "norm2", "mlp.linear_fc1", "mlp.linear_fc2")
_MERGER = ("norm", "linear_fc1", "linear_fc2")


class Qwen3VL(Qwen25VL):
    """`Qwen3VLForConditionalGeneration`. A feature is as wide as all its layers together: they are stored side by side."""

    model_type = "qwen3_vl"
    title = "Qwen3-VL"
    architecture = "Qwen3VLForConditionalGeneration"
    towers: ClassVar = {"vision tower": "model.visual"}
    linear_elsewhere = tuple(
        f"model.visual.{name}"
        for name in (
            *(f"blocks.0.{name}" for name in _BLOCK if "norm" not in name),
            *("merger.linear_fc1", "merger.linear_fc2"),
        )
    )
    known_by = ("visual.merger.linear_fc1.weight", "visual.patch_embed.proj.weight")

    def weight_names(self) -> Iterator[str]:
        """As in the base class."""
        vision = self.config.vision_config
        yield from ("visual.patch_embed.proj.weight", "visual.pos_embed.weight")
        mergers = [f"deepstack_merger_list.{place}" for place in range(len(vision.deepstack_visual_indexes))]
        for part in ("merger", *mergers):
            yield from (f"visual.{part}.{name}.weight" for name in _MERGER)
        for layer in range(vision.depth):
            yield from (f"visual.blocks.{layer}.{name}.weight" for name in _BLOCK)

    @property
    def feature_width(self) -> int:
        """As in the base class: that of the input, and of each deeper layer."""
        return super().feature_width * (1 + len(self.config.vision_config.deepstack_visual_indexes))

    @staticmethod
    def shorten(config: PreTrainedConfig, layers: int, vision_layers: int) -> None:
        """As in the base class: as many deeper features as before."""
        vision = config.vision_config
        config.get_text_config().num_hidden_layers, vision.depth = layers, vision_layers
        vision.deepstack_visual_indexes = list(range(len(vision.deepstack_visual_indexes)))

    def encode(self, model: PreTrainedModel, pixels: Tensor, grids: Sequence[Grid]) -> Sequence[Tensor]:
        """As in the base class: float[K, D · (1 + deeper layers)]."""
        import torch

        found = model.get_image_features(pixel_values=pixels, image_grid_thw=self.thw(grids, pixels.device))
        return [
            torch.cat(parts, dim=-1)
            for parts in zip(found.pooler_output, *found.deepstack_features, strict=True)
        ]

    def input_features(self, table: Tensor) -> Tensor:
        """As in the base class."""
        return table[:, : self.config.get_text_config().hidden_size]

    def language_kwargs(self, image_places: Tensor, table: Tensor | None) -> dict[str, Any]:
        """As in the base class."""
        if table is None:
            return {}
        deeper = table.split(self.config.get_text_config().hidden_size, dim=-1)[1:]
        return {"visual_pos_masks": image_places, "deepstack_visual_embeds": list(deeper)}

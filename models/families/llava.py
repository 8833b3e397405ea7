"""LLaVA-1.5: a CLIP tower, a projector of two layers, and a picture that always takes the same number of positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from models.families.base import Family, Grid
from models.families.llava_files import (
    check_image_processor,
    check_parts,
    check_sizes,
    present_name,
    published_name,
    refuse_original,
    tower_weights,
)

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
    from transformers import CLIPImageProcessorPil, PreTrainedModel


class Llava(Family):
    """`LlavaForConditionalGeneration`."""

    model_type = "llava"
    title = "LLaVA"
    architecture = "LlavaForConditionalGeneration"
    towers: ClassVar = {"vision tower": "model.vision_tower", "projector": "model.multi_modal_projector"}
    linear_elsewhere = (
        *(
            f"model.vision_tower.encoder.layers.0.{name}"
            for name in (
                *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")),
                *("mlp.fc1", "mlp.fc2"),
            )
        ),
        *("model.multi_modal_projector.linear_1", "model.multi_modal_projector.linear_2"),
    )
    vision_settings = (
        "vision_feature_layer",
        "vision_feature_select_strategy",
        "projector_hidden_act",
        "multimodal_projector_bias",
    )
    known_by = ("multi_modal_projector.linear_1.weight",)
    known_by_if_there = tuple(
        f"vision_tower.embeddings.{name}_embedding.weight" for name in ("patch", "position")
    )
    squares_pictures = True
    vision_counts = ("image_size", "patch_size", "hidden_size", "num_hidden_layers")
    no_tower = "it names no vision tower (neither vision_config nor mm_vision_tower)"
    check_age = staticmethod(refuse_original)
    check_fields = staticmethod(check_parts)
    present_name = staticmethod(present_name)
    published_name = staticmethod(published_name)

    def check_folder(self, folder: Path) -> None:
        """As in the base class."""
        check_sizes(folder / "config.json", self.config)
        check_image_processor(folder, self.config.vision_config.image_size)

    def weight_names(self) -> Iterator[str]:
        """As in the base class, down to the tower's layer that features are taken from."""
        return tower_weights(self.config)

    @property
    def fixed_positions(self) -> int:
        """As in the base class."""
        return len(self._placeholder)

    @cached_property
    def _placeholder(self) -> tuple[int, ...]:
        vision = self.config.vision_config
        class_token = self.config.vision_feature_select_strategy == "full"
        return (self.image_token_id,) * ((vision.image_size // vision.patch_size) ** 2 + class_token)

    def placeholder(self, grid: Grid) -> Sequence[int]:
        """As in the base class."""
        return self._placeholder

    @staticmethod
    def load_image_processor(path: str | Path) -> CLIPImageProcessorPil:
        """The Pillow one: it equals the original's pixels and needs no torchvision.

        Of a folder written for plain transformers, which has to pad there, the one that it was made from: we pad ourselves.
        """
        from transformers import CLIPImageProcessorPil

        processor = CLIPImageProcessorPil.from_pretrained(path)
        pads = getattr(processor, "do_pad", None)
        if pads is None:
            return processor
        return CLIPImageProcessorPil.from_pretrained(
            path, do_pad=None, do_convert_rgb=pads or processor.do_convert_rgb
        )

    def served_picture(self, processor: CLIPImageProcessorPil, picture: Image, grid: Grid) -> Image:
        """As in the base class: resized and cropped."""
        from PIL.Image import fromarray

        made = processor(images=[picture], do_rescale=False, do_normalize=False, return_tensors="np")
        return fromarray(made["pixel_values"][0].transpose(1, 2, 0))

    def encode(self, model: PreTrainedModel, pixels: Tensor, grids: Sequence[Grid]) -> Sequence[Tensor]:
        """As in the base class."""
        return model.get_image_features(pixel_values=pixels).pooler_output

    def blank(self) -> tuple[Tensor, Sequence[Grid]]:
        """As in the base class."""
        import torch

        return torch.zeros(1, 3, *[self.config.vision_config.image_size] * 2), ((),)

"""Gemma 3: a SigLIP tower whose patches are pooled, and masks of two kinds in which the positions of a picture see each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from models.families.base import Family, Grid
from models.families.llava_files import present_name
from models.image_settings import image_processor_name, read_image_settings

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel
    from transformers.cache_utils import Cache
    from transformers.image_processing_utils import BaseImageProcessor

_PARTS = {"vision_config": "siglip_vision_model", "text_config": "gemma3_text"}
_PROCESSOR = "Gemma3ImageProcessor"
_LINEAR = (
    *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")),
    *("mlp.fc1", "mlp.fc2"),
)


class Gemma3(Family):
    """`Gemma3ForConditionalGeneration`. A grid is (1,): all pictures are alike, and lengths count their positions."""

    model_type = "gemma3"
    title = "Gemma 3"
    architecture = "Gemma3ForConditionalGeneration"
    towers: ClassVar = {"vision tower": "model.vision_tower", "projector": "model.multi_modal_projector"}
    layer_kinds = 2
    linear_elsewhere = tuple(f"model.vision_tower.encoder.layers.0.{name}" for name in _LINEAR)
    vision_settings = ("mm_tokens_per_image",)
    vision_counts = ("image_size", "patch_size", "hidden_size", "num_hidden_layers")
    no_tower = "it names no vision tower (vision_config)"
    known_by = ("multi_modal_projector.mm_input_projection_weight",)
    known_by_if_there = tuple(
        f"vision_tower.embeddings.{name}_embedding.weight" for name in ("patch", "position")
    )
    attention_kernels = ("sdpa", "eager")
    beside_pictures = "\n\n"
    present_name = staticmethod(present_name)

    @staticmethod
    def check_fields(file: Path, fields: dict[str, Any]) -> None:
        """As in the base class."""
        for part, known in _PARTS.items():
            found = fields.get(part, {}).get("model_type", known)
            if found != known:
                raise ValueError(f"{file}: {part} is a {found!r}, which is not supported (only {known})")
        both_ways = fields.get("text_config", {}).get("use_bidirectional_attention")
        if both_ways:
            raise ValueError(
                f"{file}: use_bidirectional_attention {both_ways!r}: such a model writes no answers; name one without"
            )

    def check_folder(self, folder: Path) -> None:
        """As in the base class: pictures of the tower's size, each whole and once."""
        file, settings = read_image_settings(folder)
        name, side = image_processor_name(settings, _PROCESSOR), self.config.vision_config.image_size
        if name != _PROCESSOR:
            raise ValueError(
                f"{file}: the image processor {name!r} is not supported; {self.title} is trained with {_PROCESSOR}"
            )
        if settings.get("do_pan_and_scan"):
            raise ValueError(
                f"{file}: do_pan_and_scan {settings['do_pan_and_scan']!r}: crops beside a picture are not supported; set it to false"
            )
        made = settings.get("size", {"height": 224, "width": 224})
        if made != {"height": side, "width": side}:
            raise ValueError(
                f"{file} makes images of {made}, the vision tower takes {side} x {side} (image_size in "
                f"{folder / 'config.json'}); fetch both from the same place"
            )
        patches, pooled = side // self.config.vision_config.patch_size, self.config.mm_tokens_per_image
        if not 0 < pooled <= patches**2 or patches % pooled**0.5:
            raise ValueError(
                f"{folder / 'config.json'}: {patches} x {patches} patches can't be pooled to mm_tokens_per_image {pooled}"
            )

    def weight_names(self) -> Iterator[str]:
        """As in the base class."""
        yield from (
            f"multi_modal_projector.{name}"
            for name in ("mm_input_projection_weight", "mm_soft_emb_norm.weight")
        )
        yield from self.known_by_if_there
        for layer in range(self.config.vision_config.num_hidden_layers):
            for name in (*_LINEAR, "layer_norm1", "layer_norm2"):
                yield f"vision_tower.encoder.layers.{layer}.{name}.weight"

    @property
    def fixed_positions(self) -> None:
        """As in the base class: a picture's positions are counted with the text's."""
        return None

    def placeholder(self, grid: Grid) -> Sequence[int]:
        """As in the base class: between two marks."""
        config = self.config
        return [
            config.boi_token_id,
            *[self.image_token_id] * config.mm_tokens_per_image,
            config.eoi_token_id,
        ]

    def served_placeholder(self, grid: Grid) -> Sequence[int]:
        """As in the base class: the first of the marks."""
        return [self.config.boi_token_id]

    @staticmethod
    def load_image_processor(path: str | Path) -> BaseImageProcessor:
        """As in the base class."""
        from transformers import Gemma3ImageProcessorPil

        return Gemma3ImageProcessorPil.from_pretrained(path)

    def grids(self, tensors: Mapping[str, Tensor]) -> tuple[Grid, ...]:
        """As in the base class."""
        return ((1,),) * len(tensors["pixel_values"])

    @property
    def banned_ids(self) -> tuple[int, ...]:
        """As in the base class."""
        return (self.image_token_id, self.config.boi_token_id, self.config.eoi_token_id)

    def encode(self, model: PreTrainedModel, pixels: Tensor, grids: Sequence[Grid]) -> Sequence[Tensor]:
        """As in the base class."""
        return model.get_image_features(pixel_values=pixels).pooler_output

    def blank(self) -> tuple[Tensor, Sequence[Grid]]:
        """As in the base class."""
        import torch

        return torch.zeros(1, 3, *[self.config.vision_config.image_size] * 2), ((1,),)

    def attention_mask(
        self, mask: Tensor | None, image_places: Tensor | None, embeds: Tensor, cache: Cache | None
    ) -> Any:
        """As in the base class: one for each kind of layer; in both, all positions of a picture see each other."""
        if image_places is None:  # of text alone the model makes them itself
            return super().attention_mask(mask, image_places, embeds, cache)
        return self.model_class().create_masks_for_generate(
            config=self.config,
            inputs_embeds=embeds,
            attention_mask=mask,
            past_key_values=cache,
            position_ids=None,
            token_type_ids=image_places.long(),
        )

    def decode_mask(self, mask: Tensor) -> Any:
        """As in the base class: some layers see a window only."""
        import torch

        columns = torch.arange(mask.shape[-1], device=mask.device)
        near = columns >= len(columns) - self.config.get_text_config().sliding_window
        return {"full_attention": mask, "sliding_attention": mask & near}

    def layer_inputs(
        self, language_model: nn.Module, hidden: Tensor, positions: Tensor, mask: Tensor | None
    ) -> list[dict[str, Any]]:
        """As in the base class: layers are of two kinds. Whole rows have masks in any case, as each has a picture."""
        import torch

        rows, columns, _ = hidden.shape
        kinds, given = set(language_model.config.layer_types), []
        if mask is not None:  # positions are counted in each row, and so are their embeddings
            positions = positions.expand(rows, columns)
        for kind in sorted(kinds):
            seen = hidden.new_empty(rows, 1, columns, columns, dtype=torch.bool) if columns > 1 else None
            rotary = language_model.rotary_emb(hidden, positions, kind)
            given.append({"attention_mask": seen, "position_embeddings": rotary})
        return given

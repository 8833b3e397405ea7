"""What vision-language families differ in, and all that they differ in: one `Family` each.

A picture is known by its *grid*: a few integers that say how the family cuts it up, of which the first is the number of rows
that it takes in the tensor of pixels. `()`: one row, as in every other picture of the family.

Nothing here loads torch or transformers before a method needs it: programs ask for a base's family to refuse it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from PIL.Image import Image
    from tokenizers import Tokenizer
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.cache_utils import Cache
    from transformers.image_processing_utils import BaseImageProcessor

Grid = tuple[int, ...]


class Place(NamedTuple):
    """Where the K positions of a picture lie, for rotary embeddings of more than one dimension.

    Attributes:
        relative: int64[3, K], counted from the position at which the picture begins.
        step: how far the text behind it moves on.
    """

    relative: Tensor
    step: int


class Family(ABC):
    """One family, for one configuration.

    Attributes:
        model_type: what `config.json` calls it.
        title: what people call it.
        architecture: the class of transformers.
        towers: what makes features, what it is called → its module; never quantised, adapted or trained.
        language_part: what the model calls its language model.
        layer_kinds: of the language model, that differ in masks and rotary embeddings (`layer_inputs`).
        linear_elsewhere: names of linear layers outside the language model, one of each kind.
        vision_settings: fields of `config.json`, besides `vision_config`, that features depend on.
        vision_counts: fields of `vision_config` that must be positive integers.
        no_tower: why a `config.json` of this `model_type` without `vision_config` is no model.
        several_pictures: whether a row may have more than one.
        squares_pictures: whether pictures are made square by us before the image processor sees them, in a way that is chosen.
        pixel_limits: fields of the image processor's `size` that limit the pixels of a picture, least and most; None: it has none.
        begins_with_bos: whether every text begins with a token of its own.
        beside_pictures: what its processor writes on both sides of what a chat template writes for a picture.
        known_by, known_by_if_there: weights of the towers by which a base is known again.
        attention_kernels: those that can compute its attention.
        served_with_adapters: whether vLLM (docs/vllm.md says which) adds LoRA adapters to it.
    """

    model_type: ClassVar[str]
    title: ClassVar[str]
    architecture: ClassVar[str]
    towers: ClassVar[Mapping[str, str]]
    language_part: ClassVar[str] = "language_model"
    layer_kinds: ClassVar[int] = 1
    linear_elsewhere: ClassVar[tuple[str, ...]]
    vision_settings: ClassVar[tuple[str, ...]]
    vision_counts: ClassVar[tuple[str, ...]]
    no_tower: ClassVar[str]
    several_pictures: ClassVar[bool] = True
    squares_pictures: ClassVar[bool] = False
    pixel_limits: ClassVar[tuple[str, str] | None] = None
    begins_with_bos: ClassVar[bool] = True
    beside_pictures: ClassVar[str] = ""
    known_by: ClassVar[tuple[str, ...]]
    known_by_if_there: ClassVar[tuple[str, ...]]
    attention_kernels: ClassVar[tuple[str, ...]] = ("sdpa", "eager", "flash_attention_2")
    served_with_adapters: ClassVar[bool] = True

    def __init__(self, config: PreTrainedConfig):
        self.config = config
        self.image_token_id: int = config.image_token_id

    # Files of a base, of which none but `config.json` has been read.

    @staticmethod  # noqa: B027 - most have none
    def check_age(folder: Path, fields: dict[str, Any]) -> None:
        """Refuse a folder in a format of the family's own that must be converted first. Raises ValueError."""

    @staticmethod
    @abstractmethod
    def check_fields(file: Path, fields: dict[str, Any]) -> None:
        """Refuse parts that are not supported, by the fields of `config.json`. Raises ValueError."""

    @abstractmethod
    def check_folder(self, folder: Path) -> None:
        """Refuse sizes and an image processor that do not fit each other. Raises ValueError."""

    @abstractmethod
    def weight_names(self) -> Iterator[str]:
        """Present names of the weights that the towers must have."""

    @staticmethod
    @abstractmethod
    def present_name(stored: str) -> str:
        """The name that a weight has today, without `model.`; files of other ages say others."""

    @staticmethod
    def published_name(stored: str) -> str:
        """The name that servers read, of a weight that a model, or a file of any age, calls `stored`."""
        return stored

    # What the data side must know: `llava_rlhf.assembly` hands it over.

    @property
    @abstractmethod
    def fixed_positions(self) -> int | None:
        """Positions that every picture takes in the language model; None where its grid decides."""

    @property
    def feature_width(self) -> int:
        """W: numbers of a feature."""
        return self.config.get_text_config().hidden_size

    @staticmethod
    def vision_layers(config: PreTrainedConfig) -> int:
        """Layers of the vision tower."""
        return config.vision_config.num_hidden_layers

    @staticmethod
    def shorten(config: PreTrainedConfig, layers: int, vision_layers: int) -> None:
        """Leave so many layers of the language model and of the tower, where the memory of a pass is counted on few.

        Layers that take more than others stay.
        """
        config.get_text_config().num_hidden_layers = layers
        config.vision_config.num_hidden_layers = vision_layers

    @abstractmethod
    def placeholder(self, grid: Grid) -> Sequence[int]:
        """Ids that stand for a picture in a prompt, its features at those that are `image_token_id`."""

    def written(self, text: str) -> tuple[int, ...]:
        """Ids of a text in which control tokens stand, by the tokenizer that lies beside `config.json`."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(Path(self.config.name_or_path) / "tokenizer.json"))

    @staticmethod
    @abstractmethod
    def load_image_processor(path: str | Path) -> BaseImageProcessor:
        """What makes pixels of pictures; it must need no torchvision."""

    def grids(self, tensors: Mapping[str, Tensor]) -> tuple[Grid, ...]:
        """Of each picture, from the tensors that the image processor made; asked only where pictures are not all alike."""
        return ()

    def pixel_rows(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """float[ΣP, …]: the pixels of all pictures, one behind the other, from the tensors that the image processor made."""
        return tensors["pixel_values"]

    def cut(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, tuple[Grid, ...]]:
        """Pixels and grids of all pictures."""
        return self.pixel_rows(tensors), self.grids(tensors)

    def positions(self, processor: BaseImageProcessor, size: tuple[int, int]) -> int:
        """Positions that a picture of this width and height will take, marks included."""
        return len(self.placeholder(()))

    # What a server is given: it makes pixels and positions itself, of what needs no change there.

    def served_placeholder(self, grid: Grid) -> Sequence[int]:
        """Ids that stand for a picture in a prompt to a server: `placeholder`, with features that follow each other as one."""
        ids = self.placeholder(grid)
        before = [None, *ids]
        return [
            index
            for index, last in zip(ids, before, strict=False)
            if index != last or index != self.image_token_id
        ]

    def served_picture(self, processor: BaseImageProcessor, picture: Image, grid: Grid) -> Image:
        """A picture as a server is sent it: of the size that training makes of it, where that size is all that it needs."""
        return picture

    @property
    def banned_ids(self) -> tuple[int, ...]:
        """Tokens that stand for no text, so that they are never answered."""
        return (self.image_token_id,)

    # The model.

    @classmethod
    def model_class(cls) -> type[PreTrainedModel]:
        """The class of transformers that loads it."""
        import transformers

        return getattr(transformers, cls.architecture)

    @classmethod
    def language_model(cls, model: PreTrainedModel) -> nn.Module:
        """The part that reads embeddings and gives hidden states."""
        return getattr(model.model, cls.language_part)

    def tower(self, model: PreTrainedModel) -> nn.Module:
        """The part that reads pixels."""
        return model.get_submodule(next(iter(self.towers.values())))

    @classmethod
    def lora_pattern(cls, layers: Sequence[str]) -> str:
        """A regular expression for PEFT that matches these linear layers in the language model only.

        A plain list of names such as `q_proj` would also match the attention of the tower.
        """
        return rf".*{cls.language_part}.*\.({'|'.join(layers)})"

    @abstractmethod
    def encode(self, model: PreTrainedModel, pixels: Tensor, grids: Sequence[Grid]) -> Sequence[Tensor]:
        """Features float[K, W] of each picture; `pixels` holds their rows one behind the other."""

    @abstractmethod
    def blank(self) -> tuple[Tensor, Sequence[Grid]]:
        """Pixels and grid of a picture that nobody looks at, where a tower must run for other processes' sake."""

    def place(self, grid: Grid) -> Place | None:
        """Where the positions of a picture lie; None: one behind the other, like text."""
        return None

    def attention_mask(
        self, mask: Tensor | None, image_places: Tensor | None, embeds: Tensor, cache: Cache | None
    ) -> Any:
        """What the language model wants as mask of whole rows.

        Args:
            mask: bool[B, L], True at real tokens; None where causal attention needs none.
            image_places: bool[B, L], True where a feature stands; None where none does.
            embeds: float[B, L, D].
            cache: an empty one, or what stands before these columns.
        """
        return None if mask is None else mask.long()

    def decode_mask(self, mask: Tensor) -> Any:
        """What it wants in steps of one token, of bool[B, 1, 1, L], which is as attention itself takes it."""
        return mask

    def language_kwargs(self, image_places: Tensor, table: Tensor | None) -> dict[str, Any]:
        """What the language model wants besides embeddings, mask and positions.

        Args:
            image_places: bool[B, L], True where a feature stands.
            table: float[ΣK, W], their features.
        """
        return {}

    def layer_inputs(
        self, language_model: nn.Module, hidden: Tensor, positions: Tensor, mask: Tensor | None
    ) -> list[dict[str, Any]]:
        """Masks and rotary embeddings for each kind of layers, as the language model makes them, where layers run one by one.

        Args:
            language_model: whose layers run.
            hidden: float[B, L, D], one picture in each row.
            positions: int64[1, L] or [3, B, L].
            mask: bool[B, 1, L, L]; None where causal attention needs none.
        """
        return [{"attention_mask": mask, "position_embeddings": language_model.rotary_emb(hidden, positions)}]

    def input_features(self, table: Tensor) -> Tensor:
        """float[ΣK, D]: the part of the features float[ΣK, W] that stands in for embeddings."""
        return table

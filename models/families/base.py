"""What vision-language families differ in, and all that they differ in: one `Family` each.

A picture is known by its *grid*: a few integers that say how the family cuts it up, of which the first is the number of rows
that it takes in the tensor of pixels. `()`: one row, as in every other picture of the family.

Nothing here loads torch or transformers before a method needs it: programs ask for a base's family to refuse it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
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
        linear_elsewhere: names of linear layers outside the language model, one of each kind.
        vision_settings: fields of `config.json`, besides `vision_config`, that features depend on.
        vision_counts: fields of `vision_config` that must be positive integers.
        no_tower: why a `config.json` of this `model_type` without `vision_config` is no model.
        begins_with_bos: whether every text begins with a token of its own.
        programs: those that it has been through from end to end; None: all.
        known_by, known_by_if_there: weights of the towers by which a base is known again.
    """

    model_type: ClassVar[str]
    title: ClassVar[str]
    architecture: ClassVar[str]
    towers: ClassVar[Mapping[str, str]]
    linear_elsewhere: ClassVar[tuple[str, ...]]
    vision_settings: ClassVar[tuple[str, ...]]
    vision_counts: ClassVar[tuple[str, ...]]
    no_tower: ClassVar[str]
    programs: ClassVar[tuple[str, ...] | None] = None
    begins_with_bos: ClassVar[bool] = True
    known_by: ClassVar[tuple[str, ...]]
    known_by_if_there: ClassVar[tuple[str, ...]]

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

    # What the data side must know: `llava_rlhf.assembly` hands it over.

    @property
    @abstractmethod
    def fixed_positions(self) -> int | None:
        """Positions that every picture takes in the language model; None where its grid decides."""

    @property
    def feature_width(self) -> int:
        """W: numbers of a feature."""
        return self.config.get_text_config().hidden_size

    @abstractmethod
    def placeholder(self, grid: Grid) -> Sequence[int]:
        """Ids that stand for a picture in a prompt, its features at those that are `image_token_id`."""

    @staticmethod
    @abstractmethod
    def load_image_processor(path: str | Path) -> BaseImageProcessor:
        """What makes pixels of pictures; it must need no torchvision."""

    def grids(self, tensors: Mapping[str, Tensor]) -> tuple[Grid, ...]:
        """Of each picture, from the tensors that the image processor made; asked only where pictures are not all alike."""
        return ()

    def positions(self, processor: BaseImageProcessor, size: tuple[int, int]) -> int:
        """Positions that a picture of this width and height will take, marks included."""
        return len(self.placeholder(()))

    @property
    def banned_ids(self) -> tuple[int, ...]:
        """Tokens that stand for no text, so that they are never answered."""
        return (self.image_token_id,)

    @staticmethod
    def stop_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
        """Tokens that end an answer."""
        return (tokenizer.eos_token_id,)

    # The model.

    @classmethod
    def model_class(cls) -> type[PreTrainedModel]:
        """The class of transformers that loads it."""
        import transformers

        return getattr(transformers, cls.architecture)

    @staticmethod
    def language_model(model: PreTrainedModel) -> nn.Module:
        """The part that reads embeddings and gives hidden states."""
        return model.model.language_model

    def tower(self, model: PreTrainedModel) -> nn.Module:
        """The part that reads pixels."""
        return model.get_submodule(next(iter(self.towers.values())))

    @staticmethod
    def lora_pattern(layers: Sequence[str]) -> str:
        """A regular expression for PEFT that matches these linear layers in the language model only.

        A plain list of names such as `q_proj` would also match the attention of the tower.
        """
        return rf".*language_model.*\.({'|'.join(layers)})"

    @abstractmethod
    def encode(self, model: PreTrainedModel, pixels: Tensor, grids: Sequence[Grid]) -> Sequence[Tensor]:
        """Features float[K, W] of each picture; `pixels` holds their rows one behind the other."""

    @abstractmethod
    def blank(self) -> tuple[Tensor, Sequence[Grid]]:
        """Pixels and grid of a picture that nobody looks at, where a tower must run for other processes' sake."""

    def place(self, grid: Grid) -> Place | None:
        """Where the positions of a picture lie; None: one behind the other, like text."""
        return None

    def language_kwargs(self, image_places: Tensor, table: Tensor | None) -> dict[str, Any]:
        """What the language model wants besides embeddings, mask and positions.

        Args:
            image_places: bool[B, L], True where a feature stands.
            table: float[ΣK, W], their features.
        """
        return {}

    def input_features(self, table: Tensor) -> Tensor:
        """float[ΣK, D]: the part of the features float[ΣK, W] that stands in for embeddings."""
        return table

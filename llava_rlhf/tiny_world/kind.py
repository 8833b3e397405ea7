"""What the tiny worlds differ in: how a scene is drawn, and the base that sees it. One `TinyKind` each, see `kinds`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from data_utils.conversation import Template
from data_utils.shapes_files import AnyScene
from llava_rlhf.tiny_world.plan import Plan
from models.families.base import Grid

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


class TinyKind(ABC):
    """One tiny world as the builder of its base asks it.

    Attributes:
        pictures: how its scenes are drawn, in `data_utils.shapes_files.PICTURES`.
        template: of its conversations.
        plan: how long its base is trained.
        measured_noise: the levels of pixel noise at which a base is measured.
    """

    pictures: ClassVar[str]
    template: ClassVar[Template]
    plan: ClassVar[Plan]
    measured_noise: ClassVar[tuple[float, ...]]

    @abstractmethod
    def build_tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer of the base."""

    @abstractmethod
    def build_model(self, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
        """An untrained base, drawn from torch's global random state."""

    @abstractmethod
    def save_base(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
        """Write the base and everything that is read beside it to `folder`, whole or not at all."""

    @abstractmethod
    def sample_scene(self, rng: np.random.Generator) -> AnyScene:
        """A new scene."""

    @abstractmethod
    def grid(self, scene: AnyScene) -> Grid:
        """How the base's family cuts up the picture of a scene."""

    @abstractmethod
    def pixels(
        self, scenes: Sequence[AnyScene], noise: tuple[float, float], rng: np.random.Generator
    ) -> Tensor:
        """What the tower reads of these scenes; each picture gets its own noise from the range."""

    @abstractmethod
    def classes(self, scene: AnyScene) -> list[int]:
        """For each position of the picture the index into `NAMES` of what lies there, or 24 where there is nothing."""

    def native(self, ids: Tensor, grids: Sequence[Grid]) -> dict[str, Any]:
        """What `generate` of transformers wants besides ids, mask and pixels."""
        return {}

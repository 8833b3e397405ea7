"""A small world to put mistakes into: data files, images, builders, an untrained policy and reward model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPImageProcessorPil

from data_utils.answers import build_answers
from data_utils.building import build_dialogues, build_preferences, build_prompts
from data_utils.conversation import TEMPLATES
from data_utils.datasets import ExampleDataset
from data_utils.facts import FactBook, MissingCaptions, RewardPrompt
from data_utils.images import ImagePipeline
from data_utils.row_settings import RowSettings
from data_utils.tokens import SegmentEncoder
from llava_rlhf import initialize_policy_model, train_reward_model
from llava_rlhf.assembly.reward_models import new_reward_model
from llava_rlhf.assembly.roles import new_policy
from llava_rlhf.runs.arguments import AdapterArguments
from llava_rlhf.runs.reward_card import RewardModelCard
from models.base_fingerprint import base_fingerprint
from models.vlm import BaseSettings
from tests.support.tiny_data import (
    FACT_PROMPT,
    TinyData,
    dialogue_row,
    preference_row,
    prompt_row,
    write_tiny_data,
)
from tests.support.tiny_models import IMAGE, save_unloadable_copy, tiny_tokenizer
from tests.support.tiny_programs import prepare_program

SIZE = 28


def answer_row(index: int) -> dict[str, Any]:
    """An answer to be scored."""
    return {"question": "what is this?", "answer": "a cat.", "image": prompt_row(0)["image"], "id": index}


MAKE_ROW = {"reward": preference_row, "policy": dialogue_row, "ppo": prompt_row, "answers": answer_row}
BUILD: dict[str, Callable[..., ExampleDataset]] = {
    "reward": build_preferences,
    "policy": build_dialogues,
    "ppo": build_prompts,
    "answers": build_answers,
}


def good_rows(kind: str) -> list[dict[str, Any]]:
    """Three rows without any problem, with one image each."""
    return [MAKE_ROW[kind](index) for index in (0, 1, 4)]


@dataclass(frozen=True)
class World:
    """Builders of all kinds of data, with a tiny base's tokenizer and images of 28 pixels."""

    images: Path
    encoder: SegmentEncoder
    pipeline: ImagePipeline

    def build(self, kind: str, path: Path, **changes: Any) -> ExampleDataset:
        """The data set of a file."""
        settings = RowSettings(
            image_folder=self.images,
            encoder=self.encoder,
            template=TEMPLATES["tiny"],
            pipeline=self.pipeline,
            query_len=60,
            response_len=60,
            model_max_length=200,
            skip_invalid=False,
        )
        scored: dict[str, Any] = {}
        if kind != "policy":
            scored |= {
                "facts": FactBook(None, MissingCaptions.NO_FACT),
                "prompt": RewardPrompt(FACT_PROMPT),
                "seed": 0,
            }
        if kind == "ppo":
            scored["reward_pipeline"] = None
        scored |= {name: changes.pop(name) for name in scored.keys() & changes.keys()}
        return BUILD[kind](path, replace(settings, **changes), **scored)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> TinyData:
    return write_tiny_data(tmp_path_factory.mktemp("errors") / "tiny data")


@pytest.fixture(scope="session")
def tools() -> tuple[SegmentEncoder, ImagePipeline]:
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    return SegmentEncoder(tiny_tokenizer(), IMAGE), ImagePipeline(processor, "pad")


@pytest.fixture
def world(data, tools, tmp_path) -> World:
    """With an image folder of its own."""
    shutil.copytree(data.images, tmp_path / "images")
    return World(tmp_path / "images", *tools)


@pytest.fixture(scope="session")
def unloadable_base(tiny_base, tmp_path_factory) -> Path:
    """A base that a program would fail to load: what is refused on it, is refused before."""
    return save_unloadable_copy(tiny_base, tmp_path_factory.mktemp("errors") / "base")


@pytest.fixture(scope="session")
def policy_folder(tiny_base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("errors") / "policy"
    policy = new_policy(tiny_base, BaseSettings(), AdapterArguments(lora_r=4), False)
    initialize_policy_model.save_policy(policy, str(tiny_base), folder)
    return folder


@pytest.fixture(scope="session")
def reward_folder(tiny_base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("errors") / "reward"
    folder.mkdir()
    card = RewardModelCard(str(tiny_base), FACT_PROMPT, True, "tiny", "pad", base_fingerprint(tiny_base))
    model = new_reward_model(tiny_base, BaseSettings(), AdapterArguments(lora_r=4), False)
    train_reward_model.save_reward_model(model, card, folder)
    return folder


@pytest.fixture
def prepare(unloadable_base, data, policy_folder, reward_folder, tmp_path):
    """prepare(program, **changes): check a command line, with copies of base, policy and reward model to be damaged."""

    def _prepare(program: str, **changes: Any):
        folders = (policy_folder, reward_folder, tmp_path / "run")
        return prepare_program(program, data, unloadable_base, *folders, **changes)

    return _prepare

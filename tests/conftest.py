"""What all tests share: one thread, the GPU rule, tiny bases on disk, the recordings of the original where present."""

from __future__ import annotations

import gc
import os
from pathlib import Path

# Before the package that reads it is loaded: a misspelt path asks no server.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from data_utils.llama_tokenizer import load_sentencepiece_tokenizer
from data_utils.tokens import SegmentEncoder
from tests.support.file_costs import costs_of
from tests.support.recorded_scripts import ScriptRunner, copy_scripts
from tests.support.tiny_models import TinyShape, save_tiny_base

RECORDINGS = Path(__file__).parent / "references" / "original"
GOLDEN = Path(__file__).parents[1].parent / "shared" / "golden"


def pytest_configure(config):
    torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other


@pytest.hookimpl(trylast=True)  # behind -m, which leaves some out
def pytest_collection_modifyitems(items):
    run_costly_files_first(items)
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_collection_finish():
    """Leave what is loaded by now out of garbage collections: accelerate asks for one behind each training."""
    gc.collect()
    gc.freeze()


def run_costly_files_first(items: list[pytest.Item]) -> None:
    """By what they took when it was measured last: none is left alone on one core at the end."""
    whole = any("slow" in item.keywords for item in items)
    costs = costs_of((item.path for item in items), whole)
    items.sort(key=lambda item: -costs[item.path])


@pytest.fixture(scope="session")
def checkout(tmp_path_factory) -> Path:
    """A copy of scripts and prompts, in a folder with a space in its name. Read-only: tests share it."""
    return copy_scripts(tmp_path_factory.mktemp("scripts") / "my checkout")


@pytest.fixture
def runner(checkout, tmp_path) -> ScriptRunner:
    """Runs its scripts with a launcher that records."""
    return ScriptRunner(checkout, tmp_path)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    """A saved tiny LLaVA: hidden 64, 2 layers, 28 pixels (4 positions an image). Read-only: tests share it."""
    return save_tiny_base(tmp_path_factory.mktemp("bases") / "tiny", TinyShape())


@pytest.fixture(scope="session")
def tiny_reward_base(tmp_path_factory) -> Path:
    """Another one, as a 13B reward model stands beside a 7B policy: hidden 128, 42 pixels (9 positions an image)."""
    return save_tiny_base(
        tmp_path_factory.mktemp("bases") / "reward", TinyShape(hidden=128, image_size=42, seed=1)
    )


@pytest.fixture(scope="session")
def recordings() -> Path:
    """What was recorded from the 2023 original, but for Llama's tokenizer, whose licence is its own."""
    return RECORDINGS


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of recordings with the tokenizer."""
    if not GOLDEN.is_dir():
        pytest.skip("the golden recordings (../shared/golden) are not on this machine")
    return GOLDEN


@pytest.fixture(scope="session")
def llama_model_file(golden) -> Path:
    return golden / "base" / "tiny-llava-original" / "tokenizer.model"


@pytest.fixture(scope="session")
def llama_tokenizer(llama_model_file) -> PreTrainedTokenizerFast:
    return load_sentencepiece_tokenizer(llama_model_file)


@pytest.fixture(scope="session")
def llama_encoder(llama_tokenizer) -> SegmentEncoder:
    """The image id of the recordings is -200."""
    return SegmentEncoder(llama_tokenizer, -200)

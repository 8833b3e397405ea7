"""Small worlds for the data tests: tokenizers made in-process, PIL images, and the golden recordings where present."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from tokenizers import pre_tokenizers
from transformers import CLIPImageProcessorPil, PreTrainedTokenizerFast

from data_utils.conversation import TEMPLATES
from data_utils.images import ImagePipeline
from data_utils.row_settings import RowSettings
from data_utils.tokens import SegmentEncoder
from tests.support.tiny_models import tokenizer_of_words

WORDS = (
    "USER: ASSISTANT: what is this ? a cat dog red blue yes no . the image shows and score now facts".split()
)


@pytest.fixture(scope="session")
def word_tokenizer() -> PreTrainedTokenizerFast:
    """One id a word: <pad> 0, <s> 1, </s> 2, <unk> 3, <image> 4, then WORDS in order."""
    special = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
    ids = {token: index for index, token in enumerate(special + WORDS)}
    return tokenizer_of_words(ids, pre_tokenizers.WhitespaceSplit())


@pytest.fixture(scope="session")
def word_encoder(word_tokenizer) -> SegmentEncoder:
    return SegmentEncoder(word_tokenizer, 4)


@pytest.fixture(scope="session")
def processor() -> CLIPImageProcessorPil:
    """CLIP's preprocessing at 8 pixels."""
    return CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})


@pytest.fixture
def pipeline(processor) -> ImagePipeline:
    return ImagePipeline(processor, "pad")


@pytest.fixture
def folder(tmp_path) -> Path:
    """a.png red, b.png green, c.png blue: 12 × 6 pixels."""
    for name, colour in {"a.png": (255, 0, 0), "b.png": (0, 255, 0), "c.png": (0, 0, 255)}.items():
        Image.new("RGB", (12, 6), colour).save(tmp_path / name)
    return tmp_path


@pytest.fixture
def write(tmp_path):
    """write(name, value) puts `value` as JSON into a file and returns its path."""

    def _write(name: str, value) -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(value), encoding="utf-8")
        return path

    return _write


@pytest.fixture
def common(folder, word_encoder, pipeline) -> RowSettings:
    return RowSettings(
        image_folder=folder,
        encoder=word_encoder,
        template=TEMPLATES["tiny"],
        pipeline=pipeline,
        query_len=20,
        response_len=10,
        model_max_length=100,
        skip_invalid=False,
    )

"""The recorded models in the formats of today, converted once for all tests by the program that users run.

All recordings stand in tests/references/original, except Llama's tokenizer, whose licence is its own: without it the
models are converted with a stand-in, and tests that read text are skipped.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llava_rlhf import convert_checkpoint
from tests.conftest import GOLDEN, RECORDINGS
from tests.support.tiny_data import command_line

ROOT = Path(__file__).parents[2]
FACT_PROMPT = ROOT / "prompts" / "fact_rlhf_reward_prompt.txt"


@pytest.fixture(scope="session")
def original_base(tmp_path_factory) -> Path:
    """The recorded SFT model with a tokenizer: the real one where it is, else 32 000 words that nobody says."""
    base = tmp_path_factory.mktemp("original") / "base"
    shutil.copytree(RECORDINGS / "base", base)
    folder = base / "tiny-llava-original"
    if GOLDEN.is_dir():
        shutil.copy(GOLDEN / "base" / folder.name / "tokenizer.model", folder)
        return folder
    vocabulary = {
        word: index for index, word in enumerate(["<unk>", "<s>", "</s>", *map(str, range(3, 32000))])
    }
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def converted_base(original_base, tmp_path_factory) -> Path:
    """The recorded SFT model as a Hugging Face directory (float16, image token 32000). Read-only: tests share it."""
    return convert(original_base, tmp_path_factory.mktemp("parity") / "base")


@pytest.fixture(scope="session")
def converted_policy_init(converted_base, tmp_path_factory) -> Path:
    """The policy adapter before SFT."""
    folder = tmp_path_factory.mktemp("parity") / "policy-init"
    return convert(RECORDINGS / "sft" / "init", folder, base_model=converted_base)


@pytest.fixture(scope="session")
def converted_policy(converted_base, tmp_path_factory) -> Path:
    """The policy adapter after SFT, from which PPO was recorded."""
    folder = tmp_path_factory.mktemp("parity") / "policy"
    return convert(RECORDINGS / "sft", folder, base_model=converted_base)


@pytest.fixture(scope="session")
def converted_rm0(converted_base, tmp_path_factory) -> Path:
    """The reward model before training."""
    return _convert_reward_model(0, converted_base, tmp_path_factory.mktemp("parity"))


@pytest.fixture(scope="session")
def converted_rm8(converted_base, tmp_path_factory) -> Path:
    """The reward model after 8 steps, with which PPO was recorded."""
    return _convert_reward_model(8, converted_base, tmp_path_factory.mktemp("parity"))


def _convert_reward_model(step: int, base: Path, folder: Path) -> Path:
    source = RECORDINGS / "rm" / f"checkpoint-{step}"
    return convert(source, folder / "rm", base_model=base, reward_prompt_file=FACT_PROMPT)


def convert(source: Path, output: Path, **flags: Path) -> Path:
    """Run the converter; returns the new folder."""
    convert_checkpoint.run(convert_checkpoint.prepare(command_line(input=source, output=output, **flags)))
    return output

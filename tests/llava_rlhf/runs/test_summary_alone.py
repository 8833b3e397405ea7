"""`--summary_only True` before there is a card: what it does not look at is said, what is missing too, and how it ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from llava_rlhf.runs import training_arguments
from tests.support.recorded_scripts import ROOT
from tests.support.tiny_data import ppo_command
from tests.support.tiny_programs import prepare_program


@pytest.fixture
def summary(tiny_base, tiny_data, tmp_path):
    """summary(**changes): the real PPO program in a process, with adapters that are not there."""

    def run(**changes):
        absent = (tmp_path / "policy", tmp_path / "reward")
        argv = ppo_command(tiny_data, tiny_base, *absent, tmp_path / "run", summary_only=True, **changes)
        return subprocess.run(
            [sys.executable, "-m", "llava_rlhf.train_rl_model", *argv],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.slow
def test_adapters_that_are_not_there_are_named_and_the_end_is_said(summary, tmp_path):
    done = summary()
    assert done.returncode == 0, done.stderr
    named = f"--policy_model_name_or_path {tmp_path}/policy, --reward_model_name_or_path {tmp_path}/reward"
    assert done.stdout.count(f"not checked, not there: {named}\n") == 1
    assert done.stdout.endswith("\ndata and settings are fine; nothing was started\n")


@pytest.mark.slow
def test_a_missing_base_is_one_message_with_the_adapters(summary, tmp_path):
    done = summary(base_model_name="checkpoints/llava-7b")
    assert done.returncode == 2 and done.stderr.endswith(
        "error: 3 things that the command line names are not there:\n"
        "  --base_model_name checkpoints/llava-7b: no such directory: misspelt, or not converted yet "
        "(docs/weights_and_data.md)\n"
        f"  --policy_model_name_or_path {tmp_path}/policy: no such directory\n"
        f"  --reward_model_name_or_path {tmp_path}/reward: no such directory\n"
    )


@pytest.mark.parametrize("program", ["reward", "policy"])
def test_bfloat16_without_a_gpu_is_refused_with_what_to_do(
    program, tiny_base, tiny_data, tmp_path, monkeypatch
):
    monkeypatch.setattr(training_arguments, "_has_bf16_device", lambda: False)
    folders = (tmp_path, tmp_path, tmp_path / "run")
    with pytest.raises(ValueError, match=r"^no GPU here .*--summary_only True .*--use_cpu True --bf16 False"):
        prepare_program(program, tiny_data, tiny_base, *folders, bf16=True, use_cpu=False)


def test_a_missing_base_of_the_documents_is_said_to_be_not_converted(tiny_data, tmp_path):
    folders = (tmp_path, tmp_path, tmp_path / "run")
    message = r"no such folder: misspelt, or not converted yet \(docs/weights_and_data\.md\)"
    with pytest.raises(ValueError, match=message):
        prepare_program("policy", tiny_data, "checkpoints/llava-7b-v1.5-224-sft", *folders)


def test_a_missing_caption_names_its_picture_in_words(tiny_base, tiny_data, tmp_path):
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps({"x.jpg": ["a cat"]}))
    folders = (tmp_path, tmp_path, tmp_path / "run")
    with pytest.raises(ValueError, match=r"field 'image': value '0[^(]*no captions under"):
        prepare_program("reward", tiny_data, tiny_base, *folders, image_to_caption_file=captions)

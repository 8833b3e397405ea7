"""Programs that are given a folder of the original say how to convert it."""

from __future__ import annotations

import re
import shlex
import shutil

import pytest

from llava_rlhf import answer_prompts, convert_checkpoint, export_policy, train_rl_model
from llava_rlhf.conversion.adapter_layouts import POLICY_KIND, PPO_KIND, REWARD_KIND
from llava_rlhf.runs.reward_card import read_reward_card
from llava_rlhf.runs.role_files import find_policy_adapter
from models.adapter_files import read_adapter_config
from models.adapters import AdapterBank, AdapterSpec
from models.base_check import check_base
from models.vlm import BaseSettings, load_base
from tests.llava_rlhf.conversion.original_adapters import write_adapter
from tests.support.tiny_data import TinyData, command_line, ppo_command, write_tiny_data


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TinyData:
    return write_tiny_data(tmp_path_factory.mktemp("data") / "tiny data")


def command_in(text: str, **words: object) -> list[str]:
    """Arguments of the conversion that a message tells to run, with BASE, DIR and FILE filled in."""
    (line,) = re.findall(r"^bash scripts/convert_checkpoint\.sh (.*)$", text, re.MULTILINE)
    return [str(words.get(word, word)) for word in shlex.split(line)]


def test_ppo_given_original_folders_tells_how_to_convert_them(checkpoints, small_base, data, tmp_path):
    policy, reward = (
        shutil.move(checkpoints[kind], tmp_path / f"my {kind}") for kind in (POLICY_KIND, REWARD_KIND)
    )
    words = {"BASE": small_base, "FILE": data.fact_prompt}

    def prepare():
        return train_rl_model.prepare(ppo_command(data, small_base, policy, reward, tmp_path / "run"))

    with pytest.raises(ValueError, match="was written by the original LLaVA-RLHF code") as refused:
        prepare()
    argv = command_in(str(refused.value), **words, DIR=tmp_path / "policy")
    assert argv == command_line(input=policy, base_model=small_base, output=tmp_path / "policy")
    convert_checkpoint.run(convert_checkpoint.prepare(argv))
    policy = tmp_path / "policy"
    with pytest.raises(ValueError, match="was written by the original LLaVA-RLHF code") as refused:
        prepare()
    argv = command_in(str(refused.value), **words, DIR=tmp_path / "reward")
    assert argv[:2] == ["--input", str(reward)]
    convert_checkpoint.run(convert_checkpoint.prepare([*argv, "--version", "tiny"]))
    reward = tmp_path / "reward"
    prepared = prepare()
    assert prepared.reward_base == str(small_base) and len(prepared.prompts) == 16


@pytest.mark.parametrize("kind", [POLICY_KIND, PPO_KIND])
def test_tools_given_an_original_policy_tell_how_to_convert_it(kind, checkpoints, small_base, data, tmp_path):
    common = {"base_model_name": small_base, "adapter": checkpoints[kind]}
    answers = {
        "dataset_path": data.prompts,
        "image_folder": data.images,
        "output_file": tmp_path / "answers.jsonl",
    }
    for program, flags in ((export_policy, {"output_dir": tmp_path / "merged"}), (answer_prompts, answers)):
        with pytest.raises(ValueError) as refused:
            program.prepare(command_line(**common, **flags))
        argv = command_in(str(refused.value), BASE=small_base, DIR=tmp_path / "ours")
        convert_checkpoint.prepare(argv)


@pytest.mark.parametrize("ending", ["bin", "safetensors"])
def test_every_form_of_an_original_adapter_is_recognised(ending, small_base, weights, tmp_path):
    for place in (".", "lora_default", "adapter_model/lora_policy"):
        folder = tmp_path / f"at {place.replace('/', ' ')}"
        write_adapter(folder / place, weights, ending)
        for read in (find_policy_adapter, read_reward_card, read_adapter_config):
            with pytest.raises(ValueError, match=r"convert_checkpoint\.sh --input '.*' --base_model BASE"):
                read(folder)
    with pytest.raises(ValueError, match=r"convert_checkpoint\.sh"):
        AdapterBank(load_base(small_base, BaseSettings()), {"policy": AdapterSpec(folder / place, False)})


def test_a_cut_off_adapter_is_named(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"cut off")
    with pytest.raises(
        ValueError, match=r"adapter_model\.safetensors is missing, cut off or no safetensors file"
    ):
        find_policy_adapter(tmp_path)


def test_a_run_that_holds_only_checkpoints_of_the_original_names_the_newest(
    checkpoints, small_base, tmp_path
):
    run = tmp_path / "my run"
    for step in (4, 8, 16):
        shutil.copytree(checkpoints[POLICY_KIND], run / f"checkpoint-{step}")
    for read in (find_policy_adapter, read_reward_card):
        message = r"holds only checkpoints of the original .* \(checkpoint-4, checkpoint-8, checkpoint-16\)"
        with pytest.raises(ValueError, match=message) as refused:
            read(run)
    assert command_in(str(refused.value))[:2] == ["--input", str(run / "checkpoint-16")]
    ours = write_adapter(run / "lora_policy", {}, "safetensors")  # a run of ours among older ones
    assert find_policy_adapter(run) == ours


def test_a_base_with_a_space_in_its_path_can_be_converted_as_told(pair, tmp_path):
    source = pair.source.rename(tmp_path / "my original")
    with pytest.raises(ValueError) as refused:
        check_base(source)
    (command,) = re.findall(r"convert_checkpoint\.sh (.*)$", str(refused.value), re.MULTILINE)
    assert shlex.split(command)[:2] == ["--input", str(source)]

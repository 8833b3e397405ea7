"""The program around all conversions: what it finds, refuses and writes, and how users are led to it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from llava_rlhf import convert_checkpoint, export_policy
from llava_rlhf.conversion.adapter_layouts import POLICY_KIND, PPO_KIND, REWARD_KIND
from llava_rlhf.runs.reward_card import RewardModelCard, read_reward_card
from models.adapter_files import read_adapter_config
from models.base_fingerprint import base_fingerprint
from models.vlm import BaseSettings, load_base
from tests.llava_rlhf.conversion.original_adapters import write_adapter, write_head
from tests.support.tiny_data import FACT_PROMPT, TinyData, command_line, write_tiny_data

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TinyData:
    return write_tiny_data(tmp_path_factory.mktemp("data") / "tiny data")


@pytest.fixture
def convert(small_base, data, tmp_path, capsys):
    """convert(source, **changes): run the program on `small_base`; returns the output folder and what was printed."""

    def _convert(source, **changes):
        output = tmp_path / "results" / "converted"
        settings = {"input": source, "output": output, "base_model": small_base, **changes}
        convert_checkpoint.run(convert_checkpoint.prepare(command_line(**settings)))
        return settings["output"], capsys.readouterr().out

    return _convert


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def adapter(name: str, *others: str, weights: str = "safetensors") -> set[str]:
    return {f"{name}/adapter_config.json", f"{name}/adapter_model.{weights}", *others}


OURS = {
    POLICY_KIND: adapter("lora_policy"),
    REWARD_KIND: adapter("lora_reward", "reward_head.safetensors", "reward_model.json"),
    PPO_KIND: adapter("lora_policy", "value_head.safetensors") | adapter("lora_value"),
}
ORIGINAL = {
    POLICY_KIND: adapter("lora_default", weights="bin"),
    REWARD_KIND: adapter("adapter_model/lora_default", "reward_head", weights="bin"),
    PPO_KIND: adapter("adapter_model/lora_policy", "value_head.pt", weights="bin")
    | adapter("adapter_model/lora_value", weights="bin"),
}


@pytest.mark.parametrize("kind", OURS)
def test_every_kind_there_and_back(kind, convert, checkpoints, data, small_base, tmp_path):
    prompt = {"reward_prompt_file": data.fact_prompt} if kind == REWARD_KIND else {}
    output, printed = convert(checkpoints[kind], **prompt)
    assert files_in(output) == OURS[kind] and files_in(output.parent) == {
        f"converted/{name}" for name in OURS[kind]
    }
    assert f"{checkpoints[kind]} is a {kind}\n" in printed
    assert all(f"wrote {output / name} (" in printed for name in OURS[kind])
    left_out = "not converted: optimizer.pt, scheduler.pt\n" in printed and "not even restored" in printed
    assert left_out == (kind == PPO_KIND)
    back, printed = convert(output, output=tmp_path / "back", base_model=None, to="original")
    assert files_in(back) == ORIGINAL[kind]
    assert f"{output} is a {kind}\n" in printed and ("not converted: reward_model.json" in printed) == (
        kind == REWARD_KIND
    )


def test_a_base_is_converted_by_the_same_program(pair, convert, converted):
    output, printed = convert(pair.source, vision_tower=pair.tower, base_model=None)
    assert f"{pair.source} is a base (SFT) model" in printed
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= files_in(output)
    assert load_base(output, BaseSettings()).hidden_size == pair.shape.hidden


def test_the_card_of_a_reward_model(convert, checkpoints, data, small_base, tmp_path):
    output, _ = convert(checkpoints[REWARD_KIND], reward_prompt_file=data.fact_prompt)
    told = base_fingerprint(small_base)
    assert read_reward_card(output) == RewardModelCard(str(small_base), FACT_PROMPT, True, "v1", "pad", told)
    changes = {"reward_prompt_file": data.plain_prompt, "version": "tiny", "image_aspect_ratio": "square"}
    output, _ = convert(checkpoints[REWARD_KIND], output=tmp_path / "other", **changes)
    assert read_reward_card(output) == RewardModelCard(
        str(small_base), data.plain_prompt.read_text(), False, "tiny", "square", told
    )


def test_images_are_made_square_as_the_base_says(convert, checkpoints, data, small_base, tmp_path):
    base = shutil.copytree(small_base, tmp_path / "square")
    config = json.loads((base / "config.json").read_text())
    for told, flag, expected in (("square", None, "square"), ("square", "pad", "pad"), ("pad", None, "pad")):
        (base / "config.json").write_text(json.dumps({**config, "image_aspect_ratio": told}))
        settings = {"reward_prompt_file": data.fact_prompt, "image_aspect_ratio": flag, "base_model": base}
        output, _ = convert(checkpoints[REWARD_KIND], output=tmp_path / f"{told} {flag}", **settings)
        assert read_reward_card(output).image_aspect_ratio == expected
    (base / "config.json").write_text(json.dumps({**config, "image_aspect_ratio": "anyres"}))
    with pytest.raises(ValueError, match=r"image_aspect_ratio 'anyres' is not one of .*--image_aspect_ratio"):
        convert(checkpoints[REWARD_KIND], reward_prompt_file=data.fact_prompt, base_model=base)


def test_a_head_elsewhere_makes_a_reward_model(convert, weights, data, tmp_path):
    write_adapter(tmp_path / "flat", weights)
    head = write_head(tmp_path / "elsewhere.bin")
    output, printed = convert(tmp_path / "flat", reward_head=head, reward_prompt_file=data.fact_prompt)
    assert "is a reward model" in printed and files_in(output) == OURS[REWARD_KIND]


def test_a_relative_base_is_recorded_so_that_it_is_found_from_anywhere(
    convert, checkpoints, small_base, monkeypatch
):
    monkeypatch.chdir(small_base.parent)
    output, _ = convert(checkpoints[POLICY_KIND], base_model=small_base.name)
    assert read_adapter_config(output / "lora_policy").base_model_name_or_path == str(small_base)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (POLICY_KIND, {"version": "v1"}, r"--version does not belong here: .* is a policy \(a reward model has a file"),
        (POLICY_KIND, {"value_base_model": "x"}, "--value_base_model does not belong here"),
        (POLICY_KIND, {"vision_tower": "x"}, "--vision_tower does not belong here"),
        (POLICY_KIND, {"base_model": None}, "is a policy: it needs --base_model as well"),
        (POLICY_KIND, {"base_model": "/no/such/base"}, "/no/such/base is not a model directory"),
        (POLICY_KIND, {"to": "hugging"}, "invalid choice: 'hugging'"),
        (POLICY_KIND, {"to": "original"}, "is in the original layout already"),
        (POLICY_KIND, {"base": "x"}, "unknown flag --base; the closest flag is --base_model"),
        (REWARD_KIND, {}, "is a reward model: it needs --reward_prompt_file as well"),
        (REWARD_KIND, {"base_model": None}, "it needs --base_model and --reward_prompt_file as well"),
        (REWARD_KIND, {"reward_prompt_file": "/no/prompt.txt"}, "reward prompt file /no/prompt.txt"),
        (REWARD_KIND, {"reward_prompt_file": "p", "reward_head": "/no/head"}, "/no/head: no such file|reward prompt file p"),
        (PPO_KIND, {"reward_head": "x"}, "--reward_head does not belong here: .* is a PPO checkpoint"),
        (PPO_KIND, {"input": "/no/such/input"}, "--input /no/such/input is no directory"),
        (PPO_KIND, {"output": "."}, r"--output \. exists already"),
        (POLICY_KIND, {"reward_prompt_file": "p"}, r"is a policy \(.*name one that lies elsewhere: --reward_head FILE"),
    ],
)  # fmt: skip
def test_what_a_user_can_get_wrong(kind, changes, message, convert, checkpoints, tmp_path):
    with pytest.raises(ValueError, match=message):
        convert(checkpoints[kind], **changes)
    assert not (tmp_path / "results").exists()


def test_folders_with_nothing_to_convert_say_what_was_looked_for(convert, checkpoints, small_base, tmp_path):
    (tmp_path / "run" / "checkpoint-8").mkdir(parents=True)
    looked = r"no config\.json of an SFT model, and no adapter_config.json or adapter_model.bin in \., lora_default, .*"
    with pytest.raises(ValueError, match=looked + "It holds checkpoint-8: name one of them"):
        convert(tmp_path / "run")
    with pytest.raises(ValueError, match="holds no policy adapter"):
        convert(tmp_path / "run", to="original")
    with pytest.raises(ValueError, match="is a model; --to original converts adapters only"):
        convert(small_base, to="original")


def test_what_is_converted_already_is_refused(convert, checkpoints, data, tmp_path):
    for kind in OURS:
        prompt = {"reward_prompt_file": data.fact_prompt} if kind == REWARD_KIND else {}
        output, _ = convert(checkpoints[kind], output=tmp_path / kind, **prompt)
        with pytest.raises(ValueError, match=r"layout already"):
            convert(output, **prompt)


def test_a_model_and_an_adapter_in_one_folder_are_ambiguous(convert, pair, weights):
    write_adapter(pair.source / "lora_default", weights)
    with pytest.raises(ValueError, match="holds an SFT model and an adapter"):
        convert(pair.source)


def test_a_conversion_that_breaks_off_leaves_nothing(checkpoints, small_base, tmp_path):
    argv = command_line(
        input=checkpoints[PPO_KIND], base_model=small_base, output=tmp_path / "results" / "converted"
    )
    prepared = convert_checkpoint.prepare(argv)
    (checkpoints[PPO_KIND] / "value_head.pt").unlink()  # which is read last
    with pytest.raises(ValueError, match=r"value_head\.pt: no such file"):
        convert_checkpoint.run(prepared)
    assert list((tmp_path / "results").iterdir()) == []


def test_the_next_command_can_be_run(convert, checkpoints, data, pair, tmp_path):
    """Tools are given the printed words; scripts must have the variables that are set for them."""
    for kind in (POLICY_KIND, PPO_KIND):
        _, printed = convert(checkpoints[kind], output=tmp_path / kind)
        (command,) = re.findall(r"^next: python -m llava_rlhf\.export_policy (.*)$", printed, re.MULTILINE)
        export_policy.prepare([word.replace("DIR", str(tmp_path / "new")) for word in shlex.split(command)])
    scripts = [
        convert(checkpoints[REWARD_KIND], output=tmp_path / "reward", reward_prompt_file=data.fact_prompt),
        convert(pair.source, output=tmp_path / "base", vision_tower=pair.tower, base_model=None),
    ]
    for output, printed in scripts:
        variables, script = re.search(r"^next: (.*) bash (scripts/\S+)$", printed, re.MULTILINE).groups()
        text = (ROOT / script).read_text()
        settings = dict(word.split("=", 1) for word in shlex.split(variables))
        assert str(output) in settings.values()
        assert all(f'{name}="${{{name}:-' in text for name in settings)


def test_the_script_passes_everything_on(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    script = ROOT / "scripts" / "convert_checkpoint.sh"
    done = subprocess.run(
        ["bash", str(script), "--input", "my policy", "--to", "original"],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": str(python)},
        capture_output=True,
        text=True,
        check=True,
    )
    words = ["-m", "llava_rlhf.convert_checkpoint", "--input", "my policy", "--to", "original"]
    assert done.stdout.splitlines() == [str(tmp_path), *words]

"""How a folder that a user names is understood."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from llava_rlhf.runs.role_files import (
    POLICY,
    RewardModelCard,
    check_template,
    find_policy_adapter,
    read_reward_card,
)

CARD = RewardModelCard("some/base", "is it good? {factual_prompt}\nDies", True, "v1", "pad", "0a1b")


def test_a_card_survives_a_round_trip(reward_run, tmp_path):
    folder = tmp_path / "reward"
    shutil.copytree(reward_run, folder)
    CARD.save(folder)
    assert read_reward_card(folder) == CARD


def test_differences_name_what_changed_but_not_where_the_base_lies():
    assert CARD.differences(replace(CARD, base_model="moved/base", base_fingerprint="2c3d")) == []
    changed = CARD.differences(replace(CARD, prompt="other", facts=False))
    assert len(changed) == 2
    assert changed[0].startswith("prompt: trained with 'is it good?") and changed[0].endswith("now 'other'")
    assert changed[1] == "facts: trained with True, now False"


@pytest.mark.parametrize(
    "missing", ["reward_model.json", "reward_head.safetensors", "lora_reward/adapter_config.json"]
)
def test_a_reward_model_that_lacks_a_file_is_refused_by_its_name(reward_run, tmp_path, missing):
    folder = tmp_path / "reward"
    shutil.copytree(reward_run, folder)
    (folder / missing).unlink()
    with pytest.raises(ValueError, match=f"is not a reward model: it lacks {missing}"):
        read_reward_card(folder)


def test_a_card_with_other_keys_is_refused(reward_run, tmp_path):
    folder = tmp_path / "reward"
    shutil.copytree(reward_run, folder)
    content = json.loads((folder / "reward_model.json").read_text())
    del content["template"]
    (folder / "reward_model.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"keys .* should be .*'template'"):
        read_reward_card(folder)


def test_a_policy_is_found_in_a_run_a_checkpoint_or_a_plain_peft_folder(policy_run, tmp_path):
    assert find_policy_adapter(policy_run) == policy_run / "lora_policy"
    checkpoint = policy_run / "checkpoint-25"
    assert find_policy_adapter(checkpoint) == checkpoint / "lora_policy"
    assert find_policy_adapter(policy_run / "lora_policy") == policy_run / "lora_policy"
    for role in ("lora_value", "lora_reward"):
        folder = shutil.copytree(policy_run / "lora_policy", tmp_path / role)
        with pytest.raises(ValueError, match=f"{role} is the adapter of a value or reward model.*no policy"):
            find_policy_adapter(folder)
    with pytest.raises(ValueError, match=r"holds no policy adapter.*lora_policy/adapter_config\.json"):
        find_policy_adapter(tmp_path)


def recorded(path: Path, version: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"DataArguments": {"version": version}}))


@pytest.mark.parametrize("checkpoint", ["", "checkpoint-10"])
@pytest.mark.parametrize("adapter", [POLICY, ""])
def test_an_adapter_is_asked_with_the_template_of_its_training(adapter, checkpoint, tmp_path):
    recorded(tmp_path / "run" / "arguments.json", "tiny")
    folder = tmp_path / "run" / checkpoint / adapter
    folder.mkdir(parents=True, exist_ok=True)
    check_template(tmp_path / "base", folder, "tiny")
    with pytest.raises(
        ValueError, match=r"run was trained with the conversation template tiny, not v1: add --version tiny"
    ):
        check_template(tmp_path / "base", folder, "v1")


def test_an_exported_base_or_adapter_knows_its_template(tmp_path):
    recorded(tmp_path / "base" / "training_arguments.json", "v1")
    check_template(tmp_path / "base", None, "v1")
    with pytest.raises(ValueError, match="base was trained with the conversation template v1, not tiny"):
        check_template(tmp_path / "base", None, "tiny")
    recorded(tmp_path / "adapter" / "training_arguments.json", "tiny")
    with pytest.raises(ValueError, match="adapter was trained with the conversation template tiny"):
        check_template(tmp_path / "elsewhere", tmp_path / "adapter", "v1")


def test_where_nothing_is_recorded_any_template_will_do(tmp_path):
    (tmp_path / "arguments.json").write_text("[]")
    check_template(tmp_path, tmp_path / POLICY, "v1")

"""How a folder that a user names is understood."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from data_utils.conversation import TEMPLATES
from llava_rlhf.runs.role_files import POLICY, check_pieces, check_template, find_policy_adapter, pieces_of
from tests.support.chatml import CHATML, OTHER_ASK


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


def test_an_adapter_knows_its_system_message_and_chat_template(tmp_path):
    run = {
        "DataArguments": {"version": "chat", "system_message": "Be brief."},
        "ChatTemplate": pieces_of(CHATML),
    }
    (tmp_path / "arguments.json").write_text(json.dumps(run))
    check_template("base", tmp_path, "chat", "Be brief.")
    check_pieces("base", tmp_path, CHATML)
    check_pieces("base", tmp_path, TEMPLATES["v1"])  # of that, the name is compared
    with pytest.raises(
        ValueError, match=r"system message 'Be brief.', not None: add --system_message 'Be brief.'"
    ):
        check_template("base", tmp_path, "chat")
    with pytest.raises(
        ValueError, match=r"another chat template than base has: piece ask .*; take the template file"
    ):
        check_pieces("base", tmp_path, OTHER_ASK)
    run["DataArguments"]["system_message"] = None
    (tmp_path / "arguments.json").write_text(json.dumps(run))
    with pytest.raises(ValueError, match=r"system message None, not 'Be brief.': leave --system_message out"):
        check_template("base", tmp_path, "chat", "Be brief.")

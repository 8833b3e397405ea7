"""What a reward model's card says, and what of it is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from llava_rlhf.runs.reward_card import RewardModelCard, read_card_alone, read_reward_card
from llava_rlhf.runs.role_files import pieces_of
from tests.support.chatml import CHATML, OTHER_ASK

CARD = RewardModelCard("some/base", "is it good? {factual_prompt}\nDies", True, "v1", "pad", "0a1b")


def test_a_card_survives_a_round_trip(reward_run, tmp_path):
    folder = tmp_path / "reward"
    shutil.copytree(reward_run, folder)
    CARD.save(folder)
    assert read_reward_card(folder) == CARD


def test_a_card_has_the_chat_template_only_where_there_is_one(reward_run, tmp_path):
    folder = shutil.copytree(reward_run, tmp_path / "reward")
    CARD.save(folder)
    assert "template_pieces" not in json.loads((folder / "reward_model.json").read_text())
    chat = replace(CARD, template="chat", system_message="Be brief.", template_pieces=pieces_of(CHATML))
    chat.save(folder)
    assert read_reward_card(folder) == chat
    chat.check_pieces(folder, "base", CHATML)
    with pytest.raises(
        ValueError,
        match=r"reward was trained with another chat template than base has: piece ask of .*model\\n'",
    ):
        chat.check_pieces(folder, "base", OTHER_ASK)
    changed = chat.differences(replace(chat, system_message=None, template_pieces=pieces_of(OTHER_ASK)))
    assert changed[0] == "system_message: trained with 'Be brief.', now None"
    assert len(changed) == 2 and changed[1].startswith(
        "piece ask of the chat template: trained with '<|im_end|>"
    )


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


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_card_names_the_kind_of_head(kind, tmp_path):
    replace(CARD, reward_head=kind).save(tmp_path)
    assert json.loads((tmp_path / "reward_model.json").read_text())["reward_head"] == kind
    assert read_card_alone(tmp_path).reward_head == kind


def test_a_card_of_before_there_was_a_choice_means_a_linear_head(tmp_path):
    CARD.save(tmp_path)
    content = json.loads((tmp_path / "reward_model.json").read_text())
    del content["reward_head"]
    (tmp_path / "reward_model.json").write_text(json.dumps(content))
    assert read_card_alone(tmp_path) == CARD and CARD.reward_head == "linear"


def test_heads_of_another_kind_score_under_the_same_conditions():
    assert CARD.differences(replace(CARD, reward_head="mlp")) == []

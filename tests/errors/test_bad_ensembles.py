"""Reward models that can't score together: refused by `prepare`, which never loads a model."""

from __future__ import annotations

import shutil

import pytest

from llava_rlhf import score
from tests.errors.documented import documented
from tests.support.reward_models import edit_card, with_mlp_head
from tests.support.tiny_data import command_line

CARDS = {
    "other-prompt": {"prompt": "rate it"},
    "other-template": {"template": "v1"},
    "other-pictures": {"image_aspect_ratio": "square"},
    "without-facts": {"facts": False},
    "other-base": {"base_fingerprint": "0", "base_model": "somewhere/else"},
}
CASES = (*CARDS, "twice", "absent", "other-head", "head-cut-off")


@pytest.fixture
def member(reward_folder, tmp_path):
    """member(case): the folder to name beside the reward model."""

    def make(case):
        if case == "twice":
            return reward_folder
        if case == "other-head":
            return with_mlp_head(reward_folder, tmp_path / "member", says="linear")
        if case == "absent":
            return tmp_path / "member"
        folder = shutil.copytree(reward_folder, tmp_path / "member")
        edit_card(folder, **CARDS.get(case, {}))
        if case == "head-cut-off":
            path = folder / "reward_head.safetensors"
            path.write_bytes(path.read_bytes()[:60])
        return folder

    return make


@pytest.mark.parametrize("case", CASES)
def test_documented(case, prepare, member, tmp_path):
    row = documented(__file__, case)
    with pytest.raises(ValueError, match=row.pattern):
        prepare("ppo", more_reward_models=[member(case)])
    assert row.skipped == "–" and not (tmp_path / "run").exists()


@pytest.mark.parametrize("case", CASES)
def test_the_same_is_refused_where_rows_are_scored(
    case, member, reward_folder, unloadable_base, data, tmp_path
):
    argv = command_line(
        reward_model_name_or_path=reward_folder,
        more_reward_models=[member(case)],
        base_model_name=unloadable_base,
        dataset_path=data.preferences,
        image_folder=data.images,
        image_to_caption_file=data.captions,
        output_file=tmp_path / "scores.jsonl",
    )
    with pytest.raises(ValueError, match=documented(__file__, case).pattern):
        score.prepare(argv)


@pytest.mark.parametrize("case", ["other-prompt", "other-base", "twice"])
def test_what_can_be_said_without_weights_is_said_by_a_summary(case, prepare, member):
    with pytest.raises(ValueError, match=documented(__file__, case).pattern):
        prepare("ppo", more_reward_models=[member(case)], summary_only=True)


def test_a_member_of_another_kind_of_head_and_of_another_place_passes(prepare, reward_folder, tmp_path):
    folders = [
        with_mlp_head(reward_folder, tmp_path / "mlp"),
        shutil.copytree(reward_folder, tmp_path / "copy"),
    ]
    edit_card(folders[1], base_model="moved/since")
    assert prepare("ppo", more_reward_models=folders, ensemble_beta=0.5).settings.ensemble.beta == 0.5


def test_a_summary_names_members_that_are_not_there_yet(prepare, tmp_path, capsys):
    prepare("ppo", more_reward_models=[tmp_path / "later"], summary_only=True)
    assert f"not checked, not there: --more_reward_models {tmp_path}/later" in capsys.readouterr().out


def test_several_members_that_are_not_there_are_told_together(prepare, tmp_path):
    with pytest.raises(
        ValueError, match=r"(?s)2 things that .*/one: no such directory.*/two: no such directory"
    ):
        prepare("ppo", more_reward_models=[tmp_path / "one", tmp_path / "two"])

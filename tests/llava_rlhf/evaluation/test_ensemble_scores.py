"""Rows that several reward models score: what is written is made of what each writes alone."""

from __future__ import annotations

from statistics import fmean, pstdev

import pytest

from llava_rlhf.evaluation.score_records import with_members
from tests.llava_rlhf.evaluation.scoring import scored, train_reward, write_scoring_data
from tests.support.reward_models import moved, with_mlp_head

BETA = 0.8


def test_pairs_score_as_their_members_say(tiny_base, tmp_path):
    data = write_scoring_data(tmp_path / "data")
    reward = train_reward(data, tiny_base, tmp_path / "reward")
    others = [moved(reward, tmp_path / "moved", seed=4), with_mlp_head(reward, tmp_path / "mlp")]
    alone = [scored(data, folder, tmp_path / f"{folder.name}.jsonl") for folder in (reward, *others)]
    lines, summary = scored(
        data, reward, tmp_path / "all.jsonl", more_reward_models=others, ensemble_beta=BETA, batch_size=5
    )
    spreads = []
    for line, *own in zip(lines, *(found for found, _ in alone), strict=True):
        said = [entry["scores"] for entry in own]  # a list for each reward model, a number for each response
        for response, members in enumerate(line["reward_models"]):
            assert members == pytest.approx([scores[response] for scores in said], abs=1e-5)
            spreads.append(pstdev(members))
            expected = fmean(members) - BETA * spreads[-1]
            assert line["scores"][response] == pytest.approx(expected, abs=1e-5)
        first, second = line["scores"]
        assert line["agrees"] is ((first > second) == (line["preference"] == 1))
    assert min(spreads) > 1e-4, "members that say the same would test nothing"
    assert summary["reward_spread"] == pytest.approx(fmean(spreads), abs=1e-5)
    assert (summary["ensemble_beta"], summary["more_reward_models"]) == (BETA, [str(path) for path in others])
    assert summary["reward_model"] == str(reward)
    for found, numbers in alone:
        assert all("reward_models" not in line for line in found)
        assert not {"reward_spread", "ensemble_beta", "more_reward_models"} & numbers.keys()


def test_an_answer_has_one_list_of_its_members():
    assert with_members({"score": 1.5}, [[1.0, 2.0]]) == {"score": 1.5, "reward_models": [1.0, 2.0]}
    pair = with_members({"scores": [1.5, 0.5]}, [[1.0, 2.0], [0.0, 1.0]])
    assert pair["reward_models"] == [[1.0, 2.0], [0.0, 1.0]]

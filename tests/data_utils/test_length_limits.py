"""Length limits: what they count, and that a row over one is dropped whole."""

from __future__ import annotations

from dataclasses import replace

import pytest

from data_utils.building import build_dialogues
from data_utils.problems import DataError
from tests.data_utils.rows import gpt, human, preference, preferences, prompt_row, prompts


@pytest.mark.parametrize(
    ("limit", "kept", "reason"),
    [
        ({"query_len": 6}, 1, "query"),
        ({"query_len": 7}, 2, None),
        ({"response_len": 2}, 0, "response"),
        ({"response_len": 3}, 2, None),
        ({"model_max_length": 10}, 1, "sequence"),
        ({"model_max_length": 11}, 2, None),
    ],
)
def test_limits_of_a_pair_count_an_image_as_one_token(write, common, limit, kept, reason):
    # query <s> USER: <image> what ? ASSISTANT: = 6 (and 7 with "red"), response "a cat </s>" = 3, + score = 10 (11)
    path = write("p.json", [preference(), preference(question="what red ?", outputs=("a dog", "a cat"))])
    if kept == 0:
        with pytest.raises(DataError, match="no row is left"):
            preferences(path, common, **limit)
        return
    data = preferences(path, common, **limit)
    assert len(data) == kept
    assert sum(data.report.dropped.values()) == 2 - kept
    assert reason is None or next(iter(data.report.dropped)).startswith(reason)


def test_the_longer_answer_decides(write, common):
    path = write("p.json", [preference(outputs=("no", "a red cat")), preference(outputs=("no", "yes"))])
    assert len(preferences(path, common, response_len=3)) == 1
    # whole sequences: query 6 + "no </s>" 2 or "yes </s>" 2, "a red cat </s>" 4, + score 1
    assert len(preferences(path, common, model_max_length=9)) == 1


def test_limits_of_a_dialogue(write, common):
    short = [human("what ?"), gpt("a cat")]
    rows = [
        {"image": "a.png", "conversations": short},  # query 6, answer 3, whole 9
        {
            "image": "a.png",
            "conversations": [*short, human("red ?"), gpt("no a red cat")],
        },  # answer 5, whole 18
    ]
    path = write("d.json", rows)
    assert len(build_dialogues(path, replace(common, response_len=5, model_max_length=18))) == 2
    for limit in ({"response_len": 4}, {"model_max_length": 17}):
        data = build_dialogues(path, replace(common, **limit))
        assert [len(item.input_ids) for item in data] == [9]
    with pytest.raises(DataError, match="query_len 5"):
        build_dialogues(path, replace(common, query_len=5))


def test_limits_of_a_prompt_leave_room_for_the_answer_and_the_reward_prompt(write, common):
    path = write("r.json", [prompt_row()])  # query 6 + response_len 10 + score 1 = 17
    assert len(prompts(path, common, model_max_length=17)) == 1
    with pytest.raises(DataError, match="model_max_length 16"):
        prompts(path, common, model_max_length=16)

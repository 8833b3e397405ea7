"""What the study of policy gradients is made of, against hand arithmetic and plain models by autograd."""

from __future__ import annotations

import json
import math

import pytest
import torch

from benchmarks.facts.gradients import advantages, agreement, halves_of_gradient, slope, weighed_rows
from data_utils.building import build_dialogues
from llava_rlhf import initialize_policy_model
from llava_rlhf.assembly.roles import load_text_side, row_settings
from llava_rlhf.runs.arguments import DataArguments
from tests.support.literal_dpo import answer_log_probs, last_answer
from tests.support.plain_models import PlainRole
from tests.support.tiny_data import policy_command, write_tiny_data

ANSWERS = ("a cat.", "there is a dog.", "two.", "a bird and a table.")


def record(image, text, stopped=True):
    return {
        "id": f"{image}-{text}",
        "image": [image],
        "question": "what is it?",
        "answer": text,
        "stopped": stopped,
    }


def test_an_advantage_leaves_its_own_answer_out():
    assert advantages([1.0, 2.0, 6.0]) == pytest.approx([1 - 4, 2 - 3.5, 6 - 1.5])


def test_dialogues_are_weighed_in_the_half_of_their_picture():
    answers = [
        [record("p", "one"), record("p", " "), record("p", "two")],  # an empty answer
        [
            record("q", "three", stopped=False),
            record("q", "four"),
        ],  # one is left, which has nothing to stand beside
        [record("r", "five"), record("r", "six")],
        [record("q", "seven"), record("q", "eight")],
    ]
    first = [[1.0, 9.0, 4.0], [9.0, 1.0], [2.0, 2.5], [0.0, 8.0]]
    other = [[-value for value in of] for of in first]
    rows, weights = weighed_rows(answers, [first, other])
    assert [row["conversations"][1]["value"] for row in rows] == [
        "one",
        "two",
        "five",
        "six",
        "seven",
        "eight",
    ]
    # Pictures p and r are of the first half, q of the second.
    assert weights[0, 0].tolist() == [-3, 3, -0.5, 0.5, 0, 0]
    assert weights[1, 0].tolist() == [0, 0, 0, 0, -8, 8]
    assert torch.equal(weights[:, 1], -weights[:, 0])


def test_a_slope_by_hand():
    # σ(log 3) = ¾, σ(−log 9) = 1/10: (¼ · ½ + 0.4 · 0.2) / (½² + 0.2²) with margins that say 1 and 0.3
    mean = slope([math.log(3), -math.log(9)], [40.0, math.log(0.3 / 0.7)])
    assert mean == pytest.approx((0.25 * 0.5 + 0.4 * 0.2) / (0.25 + 0.04))
    assert slope([1.0, -2.0], [1.0, -2.0]) == pytest.approx(1)


def test_noise_of_the_halves_is_taken_out_of_an_agreement():
    """Gradients that point the same way, each half with noise of its own of 1 or 2 times its length."""
    first = torch.tensor([[1.0, 1, 0, 0, 0], [1, 0, 1, 0, 0]], dtype=torch.float64)
    other = torch.tensor([[1.0, 0, 0, 2, 0], [1, 0, 0, 0, 2]], dtype=torch.float64)
    found = agreement(first, other)
    assert found["reliability"] == pytest.approx(1 / 2)
    assert found["cosine"] == pytest.approx(1 / math.sqrt(2 * 5))
    assert found["corrected"] == pytest.approx(1)
    assert agreement(first, -other)["corrected"] == pytest.approx(-1)
    each = torch.eye(2, dtype=torch.float64)
    assert agreement(each, each[[1, 1]])["cosine"] == pytest.approx(1 / 2)  # 0 and 1
    assert math.isnan(agreement(first, torch.stack([other[0], -other[1]]))["corrected"])


def test_gradients_are_those_of_plain_models_by_autograd(tiny_base, tmp_path):
    files = write_tiny_data(tmp_path / "data")
    flags = {"max_steps": 3, "learning_rate": 1e-2}
    initialize_policy_model.run(
        initialize_policy_model.prepare(policy_command(files, tiny_base, tmp_path / "policy", **flags))
    )
    image = next(files.images.iterdir()).name
    rows = [
        {
            "id": str(at),
            "image": image,
            "conversations": [
                {"from": "human", "value": "<image>\nwhat is in the picture?"},
                {"from": "gpt", "value": answer},
            ],
        }
        for at, answer in enumerate(ANSWERS)
    ]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows))
    data = DataArguments(str(file), str(files.images), version="tiny")
    weights = torch.tensor(
        [[[1.0, -2, 0, 0], [0.5, 0.5, 0, 0]], [[0, 0, 3, 1], [0, 0, -1, 2]]], dtype=torch.float64
    )
    found = halves_of_gradient(tiny_base, tmp_path / "policy", data, weights)
    role = PlainRole(tiny_base, tmp_path / "policy" / "lora_policy", trainable=True)
    items = build_dialogues(file, row_settings(data, load_text_side(tiny_base, data.image_choices(), "tiny")))
    log_probs = torch.stack(
        [answer_log_probs(role, items[at], True, last_answer).sum() for at in range(len(ANSWERS))]
    )
    for half in range(2):
        for judge in range(2):
            total = (weights[half, judge] * log_probs).sum()
            gradients = torch.autograd.grad(total, role.adapter_parameters(), retain_graph=True)
            expected = torch.cat([one.flatten() for one in gradients]).double()
            assert expected.abs().max() > 0.1
            torch.testing.assert_close(found[half, judge], expected, rtol=1e-3, atol=1e-5)

"""The service's own format: rows as answers files have them, scored as `llava_rlhf.score` scores them."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.support.answer_rows import score_rows
from tests.support.reward_models import moved
from tests.support.reward_service import service_command, service_here

CLOSE = 3e-6  # of sums that the test takes in another precision; scores themselves are equal bit for bit


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def post(client, rows, **more):
    reply = client.post("/v1/score", json={"rows": rows, **more})
    assert reply.status_code == 200, reply.text
    return [row["score"] for row in reply.json()["rows"]]


def test_rows_score_as_with_the_program(service, scored_rows):
    reply = service.post("/v1/score", json={"rows": scored_rows.rows}).json()
    assert [row["score"] for row in reply["rows"]] == scored_rows.scores
    assert [row["id"] for row in reply["rows"]] == [row["id"] for row in scored_rows.rows]
    assert len(set(scored_rows.scores)) > 16  # they do differ


def test_requests_that_wait_together_share_forwards_and_say_the_same(service, scored_rows):
    before = service.get("/health").json()
    with ThreadPoolExecutor(16) as pool:
        alone = list(pool.map(lambda row: post(service, [row])[0], scored_rows.rows))
    after = service.get("/health").json()
    assert alone == scored_rows.scores
    assert after["rows_scored"] - before["rows_scored"] == len(alone)
    assert after["forwards"] - before["forwards"] < len(alone)
    assert after["rows_at_work"] == 0


def test_a_forward_takes_fewer_rows_of_several_pictures(service, scored_rows):
    row = next(row for row in scored_rows.rows if isinstance(row.get("image"), list))
    before = service.get("/health").json()["forwards"]
    post(service, [row] * 8)
    assert len(row["image"]) == 2 and service.get("/health").json()["forwards"] - before == 2  # of 8


def test_pictures_may_come_as_bytes(service, scored_rows, picture_files):
    sent = {
        f"sent {name}": base64.b64encode(path.read_bytes()).decode() for name, path in picture_files.items()
    }
    sent = {
        name: text if place % 2 else f"data:image/png;base64,{text}"
        for place, (name, text) in enumerate(sent.items())
    }
    captions = {}
    rows = []
    for row in scored_rows.rows:
        if "captions" in row and "image" in row:
            image = row["image"]
            renamed = f"sent {image}" if isinstance(image, str) else [f"sent {name}" for name in image]
            row, captions[len(rows)] = {**row, "image": renamed}, row["captions"]
        rows.append(row)
    assert len(captions) >= 2
    assert post(service, rows, pictures=sent) == scored_rows.scores


def test_the_caller_orders_captions_where_no_prompt_does(service, scored_rows):
    row = {name: value for name, value in scored_rows.rows[0].items() if name not in ("prompt_row", "image")}
    first, second = ({**row, "captions": ["a red cat", "a big dog"][::step]} for step in (1, -1))
    one, other, again = post(service, [first, second, first])
    assert one == again and abs(one - other) > 1e-5


def test_known_to_be_unknown_is_no_miss(service, scored_rows):
    row = {"question": "what is in the picture?", "answer": "a cat.", "image": "unmapped.png"}
    refused = service.post("/v1/score", json={"rows": [row]})
    assert refused.status_code == 422 and "nothing is known about the image" in refused.text
    assert len(post(service, [{**row, "captions": []}])) == 1


def test_the_model_is_described_without_paths(service, reward_run, tiny_base):
    told = service.get("/v1/model").json()
    card = json.loads((reward_run / "reward_model.json").read_text())
    assert (told["version"], told["model"], told["base_model"]) == ("v1", reward_run.name, tiny_base.name)
    assert (told["prompt"], told["template"], told["reads_facts"]) == (card["prompt"], card["template"], True)
    assert told["limits"]["max_rows"] == 256
    assert str(reward_run.parent) not in json.dumps(told)


def test_an_ensemble_scores_as_with_the_program(tiny_data, reward_run, scored_rows, tmp_path):
    other = moved(reward_run, tmp_path / "other", seed=7)
    rows = scored_rows.rows[:4]
    argv = service_command(tiny_data, reward_run, more_reward_models=[other], ensemble_beta=0.5)
    with service_here(argv) as client:
        told = client.post("/v1/score", json={"rows": rows}).json()["rows"]
    with service_here(service_command(tiny_data, other)) as client:
        alone = post(client, rows)
    for row, own, others in zip(told, scored_rows.scores[:4], alone, strict=True):
        mean, spread = (own + others) / 2, abs(own - others) / 2
        assert row["members"] == [own, others]
        assert row["score"] == pytest.approx(mean - 0.5 * spread, abs=CLOSE)


def test_one_row_a_forward_is_exact_by_construction(tiny_data, reward_run, tmp_path, two_threads):
    """With several threads a picture's features depend on the pictures beside it, so that only rows alone are equal."""
    alone = score_rows(tiny_data, reward_run, tmp_path, count=8, batch_size=1)
    with service_here(service_command(tiny_data, reward_run, batch_size=1)) as client:
        assert post(client, alone.rows) == alone.scores

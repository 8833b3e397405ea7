"""OpenRLHF's and verl's requests, spelled as their code sends them: the same rows get the scores of `llava_rlhf.score`."""

from __future__ import annotations

import base64
import json

import pytest


def labelled(row):
    """A row as the label of a prompt, and its answer as OpenRLHF decodes it: prompt, answer, stop token, padding."""
    label = {name: value for name, value in row.items() if name not in ("answer", "stopped", "id")}
    prompt = f"USER: <image> {row['question']} ASSISTANT:"
    end = "" if row.get("stopped") is False else "</s><pad><pad>"
    return json.dumps(label), prompt, f"<s>{prompt} {row['answer']}{end}"


def test_openrlhf(service, scored_rows):
    labels, prompts, queries = zip(*map(labelled, scored_rows.rows), strict=True)
    body = {"query": queries, "prompts": prompts, "labels": labels}
    told = service.post("/v1/openrlhf", json=body).json()
    assert told["rewards"] == scored_rows.scores
    assert told["scores"] == told["rewards"] and told["extra_logs"] == {}


def test_openrlhf_with_the_picture_in_its_label(service, scored_rows, picture_files):
    place = next(n for n, row in enumerate(scored_rows.rows) if row.get("image") == "unmapped.png")
    text = base64.b64encode(picture_files["unmapped.png"].read_bytes()).decode()
    row = {**scored_rows.rows[place], "image": "mine", "pictures": {"mine": text}}
    label, prompt, query = labelled(row)
    # Another row's picture of the same name is another picture.
    other = {
        **scored_rows.rows[place],
        "image": "mine",
        "pictures": {"mine": base64.b64encode(picture_files["000000000000.jpg"].read_bytes()).decode()},
    }
    second = labelled(other)
    body = {"query": [query, second[2]], "prompts": [prompt, second[1]], "labels": [label, second[0]]}
    first, differs = service.post("/v1/openrlhf", json=body).json()["rewards"]
    assert first == scored_rows.scores[place] and abs(first - differs) > 1e-4


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"query": ["a b"]}, "prompts: must be a list of texts"),
        ({"query": ["a b"], "prompts": ["a"], "labels": []}, "1 query, 1 prompts and 0 labels"),
        (
            {"query": ["a b"], "prompts": ["a"], "labels": ["42"]},
            "field 'labels': value '42' — must be a row as JSON",
        ),
        ({"query": ["a b"], "prompts": ["c"], "labels": ["{}"]}, "must hold its entry of 'prompts'"),
        ({"query": ["a b"], "prompts": ["a"], "labels": ["{}"]}, "row 0, field 'question'"),
    ],
)
def test_openrlhf_is_told_what_is_missing(service, body, words):
    reply = service.post("/v1/openrlhf", json=body)
    assert reply.status_code == 422 and words in reply.json()["error"]["message"]


@pytest.mark.parametrize(("address", "field"), [("/classify", "probs"), ("/v1/embeddings", "embedding")])
def test_verl_asks_as_it_asks_vllm_and_sglang(service, scored_rows, address, field):
    for place in (0, 1, 3):
        asked = {"model": "any", "input": json.dumps(scored_rows.rows[place]), "use_activation": False}
        told = service.post(address, json=asked).json()
        assert told["data"][-1][field][-1] == scored_rows.scores[place]
    texts = [json.dumps(row) for row in scored_rows.rows[:3]]
    told = service.post(address, json={"model": "any", "input": texts}).json()
    assert [row[field][0] for row in told["data"]] == scored_rows.scores[:3]


def test_a_chat_without_pictures_is_no_row(service):
    reply = service.post("/classify", json={"model": "any", "input": "USER: hi ASSISTANT: hello"})
    assert reply.status_code == 422 and "a chat as text has neither pictures nor facts" in reply.text
    assert service.post("/classify", json={"model": "any", "input": []}).status_code == 422

"""Every way in which a reply can be no answer to its question is seen."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from llava_rlhf.engines.answer import AnswerCheck, WrongAnswerError, as_sample
from llava_rlhf.engines.request import generate_body, row_seeds, sampling_params
from models.generation import SamplingSettings

SETTINGS = SamplingSettings(max_new_tokens=3, stop_ids=(2, 8), pad_id=0, temperature=0.7, banned_ids=(3, 9))
PROMPT = [1, 3, 3, 7]
# As vLLM 0.32.0 sends it, without what is not read.
REPLY = {
    "request_id": "f02a",
    "model": "policy-step1-0a",
    "prompt_token_ids": PROMPT,
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "stop_reason": 2,
            "token_ids": [5, 2],
            "logprobs": {
                "content": [
                    {"token_id": 5, "logprob": -0.25, "rank": 1, "top_logprobs": []},
                    {"token_id": 2, "logprob": -1.5, "rank": 2, "top_logprobs": []},
                ]
            },
        }
    ],
}


def read(reply):
    return AnswerCheck(SETTINGS, vocab_size=20).read(reply, "policy-step1-0a", PROMPT)


def changed(**changes):
    """The reply with changed fields; those of the choice begin with `choice_`, `ids` changes tokens everywhere."""
    reply = copy.deepcopy(REPLY)
    choice = reply["choices"][0]
    for name, value in changes.items():
        if name == "ids":
            choice["token_ids"] = value
            choice["logprobs"]["content"] = [{"token_id": index, "logprob": -1.0} for index in value]
        elif name.startswith("choice_"):
            choice[name.removeprefix("choice_")] = value
        else:
            reply[name] = value
    return reply


def test_an_answer_is_read():
    answer = read(REPLY)
    assert answer.ids == [5, 2] and answer.log_probs == [-0.25, -1.5] and answer.finite
    assert read(changed(ids=[5, 6, 7], choice_finish_reason="length")).ids == [5, 6, 7]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("<html>", "no answer of /inference/v1/generate"),
        (changed(choices=[]), "no answer of /inference/v1/generate"),
        (changed(choice_logprobs=None), "no answer of /inference/v1/generate"),
        (changed(model="base"), "'base' answered, 'policy-step1-0a' was asked"),
        (changed(prompt_token_ids=[1, 3, 3, 3, 7]), "5 tokens, 4 were meant; from place 3 on"),
        (changed(prompt_token_ids=[1, 1, 3, 3, 7]), "from place 1 on"),
        (changed(prompt_token_ids=None), "0 tokens, 4 were meant"),
        (changed(choice_token_ids=[5, 6]), "its log-probabilities are of the tokens"),
        (changed(choice_finish_reason="abort"), "for the reason 'abort'"),
        (changed(ids=[20, 2]), "token 20 is not in the vocabulary of 20"),
        (changed(ids=[9, 2]), "token 9 was drawn, which is never to be"),
        (changed(ids=[]), "it has 0 tokens"),
        (changed(ids=[5, 5, 5, 2]), "it has 4 tokens, of 1 to 3"),
        (changed(ids=[8, 5, 2]), "goes on behind its stop token at place 0"),
        (changed(ids=[5, 6]), "'stop' after 2 of 3 tokens, without a stop token"),
        (changed(choice_finish_reason="length"), "'length' after 2 of 3 tokens, with a stop token"),
        (changed(ids=[5, 6], choice_finish_reason="length"), "'length' after 2 of 3 tokens, without"),
    ],
)
def test_what_is_no_answer_is_seen(reply, message):
    with pytest.raises(WrongAnswerError, match=message):
        read(reply)


@pytest.mark.parametrize("value", [-9999.0, None, math.inf])
def test_a_log_probability_that_is_none_is_known(value):
    reply = copy.deepcopy(REPLY)
    reply["choices"][0]["logprobs"]["content"][1]["logprob"] = value
    assert not read(reply).finite


def test_answers_become_a_batch():
    short, long = read(REPLY), read(changed(ids=[5, 6, 7], choice_finish_reason="length"))
    batch = as_sample([short, long], pad_id=0, device=torch.device("cpu"))
    assert batch.ids.tolist() == [[5, 2, 0], [5, 6, 7]]
    assert batch.mask.tolist() == [[True, True, False], [True] * 3]
    assert (
        batch.log_probs.tolist() == [[-0.25, -1.5, 0.0], [-1.0] * 3] and batch.finite.tolist() == [True] * 2
    )


def test_a_seed_belongs_to_its_row():
    uniforms = torch.rand(64, 5, generator=torch.Generator().manual_seed(0))
    seeds = row_seeds(uniforms)
    assert len(set(seeds)) == 64 and all(0 <= seed < 2**48 for seed in seeds)
    assert row_seeds(uniforms[[9, 3]]) == [seeds[9], seeds[3]]
    assert len(set(row_seeds(uniforms[:, :1]))) == 64  # answers of one token


def test_a_question_says_all_that_a_server_would_take_from_elsewhere():
    body = generate_body("name", (1, 3, 7), ["data:image/png;base64,x"], sampling_params(SETTINGS, 11))
    sampling = body["sampling_params"]
    assert body["token_ids"] == [1, 3, 7] and body["return_token_ids"] is True
    assert body["content_parts"] == [{"type": "image_url", "url": "data:image/png;base64,x"}]
    assert sampling["logit_bias"] == {"3": -100.0, "9": -100.0}
    assert sampling["stop_token_ids"] == [2, 8] and sampling["ignore_eos"] is True
    wanted = {
        "temperature": 0.7,
        "top_p": 1.0,
        "top_k": 0,
        "repetition_penalty": 1.0,
        "seed": 11,
        "max_tokens": 3,
    }
    assert wanted.items() <= sampling.items()
    assert "content_parts" not in generate_body("name", [1], (), sampling)

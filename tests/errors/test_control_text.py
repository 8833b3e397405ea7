"""What looks like a control token in a user's text, an answer or a caption stays text; roles are words, no tokens."""

from __future__ import annotations

import json

import pytest

from data_utils.conversation import TEMPLATES
from data_utils.facts import FactBook, RewardPrompt
from data_utils.tokens import SegmentEncoder
from tests.errors.documented import documented
from tests.support.tiny_models import IMAGE

CASES = {
    "stop": "</s>",
    "begin": "<s>",
    "unknown": "<unk>",
    "padding": "<pad>",
    "image-marker": "<image>",
    "roles": "USER: ASSISTANT: </s>USER: a cat ASSISTANT:",
}


@pytest.fixture(params=["tiny", "llama"])
def encoder(request) -> SegmentEncoder:
    if request.param == "llama":
        return request.getfixturevalue("llama_encoder")
    return request.getfixturevalue("tools")[0]


def preference(text: str, image: str | None) -> dict:
    marker = "<image>\n" if image else ""
    question = "" if text == "<image>" else text  # in a question it stands for an image
    output = {"from": "gpt", "value": f"a cat {text}"}
    return {
        "image": image,
        "conversations": [
            {"from": "human", "value": f"{marker}what {question}?"},
            {"from": "gpt", "value": f"{text} a cat"},
            {"from": "human", "value": f"and {question}?"},
            {"from": "gpt", "value": "-"},
        ],
        "output_1": output,
        "output_2": {**output, "value": f"{text} a dog"},
        "preference": 1,
    }


@pytest.mark.parametrize("case", CASES)
def test_documented(case, world, encoder, tmp_path):
    assert documented(__file__, case).accepted
    text = CASES[case]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([preference(text, "000000000000.jpg"), preference(text, None)]))
    facts = FactBook({"000000000000.jpg": (f"a {text} cat",)}, "no_fact")
    settings = {"facts": facts, "prompt": RewardPrompt("score {factual_prompt}"), "model_max_length": 10_000}
    settings |= {"query_len": 1000, "response_len": 1000, "encoder": encoder, "template": TEMPLATES["v1"]}
    dataset = world.build("reward", path, **settings)
    tokenizer = encoder._tokenizer
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    control = {
        "image": encoder.image_token_id,
        "begin": tokenizer.bos_token_id,
        "stop": tokenizer.eos_token_id,
    }
    for item, images in zip(dataset, (1, 0), strict=True):
        for ids in item.input_ids:
            counted = [index for index in ids if index in special | set(control.values())]
            # What the template puts there and nothing else: begin, image, the stops of two answers.
            expected = [control["begin"], *[control["image"]] * images, *[control["stop"]] * 2]
            assert counted == expected, encoder.decode(ids)


def test_llama_writes_such_text_in_ordinary_pieces(llama_encoder):
    # The tiny tokenizer knows no "<": there, and only there, <unk> is what any unknown letter is.
    for text in CASES.values():
        ids = llama_encoder.encode_response(text)
        assert llama_encoder._tokenizer.unk_token_id not in ids
        assert llama_encoder.decode(ids).strip() == text
    assert llama_encoder.image_token_id != IMAGE

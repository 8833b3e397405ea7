"""Ids of the converted processor, as Hugging Face alone uses it, against the recorded ones of LLaMA's tokenizer."""

from __future__ import annotations

import json
from itertools import repeat
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoProcessor

from data_utils.tokens import expand_image_tokens
from tests.parity.recordings import IMAGE_ID, ORIGINAL_IMAGE_ID, POSITIONS


def image(**where: str) -> dict[str, str]:
    return {"type": "image", **where}


def text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def conversation(*contents: str | list) -> list[dict]:
    """Messages of alternating roles, the user's first."""
    roles = ("user", "assistant")
    return [{"role": roles[index % 2], "content": content} for index, content in enumerate(contents)]


@pytest.fixture(scope="module")
def processor(golden, converted_base):
    return AutoProcessor.from_pretrained(converted_base)


def recorded(golden: Path, name: str):
    return json.loads((golden / "data" / name).read_text(encoding="utf-8"))


def test_recorded_probes(processor, golden):
    """Text behind a control token gets its "▁" like every chunk here; the slow tokenizer of then took it off again."""
    tokenizer = processor.tokenizer
    different = set()
    for probe in recorded(golden, "golden_tokenizer_probes.json"):
        with_begin = tokenizer(probe["text"]).input_ids
        assert with_begin == [1, *tokenizer(probe["text"], add_special_tokens=False).input_ids]
        if with_begin != probe["ids"]:
            different.add(probe["text"])
    assert different == {"ok</s>USER: hi ASSISTANT: yes</s>", "x</s>  </s>\nUSER <unk> <s>a <s> b"}


def test_recorded_image_questions(processor, golden):
    rows = recorded(golden, "golden_rl_q1024.json")["rows"]
    records = recorded(golden, "rl.json")
    assert len(rows) == len(records) == 10
    for row, record in zip(rows, records, strict=True):
        question = record["conversations"][0]["value"].replace("<image>", "")
        picture = image(path=str(golden / "images" / record["image"]))
        inputs = processor.apply_chat_template(
            conversation([picture, text_part(question)]),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        text = processor.apply_chat_template(
            conversation([image(), text_part(question)]), add_generation_prompt=True
        )
        with Image.open(golden / "images" / record["image"]) as opened:
            in_two_steps = processor(text=text, images=opened.convert("RGB"))
        assert in_two_steps.input_ids[0] == inputs.input_ids[0].tolist(), record["id"]
        expected = expand_image_tokens(
            [i for i in row["query"] if i != 0], ORIGINAL_IMAGE_ID, repeat([ORIGINAL_IMAGE_ID] * POSITIONS)
        )
        assert inputs.input_ids[0].tolist() == [
            IMAGE_ID if i == ORIGINAL_IMAGE_ID else i for i in expected
        ], record["id"]


def test_recorded_dialogues(processor, golden):
    """One turn: the recorded ids. Later turns: the same but for the "▁" of the first piece behind each stop."""
    tokenizer = processor.tokenizer
    us, prefixed_us = tokenizer.convert_tokens_to_ids(["US", "▁US"])
    turns_of = {row["id"]: row["conversations"] for row in recorded(golden, "sft.json")}
    later_turns = 0
    for row in recorded(golden, "golden_sft.json"):
        turns = turns_of[row["id"]]
        turns = turns if turns[0]["from"] == "human" else turns[1:]
        pictured = [image(), text_part(turns[0]["value"].replace("<image>", ""))]
        text = processor.apply_chat_template(conversation(pictured, *(turn["value"] for turn in turns[1:])))
        expected = [IMAGE_ID if i == ORIGINAL_IMAGE_ID else i for i in row["input_ids"]]
        for place, index in enumerate(expected):
            if expected[place - 1 : place] == [2]:
                assert index == us
                expected[place] = prefixed_us
                later_turns += 1
        assert tokenizer(text).input_ids == expected, row["id"]
    assert later_turns == 4

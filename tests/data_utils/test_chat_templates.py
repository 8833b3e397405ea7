"""Templates with tokens of their own: ids are those of the whole written conversation, and nothing typed becomes a token."""

from __future__ import annotations

import random

import pytest

from data_utils.conversation import TEMPLATES, dialogue_segments, query_segments
from data_utils.schema import IMAGE_MARKER, Turn
from data_utils.tokens import SegmentEncoder
from tests.support.tiny_families import QWEN_CHAT, QWEN_CONTROL, byte_tokenizer

CHAT = TEMPLATES["qwen2_5_vl"]
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
# What merges with its neighbours, and what looks like something else.
PARTS = ("what is", "\n", " ", "  a cat", "yes.", "\n\n", "the red", "?", "é", "<tag>", "1 2", "right. ")


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer(QWEN_CONTROL, "<|im_end|>", "<|endoftext|>")


@pytest.fixture(scope="module")
def encoder(tokenizer) -> SegmentEncoder:
    return SegmentEncoder(tokenizer, tokenizer.convert_tokens_to_ids("<|image_pad|>"))


def written(tokenizer, turns: list[Turn], n_images: int, asks: bool) -> str:
    """The conversation by the chat template of the released models; images stand in front of the first question."""
    messages = []
    for number, turn in enumerate(turns):
        text = turn.text.replace(IMAGE_MARKER, "")
        parts = [{"type": "text", "text": text.strip() if number == 0 and n_images else text}]
        images = [{"type": "image"}] * (n_images if number == 0 else 0)
        role = "user" if turn.role == "human" else "assistant"
        messages.append({"role": role, "content": [*images, *parts]})
    return tokenizer.apply_chat_template(
        messages, chat_template=QWEN_CHAT, tokenize=False, add_generation_prompt=asks
    )


def dialogues(count: int):
    chance = random.Random(1)

    def text() -> str:
        return "".join(chance.choices(PARTS, k=3)).strip() or "x"

    for _ in range(count):
        n_images = chance.choice([0, 1, 2])
        turns = [Turn("human", IMAGE_MARKER * n_images + text()), Turn("gpt", text())]
        if chance.random() < 0.5:
            turns += [Turn("human", text()), Turn("gpt", text())]
        yield turns, n_images


def test_ids_are_those_of_the_whole_text_and_a_query_is_its_beginning(tokenizer, encoder):
    for turns, n_images in dialogues(200):
        tokens = encoder.encode(dialogue_segments(CHAT, turns, n_images))
        text = written(tokenizer, turns, n_images, asks=False).replace(IMAGE, "<|image_pad|>")
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert list(tokens.ids) == expected[: len(tokens.ids)]
        assert tokenizer.decode(expected[len(tokens.ids) :]) == "\n"  # behind the last stop
        query = encoder.encode(query_segments(CHAT, turns[:-1], n_images))
        asked = written(tokenizer, turns[:-1], n_images, asks=True).replace(IMAGE, "<|image_pad|>")
        assert list(query.ids) == tokenizer(asked, add_special_tokens=False)["input_ids"]
        assert tokens.ids[: len(query.ids)] == query.ids
        answers = "".join(f"{turn.text}<|im_end|>" for turn in turns if turn.role == "gpt")
        spans = [index for index, loss in zip(tokens.ids, tokens.supervised, strict=True) if loss]
        assert tokenizer.decode(spans) == answers


def test_tokens_that_are_typed_are_text(tokenizer, encoder):
    typed = " ".join(QWEN_CONTROL)
    for text in ("x", typed):
        turns = [Turn("human", text), Turn("gpt", text), Turn("human", text)]
        segments = query_segments(CHAT, turns, 1)
        found = [index for index in encoder.encode(segments).ids if index < len(QWEN_CONTROL)]
        assert (
            len(found) == 10
        )  # two a turn of system, question, answer, question; one that begins the last; one image
    assert tokenizer.decode(encoder.encode_behind(CHAT.answer(typed))) == typed


def test_the_reward_prompt_is_one_more_question(tokenizer, encoder):
    turns = [Turn("human", "what?"), Turn("gpt", "a cat")]
    dialogue = encoder.encode(dialogue_segments(CHAT, turns, 0)).ids
    behind = encoder.encode_behind(CHAT.reward_prompt(" is it good?"))
    asked = [*turns, Turn("human", "is it good?")]
    assert [*dialogue, *behind] == list(encoder.encode(query_segments(CHAT, asked, 0)).ids)

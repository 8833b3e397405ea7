"""`--version chat`: a base's own template in pieces. Ids are those of the whole written conversation, and what can't be is refused."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from data_utils.conversation import ChatTemplate, dialogue_segments, query_segments
from data_utils.schema import IMAGE_MARKER, Turn
from data_utils.tokens import SegmentEncoder
from llava_rlhf.assembly.chat_templates import read_pieces
from tests.support.chat_templates import (
    LLAVA_CHAT,
    MISTRAL_CHAT_AT_FIRST,
    PUBLISHED,
    Published,
    write_template,
)
from tests.support.tiny_families.qwen import QWEN_CHAT

# What merges with its neighbours, and what looks like something else.
PARTS = ("what is", "\n", " ", "  a cat", "yes.", "\n\n", "the red", "?", "é", "<tag>", "1 2", "right. ")


@dataclass(frozen=True)
class Read:
    """A published template in pieces."""

    published: Published
    tokenizer: PreTrainedTokenizerFast
    encoder: SegmentEncoder
    template: ChatTemplate

    def written(self, turns: list[Turn]) -> str:
        """By the template itself, one token a picture; it waits for an answer behind a question."""
        messages = []
        for turn in turns:
            pictures, text = turn.text.count(IMAGE_MARKER), turn.text.replace(IMAGE_MARKER, "")
            parts = [{"type": "image"}] * pictures + [{"type": "text", "text": text}]
            messages.append({"role": {"human": "user", "gpt": "assistant"}[turn.role], "content": parts})
        text = self.tokenizer.apply_chat_template(
            messages,
            chat_template=self.published.source,
            tokenize=False,
            add_generation_prompt=turns[-1].role == "human",
        )
        return self.published.written(text)

    def whole(self, text: str) -> list[int]:
        """Ids of a whole text, as the processor would have them: with one begin-of-text token, if any."""
        bos = self.tokenizer.bos_token
        begun = bos is not None and text.startswith(bos)
        return self.tokenizer(text, add_special_tokens=not begun)["input_ids"]


def read(folder: Path, published: Published, source: str | None = None, system: str | None = None) -> Read:
    tokenizer = published.tokenizer()
    family = published.family(tokenizer)
    encoder = SegmentEncoder(tokenizer, family.image_token_id)
    write_template(folder, source or published.source)
    return Read(published, tokenizer, encoder, read_pieces(folder, tokenizer, encoder, family, system))


@pytest.fixture(scope="module", params=PUBLISHED)
def found(request, tmp_path_factory) -> Read:
    return read(tmp_path_factory.mktemp(request.param), PUBLISHED[request.param])


def dialogues(count: int) -> Iterator[tuple[list[Turn], int]]:
    chance = random.Random(1)

    def text() -> str:
        return "".join(chance.choices(PARTS, k=3)).strip() or "x"

    for _ in range(count):
        counts = chance.choice([(0,), (1,), (2,), (0, 0), (1, 0), (2, 1), (0, 2)])
        yield (
            [
                turn
                for n in counts
                for turn in (Turn("human", IMAGE_MARKER * n + text()), Turn("gpt", text()))
            ],
            sum(counts),
        )


def test_ids_are_those_of_the_whole_text_and_a_query_is_its_beginning(found):
    template, encoder = found.template, found.encoder
    for turns, n_images in dialogues(200):
        tokens = encoder.encode(dialogue_segments(template, turns, n_images))
        expected = found.whole(found.written(turns))
        assert list(tokens.ids) == expected[: len(tokens.ids)]
        assert found.tokenizer.decode(expected[len(tokens.ids) :]).strip() == ""  # behind the last stop
        query = encoder.encode(query_segments(template, turns[:-1], n_images))
        assert list(query.ids) == found.whole(found.written(turns[:-1]))
        assert tokens.ids[: len(query.ids)] == query.ids
        answers = "".join(
            f"{template.lead}{turn.text}{template.stop}" for turn in turns if turn.role == "gpt"
        )
        spans = [index for index, loss in zip(tokens.ids, tokens.supervised, strict=True) if loss]
        assert found.tokenizer.decode(spans) == answers


def test_tokens_that_are_typed_are_text(found):
    counts = []
    control = {index for index, token in found.tokenizer.added_tokens_decoder.items() if token.special}
    typed = " ".join(found.tokenizer.get_added_vocab())
    for text in ("x", typed):
        asked = text.replace(IMAGE_MARKER, "")  # of rows, which is taken out
        turns = [Turn("human", asked), Turn("gpt", text), Turn("human", asked)]
        ids = found.encoder.encode(query_segments(found.template, turns, 1)).ids
        counts.append(sum(index in control for index in ids))
    assert counts[0] == counts[1] > 0


def test_the_reward_prompt_is_one_more_question(found):
    turns = [Turn("human", "what?"), Turn("gpt", "a cat")]
    dialogue = found.encoder.encode(dialogue_segments(found.template, turns, 0)).ids
    behind = found.encoder.encode_behind(found.template.reward_prompt(" is it good?"))
    asked = [*turns, Turn("human", "is it good?")]
    assert [*dialogue, *behind] == list(found.encoder.encode(query_segments(found.template, asked, 0)).ids)


def test_a_text_begins_with_one_token_at_most(found):
    ids = found.encoder.encode(query_segments(found.template, [Turn("human", "what?")], 0)).ids
    assert ids.count(found.tokenizer.bos_token_id) == (found.tokenizer.bos_token_id is not None)


def test_white_space_is_left_out_where_the_template_does(tmp_path):
    for name, trims in (("gemma3", True), ("qwen3_vl", False)):
        found = read(tmp_path / name, PUBLISHED[name])
        turns = [Turn("human", "  what?\n"), Turn("gpt", "\n yes ")]
        ids = list(found.encoder.encode(dialogue_segments(found.template, turns, 0)).ids)
        assert found.template.trims is trims and ids == found.whole(found.written(turns))[: len(ids)]


@pytest.mark.parametrize(
    ("name", "opening"),
    [
        ("qwen2_5_vl", "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"),
        ("internvl3", "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"),
        ("smolvlm", "<|im_start|>System: Be brief.<end_of_utterance>\nUser: "),
        ("gemma3", "<bos><start_of_turn>user\nBe brief.\n\n"),
        ("llava_next_mistral", "<<SYS>>\nBe brief.\n<</SYS>>\n\n[INST] "),
    ],
)
def test_a_system_message_stands_where_the_template_puts_it(name, opening, tmp_path):
    plain, told = (
        read(tmp_path / "a", PUBLISHED[name]),
        read(tmp_path / "b", PUBLISHED[name], system="Be brief."),
    )
    assert told.template.first == opening != plain.template.first
    assert told.template.later == plain.template.later


NO_SYSTEM = QWEN_CHAT.replace(
    "{% for message in messages %}", "{% for message in messages if message.role != 'system' %}"
)
THINKING = QWEN_CHAT.replace(
    "{% endfor %}{% endif %}<|im_end|>", "{% endfor %}{% endif %}{{ 'so' if loop.last }}<|im_end|>"
)
REFUSED = {
    "rewritten": (THINKING, "writes a question otherwise once it is answered"),
    "first of two": (
        QWEN_CHAT.replace("{{ part.text }}", "{{ part.text if loop.last and not loop.revindex0 else 'cut' }}")
        .replace("loop.last and", "messages | length < 3 and"),
        "does not write every question and answer once, in their order",
    ),
    "no token ends": (QWEN_CHAT.replace("<|im_end|>\n{% endfor %}", "\n{% endfor %}"), "ends an answer with no token"),
    "old Mistral": (MISTRAL_CHAT_AT_FIRST, "ends an answer with no token, so that none would ever stop"),
    "released LLaVA 1.5": (LLAVA_CHAT, "ends an answer with no token, so that none would ever stop"),
    "pictures counted": (
        QWEN_CHAT.replace("<|vision_start|>", "Picture {{ loop.index }}: <|vision_start|>"),
        "writes pictures elsewhere than one behind the other in front of their question, or not as '<|vision_start|>",
    ),
    "pictures left out": (QWEN_CHAT.replace("<|vision_start|><|image_pad|><|vision_end|>", ""), "writes pictures elsewhere"),
    "pictures behind": (QWEN_CHAT.replace("in message.content %}", "in message.content | reverse %}"), "writes pictures elsewhere"),
    "no program": ("{% for", "can't be rendered (TemplateSyntaxError"),
    "third question": (
        QWEN_CHAT.replace("{{ message.role }}\n", "{{ message.role if loop.index < 5 else 'again' }}\n"),
        "can't be written from fixed pieces",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_taken_apart_is_refused_with_the_reason(case, tmp_path):
    source, reason = REFUSED[case]
    name = "llava_next_mistral" if "[INST]" in source or "ASSISTANT" in source else "qwen2_5_vl"
    with pytest.raises(
        ValueError, match=f"chat template of .*{re.escape(reason)}.*; choose a base with a plainer"
    ):
        read(tmp_path, PUBLISHED[name], source)


def test_a_base_without_a_template_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"has no chat template \(looked for chat_template\.jinja, .*--version v1"
    ):
        read_pieces(tmp_path, None, None, None, None)


@pytest.mark.parametrize(
    ("name", "source", "message", "reason"),
    [
        ("qwen2_5_vl", NO_SYSTEM, "Be brief.", "has no place for it"),
        ("qwen2_5_vl", QWEN_CHAT, "Be <|im_end|> brief.", "'<|im_end|>' is a token of"),
        ("qwen2_5_vl", QWEN_CHAT, " ", "has no place for it"),
        ("llava_as_exported", PUBLISHED["llava_as_exported"].source, "Be brief.", "can't be rendered with the message"),
    ],
)  # fmt: skip
def test_a_system_message_without_a_place_is_refused(name, source, message, reason, tmp_path):
    with pytest.raises(ValueError, match=re.escape(reason)):
        read(tmp_path, PUBLISHED[name], source, message)

"""Tokenizer, chat template and processor of converted models, against sentencepiece and our own templates."""

from __future__ import annotations

import json

import pytest
import torch
from sentencepiece import SentencePieceProcessor
from transformers import AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from data_utils.conversation import (
    TEMPLATES,
    ConversationTemplate,
    Segment,
    dialogue_segments,
    query_segments,
)
from data_utils.images import ImagePipeline
from data_utils.schema import Turn
from data_utils.tokens import SegmentEncoder, expand_image_tokens
from llava_rlhf.conversion.base_model import plan_base
from llava_rlhf.conversion.plain_files import chat_template
from llava_rlhf.conversion.processor_files import build_tokenizer
from models.vlm import BaseSettings, load_base, load_image_processor, load_tokenizer
from tests.support.original_models import write_json

IMAGE = {"type": "image"}
TEXTS = [
    "What is in the field?",
    " a  brown   dog",
    "two\nlines",
    "",
    "</s> typed",
    "7.5 = seven and a half, ünïcödé 犬",
]


def text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def conversation(*contents: str | list, generate: bool) -> list[dict]:
    """Messages of alternating roles; `generate` only says that the last one is a question."""
    assert len(contents) % 2 == generate
    roles = ("user", "assistant")
    return [{"role": roles[index % 2], "content": content} for index, content in enumerate(contents)]


def joined(segments: list[Segment]) -> str:
    return "".join(segment.text for segment in segments)


@pytest.fixture(scope="module")
def processor(converted):
    return AutoProcessor.from_pretrained(converted.output)


# --- a small tokenizer made here


def test_ids_are_those_of_sentencepiece_with_a_begin_in_front(converted):
    tokenizer = AutoTokenizer.from_pretrained(converted.output)
    pieces = SentencePieceProcessor(str(converted.source / "tokenizer.model"))
    for text in TEXTS:
        if (
            "</s>" not in text
        ):  # a control token when a tokenizer is used plainly, four characters in our encoder
            assert tokenizer(text).input_ids == [1, *pieces.encode(text)], text
            assert tokenizer(text, add_special_tokens=False).input_ids == pieces.encode(text), text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)
    assert (tokenizer.convert_tokens_to_ids("<image>"), len(tokenizer)) == (380, 381)


def test_a_batch_of_prompts_is_padded_on_the_left(converted):
    tokenizer = AutoTokenizer.from_pretrained(converted.output)
    batch = tokenizer(["a dog", "a"], padding=True, return_tensors="pt")
    assert batch.input_ids[1, 0] == 0 and batch.attention_mask[1, 0] == 0
    assert batch.input_ids[0, 0] == 1 and batch.attention_mask[0].all()


def test_our_encoder_gives_the_ids_of_the_bare_tokenizer(converted):
    encoder = SegmentEncoder(load_tokenizer(converted.output), 380)
    turns = [Turn("human", "What is this?"), Turn("gpt", "A dog."), Turn("human", "</s> typed")]
    segments = query_segments(TEMPLATES["v1"], turns, 1)
    bare = PreTrainedTokenizerFast(tokenizer_object=build_tokenizer(converted.source).backend_tokenizer)
    bare.backend_tokenizer.post_processor = None
    bare.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    assert encoder.encode(segments) == SegmentEncoder(bare, 380).encode(segments)
    assert encoder.encode(segments).ids[0] == 1 and 380 in encoder.encode(segments).ids


def test_a_tokenizer_json_and_added_tokens_are_read_too(pair):
    build_tokenizer(pair.source).save_pretrained(pair.source)
    (pair.source / "tokenizer.model").unlink()
    config = json.loads((pair.source / "config.json").read_text())
    again = build_tokenizer(pair.source)
    assert again("a dog").input_ids == build_tokenizer(pair.source)("a dog").input_ids
    assert again.convert_tokens_to_ids("<image>") == 380

    write_json(pair.source / "added_tokens.json", {"<second>": 382, "<first>": 381})
    grown = build_tokenizer(pair.source)
    assert [grown.convert_tokens_to_ids(token) for token in ("<first>", "<second>")] == [381, 382]
    write_json(pair.source / "config.json", config | {"vocab_size": 380})
    write_json(pair.source / "added_tokens.json", {"<second>": 385})
    with pytest.raises(ValueError, match=r"added_tokens\.json: '<second>' has id 385.*381"):
        plan_base(pair.source, pair.tower)


# --- the chat template


@pytest.mark.parametrize(
    "name", sorted(name for name, known in TEMPLATES.items() if isinstance(known, ConversationTemplate))
)
@pytest.mark.parametrize("question", ["What is this?", "  spaces kept without an image  ", "a\nb"])
def test_a_rendered_text_is_the_joined_segments(processor, name, question):
    template = TEMPLATES[name]

    def render(messages, generate):
        return processor.apply_chat_template(
            messages, chat_template=chat_template(template), add_generation_prompt=generate
        )

    alone = [Turn("human", question)]
    expected = joined(query_segments(template, alone, 0))
    assert render(conversation(question, generate=True), True) == expected
    assert render(conversation([text_part(question)], generate=True), True) == expected
    pictured = [Turn("human", f"<image>\n{question}")]
    content = [IMAGE, text_part(question)]
    assert render(conversation(content, generate=True), True) == joined(query_segments(template, pictured, 1))
    dialogue = [*pictured, Turn("gpt", "A dog."), Turn("human", "Sure?"), Turn("gpt", "Yes.")]
    assert render(
        conversation(content, "A dog.", [text_part("Sure?")], [text_part("Yes.")], generate=False), False
    ) == joined(dialogue_segments(template, dialogue, 1))
    longer = [*dialogue, Turn("human", "<image><image>")]
    assert render(
        conversation(content, "A dog.", "Sure?", "Yes.", [IMAGE, IMAGE], generate=True), True
    ) == joined(query_segments(template, longer, 3))


def test_roles_must_alternate(processor):
    for roles in (["assistant"], ["user", "user"], ["system", "user"]):
        with pytest.raises(Exception, match="roles must alternate"):
            processor.apply_chat_template([{"role": role, "content": "x"} for role in roles])


def test_an_image_question_through_hugging_face_alone(converted, processor, tmp_path):
    """Processor and model as a stranger uses them, against our encoder, image pipeline and model."""
    from PIL import Image

    Image.effect_noise((90, 60), 80).convert("RGB").save(tmp_path / "i.png")
    messages = conversation([IMAGE | {"path": str(tmp_path / "i.png")}, text_part("What is in the field?")], generate=True)  # fmt: skip
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    encoder = SegmentEncoder(load_tokenizer(converted.output), 380)
    ids = encoder.encode(query_segments(TEMPLATES["v1"], [Turn("human", "What is in the field?")], 1)).ids
    assert inputs.input_ids[0].tolist() == expand_image_tokens(ids, 380, [[380] * 25])
    assert (inputs.input_ids == 1).sum() == 1
    with Image.open(tmp_path / "i.png") as image:
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
        in_two_steps = processor(text=text, images=image, return_tensors="pt")
    assert torch.equal(in_two_steps.input_ids, inputs.input_ids)
    assert torch.equal(in_two_steps.pixel_values, inputs.pixel_values)
    pixels = ImagePipeline(load_image_processor(converted.output), "pad")(tmp_path, ["i.png"]).pixels
    torch.testing.assert_close(inputs.pixel_values, pixels, rtol=0, atol=0)
    assert pixels.shape == (1, 3, 70, 70)
    model = LlavaForConditionalGeneration.from_pretrained(converted.output, dtype=torch.float32).eval()
    vlm = load_base(converted.output, BaseSettings(bits=32))
    with torch.no_grad():
        theirs = model(**inputs).logits
        features = vlm.encode_images(pixels, torch.tensor([0]))
        ours = vlm.project(vlm(inputs.input_ids, inputs.attention_mask.bool(), features))
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)

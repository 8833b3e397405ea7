"""Which tokens end an answer."""

from __future__ import annotations

import json

import pytest

from data_utils.conversation import TEMPLATES
from data_utils.tokens import SegmentEncoder
from llava_rlhf.assembly.chat_templates import read_pieces
from llava_rlhf.assembly.template_files import stop_ids
from tests.support.chat_templates import PUBLISHED, gemma_tokenizer, write_template


@pytest.mark.parametrize(
    ("told", "others"),
    [(None, []), ({}, []), ({"eos_token_id": None}, []), ({"eos_token_id": 0}, [0]), ({"eos_token_id": [1, 5, 7]}, [7])],
)  # fmt: skip
def test_an_answer_ends_with_every_token_that_a_base_names(told, others, tmp_path):
    gemma, tokenizer = PUBLISHED["gemma3"], gemma_tokenizer()
    write_template(tmp_path, gemma.source)
    if told is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(told))
    family = gemma.family(tokenizer)
    encoder = SegmentEncoder(tokenizer, family.image_token_id)
    template = read_pieces(tmp_path, tokenizer, encoder, family, None)
    end_of_turn, eos = tokenizer.convert_tokens_to_ids(["<end_of_turn>", "<eos>"])
    assert stop_ids(tmp_path, tokenizer, template) == (end_of_turn, eos, *others)
    assert stop_ids(tmp_path, tokenizer, TEMPLATES["v1"]) == (eos,)


@pytest.mark.parametrize("text", ['{"eos_token_id": "</s>"}', '{"eos_token_id": [true]}', "[", "[]"])
def test_what_names_no_tokens_is_refused(text, tmp_path):
    gemma, tokenizer = PUBLISHED["gemma3"], gemma_tokenizer()
    write_template(tmp_path, gemma.source)
    (tmp_path / "generation_config.json").write_text(text)
    family = gemma.family(tokenizer)
    encoder = SegmentEncoder(tokenizer, family.image_token_id)
    template = read_pieces(tmp_path, tokenizer, encoder, family, None)
    with pytest.raises(ValueError, match=r"generation_config\.json.*(correct it|fetch the base again)"):
        stop_ids(tmp_path, tokenizer, template)

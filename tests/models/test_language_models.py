"""Every language model that a base may have (`models.families.llava_files`) computes what Hugging Face's does."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoConfig, LlavaConfig, LlavaForConditionalGeneration

from models.adapters import AdapterBank, AdapterSpec
from models.base_check import check_base
from models.families.llava_files import LANGUAGE_MODELS
from models.generation import SamplingSettings, sample
from models.settings import LoraSettings
from models.vlm import BaseSettings, load_base
from tests.models.tiny_rows import MIXED, PIXELS, pad
from tests.support.tiny_models import PAD, STOP

NEW = 6


@pytest.fixture(params=LANGUAGE_MODELS)
def base(request, tiny_base, tmp_path):
    """The tiny base with another language model of the same sizes."""
    folder = shutil.copytree(tiny_base, tmp_path / request.param)
    fields = json.loads((folder / "config.json").read_text())
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    kept += ("num_key_value_heads", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")
    text = AutoConfig.for_model(request.param, **{name: fields["text_config"][name] for name in kept})
    config = LlavaConfig.from_dict({**fields, "text_config": text.to_dict()})
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
    model.save_pretrained(folder)
    return folder


def test_logits_and_sampling_are_hugging_faces(base):
    check_base(base)
    theirs = LlavaForConditionalGeneration.from_pretrained(base, dtype=torch.float32).eval()
    vlm = load_base(base, BaseSettings())
    batch = pad(MIXED)
    pixels = PIXELS[batch.image_index]

    def their_logits(ids, mask):
        return theirs(ids, pixel_values=pixels, attention_mask=mask.long()).logits

    with torch.no_grad():
        features = vlm.encode_images(PIXELS, batch.image_index)
        ours = vlm.project(vlm(batch.input_ids, batch.mask, features))
        expected = their_logits(batch.input_ids, batch.mask)
        assert_close(ours[batch.mask], expected[batch.mask], rtol=1e-5, atol=1e-5)
        settings = SamplingSettings(NEW, (STOP,), PAD, 0.0, ())
        sampled = sample(
            vlm, batch.input_ids, batch.mask, features, settings, torch.rand(len(batch.mask), NEW)
        )
        ids, mask = batch.input_ids, batch.mask
        for column in range(NEW):
            real = sampled[1][:, column]
            chosen = their_logits(ids, mask)[:, -1].argmax(-1)
            assert torch.equal(chosen[real], sampled[0][:, column][real])
            ids = torch.cat([ids, sampled[0][:, column : column + 1]], dim=1)
            mask = torch.cat([mask, real[:, None]], dim=1)


def test_adapters_go_on_all_its_layers(base):
    bank = AdapterBank(load_base(base, BaseSettings()), {"policy": AdapterSpec(LoraSettings(r=2), True)})
    assert len(bank.parameters_of("policy")) == 2 * 7 * 2

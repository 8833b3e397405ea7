"""Bases that are planned from the configuration in their folder: every language model that can be loaded."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

from llava_rlhf import plan_memory
from llava_rlhf.memory_planning.bases import BaseSpec
from llava_rlhf.memory_planning.weights import adapter_numbers, base_parts
from models.adapters import AdapterBank, AdapterSpec
from models.decoding_cache import DecodingCache
from models.settings import LoraSettings
from models.vlm import VisionLanguageModel
from tests.support.tiers import tiered

FAMILIES = ("Llama", "Mistral", "Qwen2")
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
VISION |= {"image_size": 28, "patch_size": 14, "projection_dim": 16}
TEXT = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
TEXT |= {"num_attention_heads": 4}
LORA = LoraSettings(r=4)


def llava_of(family: str, **text: object) -> LlavaConfig:
    """A tiny LLaVA around a language model of this family."""
    config = getattr(transformers, f"{family}Config")(**TEXT | text)
    vision = CLIPVisionConfig(**VISION)
    return LlavaConfig(text_config=config, vision_config=vision, image_token_index=300, image_seq_length=4)


@pytest.fixture(params=tiered(FAMILIES, quick=["Llama", "Qwen2"], daily=()))
def config(request) -> LlavaConfig:
    return llava_of(request.param, num_key_value_heads=2)


def test_weights_and_adapters_of_a_family_are_those_of_the_real_model(config):
    model = LlavaForConditionalGeneration(config)
    base = BaseSpec.of("it", config)
    assert sum(part.size for part in base_parts(base)) == 4 * sum(w.numel() for w in model.parameters())
    bank = AdapterBank(VisionLanguageModel(model), {"one": AdapterSpec(LORA, trainable=True)}, False)
    trained = sum(weight.numel() for weight in bank.parameters() if weight.requires_grad)
    assert sum(adapter_numbers(base, LORA)) == trained


def test_keys_and_values_of_a_family_are_those_that_it_keeps(config):
    vlm, cache = VisionLanguageModel(LlavaForConditionalGeneration(config).eval()), DecodingCache()
    vlm(torch.arange(5)[None], torch.ones(1, 5, dtype=torch.bool), past_key_values=cache)
    kept = [(keys.shape, values.shape) for keys, values in ((c.keys, c.values) for c in cache.layers)]
    heads, channels = BaseSpec.of("it", config).cached_heads
    assert len(kept) == TEXT["num_hidden_layers"]
    for keys, values in kept:
        assert (keys[1], keys[3]) == (values[1], values[3]) == (heads, channels)


@pytest.mark.parametrize(
    "program",
    tiered(
        ["train_reward_model", "initialize_policy_model", "train_rl_model"], quick=["initialize_policy_model"]
    ),
)
def test_a_family_is_planned_from_its_folder(config, program, tmp_path):
    config.save_pretrained(tmp_path)
    base = "base_model_name" if program == "train_rl_model" else "model_name_or_path"
    lengths = ["--query_len", "24", "--response_len", "16", "--model_max_length", "48"]
    planned = plan_memory.prepare([program, f"--{base}", str(tmp_path), "--bits", "4", *lengths]).planned
    ((_, plan),) = planned
    assert plan.title.endswith(tmp_path.name) and all(phase.size > 0 for phase in plan.phases)


@pytest.mark.parametrize("family", ["Phi", "GPTNeoX", "Qwen3"])
def test_a_family_that_can_not_be_loaded_is_refused_by_name(family, tmp_path):
    config = llava_of(family)
    config.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=f"language model '{config.text_config.model_type}' is not supported"
    ):
        BaseSpec.in_folder(tmp_path)


def test_heads_that_a_configuration_does_not_state_are_those_of_attention():
    config = llava_of("Qwen2", num_key_value_heads=4)
    assert not hasattr(config.text_config, "head_dim")
    assert BaseSpec.of("it", config).cached_heads == (4, 64 // 4)

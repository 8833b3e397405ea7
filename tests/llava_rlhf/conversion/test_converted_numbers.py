"""Converted models against the original's tensors put into plain LLaMA and CLIP classes, with the projector by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPModel, CLIPVisionModel, LlamaForCausalLM, LlavaForConditionalGeneration

from llava_rlhf.conversion.base_model import plan_base
from models.vlm import BaseSettings, load_base
from tests.support.original_models import (
    OriginalShape,
    language_weights,
    tower_weights,
    write_json,
    write_original,
    write_tower,
    write_weights,
)

IDS = [1, 100, 200, 300, 17, 42, 5]  # no image
IMAGE_AT = 3


def plain_logits(
    shape: OriginalShape, weights: dict[str, Tensor], tower: dict[str, Tensor], pixels: Tensor | None
) -> Tensor:
    """Logits float[L, V] of `IDS` with the image, if any, at `IMAGE_AT`: what the original computes, written out."""
    language = LlamaForCausalLM(shape.text_config())
    own = {
        name: value.float()
        for name, value in weights.items()
        if "mm_projector" not in name and "inv_freq" not in name
    }
    language.load_state_dict(own)
    vision = CLIPVisionModel(shape.vision_config())
    prefix = "vision_model." if next(iter(vision.state_dict())).startswith("vision_model.") else ""
    vision.load_state_dict(
        {
            prefix + name.removeprefix("vision_model."): value.float()
            for name, value in tower.items()
            if "position_ids" not in name
        }
    )
    embeds = language.get_input_embeddings()(torch.tensor(IDS))
    with torch.no_grad():
        if pixels is not None:
            hidden = vision(pixels.unsqueeze(0), output_hidden_states=True).hidden_states[-2][0, 1:]
            features = project(hidden, {k.split("mm_projector.")[1]: v.float() for k, v in weights.items() if "mm_projector" in k})  # fmt: skip
            embeds = torch.cat([embeds[:IMAGE_AT], features, embeds[IMAGE_AT:]])
        return language(inputs_embeds=embeds.unsqueeze(0)).logits[0]


def project(hidden: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """LLaVA's two projectors: x W + b, and the same twice with the exact GELU between."""
    if "weight" in weights:
        return hidden @ weights["weight"].T + weights["bias"]
    inner = nn.functional.gelu(hidden @ weights["0.weight"].T + weights["0.bias"])
    return inner @ weights["2.weight"].T + weights["2.bias"]


def converted_logits(folder: Path, pixels: Tensor | None) -> Tensor:
    """Logits float[L, V + added] of the same row by the classes that training uses."""
    vlm = load_base(folder, BaseSettings(bits=32))
    ids, features = list(IDS), None
    if pixels is not None:
        ids[IMAGE_AT:IMAGE_AT] = vlm.family.placeholder(())
        features = vlm.encode_images(pixels.unsqueeze(0), torch.tensor([0]))
    with torch.no_grad():
        row = torch.tensor([ids])
        return vlm.project(vlm(row, torch.ones_like(row, dtype=torch.bool), features))[0]


def pixels_of(shape: OriginalShape) -> Tensor:
    return torch.randn(3, shape.image_size, shape.image_size, generator=torch.Generator().manual_seed(9))


def assert_computes_the_same(shape: OriginalShape, folder: Path, weights: dict, tower: dict) -> None:
    for pixels in (pixels_of(shape), None):
        expected = plain_logits(shape, weights, tower, pixels)
        found = converted_logits(folder, pixels)[:, : shape.vocab_size]
        assert expected.std() > 0.5  # the comparison below is of something
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)


def test_three_shards_and_two_projector_layers(converted):
    assert_computes_the_same(
        converted.shape, converted.output, language_weights(converted.shape), tower_weights(converted.shape)
    )


def test_one_linear_projector_other_sizes_and_safetensors(tmp_path):
    shape = OriginalShape(hidden=64, layers=3, key_value_heads=4, image_size=56, projector="linear", seed=5)
    source = write_original(tmp_path / "original", shape, shards=2, ending="safetensors", index=False)
    config = json.loads((source / "config.json").read_text())
    del config["mm_projector_type"]  # older files do not name the linear one
    write_json(source / "config.json", config | {"model_type": "llava_llama"})
    plan_base(source, write_tower(tmp_path / "tower", shape)).write(tmp_path / "converted")
    assert_computes_the_same(shape, tmp_path / "converted", language_weights(shape), tower_weights(shape))


def test_tower_weights_inside_the_original_go_before_those_beside_it(pair):
    own = tower_weights(replace(pair.shape, seed=77))
    inside = {f"model.vision_tower.vision_tower.{name}": value for name, value in own.items()}
    write_weights(pair.source, language_weights(pair.shape) | inside, ending="safetensors")
    plan_base(pair.source, pair.tower).write(pair.output)
    assert_computes_the_same(pair.shape, pair.output, language_weights(pair.shape), own)


def test_the_vision_half_of_a_whole_clip_model(pair):
    vision = pair.shape.vision_config().to_dict()
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {"model_type": "clip", "vision_config": vision, "text_config": text | {"vocab_size": 50}}
    write_json(pair.tower / "config.json", config)
    clip = CLIPModel(CLIPModel.config_class(**{k: v for k, v in config.items() if k != "model_type"}))
    rest = {k: v for k, v in clip.state_dict().items() if not k.startswith("vision_model.")}
    rest["text_model.embeddings.position_ids"] = torch.arange(77).unsqueeze(0)
    assert {"logit_scale", "visual_projection.weight", "text_projection.weight"} < rest.keys()
    write_weights(pair.tower, tower_weights(pair.shape) | rest)
    plan_base(pair.source, pair.tower).write(pair.output)
    assert_computes_the_same(pair.shape, pair.output, language_weights(pair.shape), tower_weights(pair.shape))


def test_tied_storage_in_the_original_is_written_out_twice(pair):
    weights = language_weights(pair.shape)
    block = torch.stack([weights["lm_head.weight"], weights["lm_head.weight"]]).half()
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] = block[0]
    (pair.source / "model.safetensors").unlink()
    write_weights(pair.source, weights)
    plan = plan_base(pair.source, pair.tower)
    plan.write(pair.output)
    assert_computes_the_same(pair.shape, pair.output, weights, tower_weights(pair.shape))
    size = (pair.output / "model.safetensors").stat().st_size
    assert plan.nbytes < size < plan.nbytes + 20_000


def test_added_rows_are_the_mean_row_and_never_drawn(converted):
    model = LlavaForConditionalGeneration.from_pretrained(converted.output, dtype=torch.float32).eval()
    weights = language_weights(converted.shape)
    for found, name in (
        (model.get_input_embeddings().weight, "model.embed_tokens.weight"),
        (model.lm_head.weight, "lm_head.weight"),
    ):
        assert found.shape[0] == 384
        assert torch.equal(found[:380], weights[name].float())
        mean = weights[name].double().mean(dim=0)
        torch.testing.assert_close(found[380:].double(), mean.expand(4, -1), rtol=1e-3, atol=1e-4)
    assert model.generation_config.suppress_tokens == [380, 381, 382, 383]
    output = model.generate(
        torch.tensor([IDS]),
        do_sample=False,
        max_new_tokens=1,
        output_scores=True,
        return_dict_in_generate=True,
    )
    original = plain_logits(converted.shape, weights, tower_weights(converted.shape), None)[-1]
    found = output.scores[0][0].softmax(-1)
    assert (found[380:] == 0).all()
    torch.testing.assert_close(found[:380], original.softmax(-1), rtol=1e-4, atol=1e-7)

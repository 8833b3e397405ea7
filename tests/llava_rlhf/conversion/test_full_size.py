"""A dry run at full size: names and shapes of LLaVA-1.5 13B with CLIP-L/336, from files whose values take no disk."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.core_model_loading import revert_weight_conversion

from llava_rlhf.conversion.base_model import plan_base
from tests.support.original_models import OriginalShape, sentencepiece_model, write_json

WIDTH, INNER, LAYERS, VOCABULARY, VISION, VISION_INNER, VISION_LAYERS = 5120, 13824, 40, 380, 1024, 4096, 24
CONFIG = {
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
    "vocab_size": VOCABULARY,
    "mm_hidden_size": VISION,
    "mm_projector_type": "mlp2x_gelu",
    "rope_scaling": None,
    "rope_theta": 10000.0,
}
TOWER_CONFIG = {
    "model_type": "clip_vision_model",
    "hidden_size": VISION,
    "intermediate_size": VISION_INNER,
    "num_hidden_layers": VISION_LAYERS,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
Shapes = Mapping[str, tuple[int, ...]]


def language_shapes() -> Shapes:
    """The weights of the original, from the papers' sizes."""
    layer = {f"self_attn.{name}_proj.weight": (WIDTH, WIDTH) for name in "qkvo"}
    layer |= {f"mlp.{name}_proj.weight": (INNER, WIDTH) for name in ("gate", "up")}
    layer |= {"mlp.down_proj.weight": (WIDTH, INNER), "self_attn.rotary_emb.inv_freq": (64,)}
    layer |= {f"{name}_layernorm.weight": (WIDTH,) for name in ("input", "post_attention")}
    return {
        "model.embed_tokens.weight": (VOCABULARY, WIDTH),
        **{f"model.layers.{n}.{name}": shape for n in range(LAYERS) for name, shape in layer.items()},
        "model.norm.weight": (WIDTH,),
        "lm_head.weight": (VOCABULARY, WIDTH),
        "model.mm_projector.0.weight": (WIDTH, VISION),
        "model.mm_projector.0.bias": (WIDTH,),
        "model.mm_projector.2.weight": (WIDTH, WIDTH),
        "model.mm_projector.2.bias": (WIDTH,),
    }


def tower_shapes() -> Shapes:
    """The weights of CLIP-L/336."""
    layer = {f"self_attn.{name}_proj.weight": (VISION, VISION) for name in ("q", "k", "v", "out")}
    layer |= {"mlp.fc1.weight": (VISION_INNER, VISION), "mlp.fc2.weight": (VISION, VISION_INNER)}
    layer |= {"mlp.fc1.bias": (VISION_INNER,), "mlp.fc2.bias": (VISION,)}
    layer |= {f"self_attn.{name}_proj.bias": (VISION,) for name in ("q", "k", "v", "out")}
    norms = {f"{part}.{what}": (VISION,) for part in ("pre_layrnorm", "post_layernorm") for what in ("weight", "bias")}  # fmt: skip
    layer |= {f"layer_norm{n}.{what}": (VISION,) for n in (1, 2) for what in ("weight", "bias")}
    weights = {
        "embeddings.class_embedding": (VISION,),
        "embeddings.patch_embedding.weight": (VISION, 3, 14, 14),
        "embeddings.position_embedding.weight": (577, VISION),
        **norms,
        **{
            f"encoder.layers.{n}.{name}": shape for n in range(VISION_LAYERS) for name, shape in layer.items()
        },
    }
    return {f"vision_model.{name}": shape for name, shape in weights.items()}


def write_hollow(path: Path, shapes: Shapes) -> None:
    """A safetensors file of float16 zeros that the disk does not store."""
    start, header = 0, {}
    for name, shape in shapes.items():
        end = start + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + start)


@pytest.fixture
def full_size(tmp_path) -> tuple[Path, Path]:
    """Original directory (three shards) and tower."""
    source, tower = tmp_path / "original", tmp_path / "tower"
    source.mkdir()
    tower.mkdir()
    write_json(source / "config.json", OriginalShape().original_config() | CONFIG)
    (source / "tokenizer.model").write_bytes(sentencepiece_model(VOCABULARY))
    shapes = list(language_shapes().items())
    for shard in range(3):
        part = dict(shapes[shard * 140 : (shard + 1) * 140])
        write_hollow(source / f"model-0000{shard + 1}-of-00003.safetensors", part)
    write_json(tower / "config.json", TOWER_CONFIG)
    size = {"height": 336, "width": 336}
    write_json(tower / "preprocessor_config.json", {"crop_size": size, "size": {"shortest_edge": 336}})
    write_hollow(tower / "model.safetensors", tower_shapes())
    return source, tower


def test_every_weight_of_13b_has_its_published_name_and_the_shape_that_hugging_face_writes(full_size):
    start = time.process_time()
    plan = plan_base(*full_size)
    assert time.process_time() - start < 10
    text = {name: CONFIG[name] for name in CONFIG if name[:3] not in ("mm_", "rop")}
    vision = {name: TOWER_CONFIG[name] for name in TOWER_CONFIG if name != "model_type"}
    config = LlavaConfig(
        text_config=LlamaConfig(**text | {"vocab_size": 384}),
        vision_config=CLIPVisionConfig(**vision),
        image_token_index=380,
    )
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    written = revert_weight_conversion(model, model.state_dict())
    tower = "vision_tower."  # the one part whose published name Hugging Face no longer writes
    published = {name.replace(tower, f"{tower}vision_model."): tuple(v.shape) for name, v in written.items()}
    assert {w.name: w.shape for w in plan.weights} == published
    # Published counts of LLaMA 13B and of the CLIP tower, and the projector; here are 384 vocabulary rows, not 32000.
    count = 13_015_864_320 - 2 * (32000 - 384) * WIDTH + 303_507_456 + (VISION + WIDTH + 2) * WIDTH
    assert plan.nbytes == 2 * count
    assert plan.config.image_seq_length == 576

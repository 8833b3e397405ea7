"""The first world: pictures hidden by pixel noise, seen by a tiny `LlavaForConditionalGeneration`.

About 336 thousand parameters: a 2-layer CLIP tower that sees 2 x 2 patches, LLaVA's 2-layer projector and a 5-layer
LLaMA with tied embeddings. The features come from the tower's last layer: it has no layer to spare.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from data_utils.conversation import TEMPLATES
from data_utils.shapes_world import (
    CELL_SIZE,
    CELLS,
    IMAGE_SIZE,
    NAMES,
    Scene,
    add_noise,
    render_clean,
    sample_scene,
)
from llava_rlhf.conversion.plain_files import (
    plain_generation_config,
    plain_processor,
    plain_tokenizer,
    save_plain_files,
)
from llava_rlhf.conversion.published_names import publish_names
from llava_rlhf.tiny_world.base_parts import replaced, start_matching
from llava_rlhf.tiny_world.kind import TinyKind
from llava_rlhf.tiny_world.plan import Plan
from llava_rlhf.tiny_world.tokenizer import build_tokenizer
from models.families.base import Grid

HIDDEN = 64
LAYERS = 5
HEADS = 2
MEAN = STD = 0.5
# A reward prompt with two captions is about 75 tokens; several turns about 120.
MAX_POSITIONS = 512


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """An untrained tiny LLaVA, drawn from torch's global random state."""
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        initializer_range=1.0 / math.sqrt(HIDDEN),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        image_size=IMAGE_SIZE,
        patch_size=CELL_SIZE,
        projection_dim=HIDDEN,
    )
    config = LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        image_seq_length=CELLS,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    start_matching(model.model.language_model.layers)
    return model


def build_image_processor() -> CLIPImageProcessorPil:
    """CLIP preprocessing at 32 pixels: pixels to [-1, 1]."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    )


class NoisyLlava(TinyKind):
    """Scenes of `data_utils.shapes_world`: 2 x 2 cells of 16 pixels, of which each is a position."""

    pictures = "noisy"
    template = TEMPLATES["tiny"]
    plan = Plan()
    measured_noise = (0.0, 0.2, 0.4, 0.5)
    build_tokenizer = staticmethod(build_tokenizer)
    build_model = staticmethod(build_model)
    sample_scene = staticmethod(sample_scene)

    def save_base(
        self, model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path
    ) -> None:
        """As in the base class."""
        processor = plain_processor(
            build_image_processor(), plain_tokenizer(tokenizer), model.config, self.template, "pad"
        )
        with replaced(folder) as draft:
            model.save_pretrained(draft)
            publish_names(draft)
            save_plain_files(draft, processor, plain_generation_config(tokenizer, model.config))

    def grid(self, scene: Scene) -> Grid:
        """As in the base class: all pictures are alike."""
        return ()

    def pixels(self, scenes: Sequence[Scene], noise: tuple[float, float], rng: np.random.Generator) -> Tensor:
        """As in the base class: float32[B, 3, 32, 32] in [-1, 1]."""
        levels = rng.uniform(*noise, size=len(scenes))
        noisy = [
            add_noise(render_clean(scene), level, rng) for scene, level in zip(scenes, levels, strict=True)
        ]
        pixels = torch.from_numpy(np.stack(noisy)).permute(0, 3, 1, 2).float()
        return (pixels / 255.0 - MEAN) / STD

    def classes(self, scene: Scene) -> list[int]:
        """As in the base class: one for each cell."""
        classes = [len(NAMES)] * CELLS
        for placed in scene.objects:
            classes[placed.cell] = NAMES.index(placed.name)
        return classes

"""Published bases: the fields of `config.json` and `preprocessor_config.json` on which memory depends. Loads no torch.

Written down from what was released; a test holds the number of weights that follow to the published one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Fields = dict[str, Any]


class Shape(NamedTuple):
    """One base: fields of its configuration, and of its image processor where the size of a picture matters."""

    config: Fields
    processor: Fields


def _text(hidden: int, inner: int, layers: int, heads: int, cached: int, vocabulary: int) -> Fields:
    """A language model; `cached`: heads of keys and values."""
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": cached,
        "vocab_size": vocabulary,
    }


def _llava(hidden: int, inner: int, layers: int, heads: int, side: int) -> Shape:
    """LLaVA-1.5 as the paper used it: Vicuna behind CLIP ViT-L/14."""
    patch = 14
    config = {
        "model_type": "llava",
        # 32 000 tokens, `<image>`, and what the converter rounds up to.
        "text_config": {
            "model_type": "llama",
            **_text(hidden, inner, layers, heads, heads, 32064),
            "max_position_embeddings": 4096,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": side,
            "patch_size": patch,
            "projection_dim": 768,
        },
        "image_token_index": 32000,
        "image_seq_length": (side // patch) ** 2,
    }
    return Shape(config, {})


def _qwen25(text: Fields, tower_inner: int, tied: bool = False) -> Shape:
    """Qwen2.5-VL; its tower is the same in all sizes but for the inner width. Pixels: 4 to 16 384 merged patches."""
    config = {
        "model_type": "qwen2_5_vl",
        "text_config": text,
        "vision_config": {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": tower_inner,
            "num_heads": 16,
            "out_hidden_size": text["hidden_size"],
        },
        "tie_word_embeddings": tied,
    }
    return Shape(config, _native(14, 4 * 28**2, 16384 * 28**2))


def _qwen3(text: Fields, tower: Fields, tied: bool = False) -> Shape:
    """Qwen3-VL, dense. Pixels: 64 to 16 384 merged patches."""
    config = {
        "model_type": "qwen3_vl",
        "text_config": {**text, "head_dim": 128},
        "vision_config": {**tower, "num_heads": 16, "out_hidden_size": text["hidden_size"]},
        "tie_word_embeddings": tied,
    }
    return Shape(config, _native(16, 64 * 32**2, 16384 * 32**2))


def _native(patch: int, fewest: int, most: int) -> Fields:
    """A processor that keeps a picture's own resolution between so many pixels."""
    size = {"shortest_edge": fewest, "longest_edge": most}
    return {"size": size, "patch_size": patch, "merge_size": 2, "temporal_patch_size": 2}


def _internvl(text: Fields) -> Shape:
    """InternVL3 in Hugging Face's format: Qwen2.5 behind InternViT-300M; a head of its own in all sizes."""
    config = {
        "model_type": "internvl",
        "text_config": {"model_type": "qwen2", **text},
        "vision_config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "attention_bias": True,
            "image_size": [448, 448],
            "patch_size": [14, 14],
        },
        "tie_word_embeddings": False,
    }
    return Shape(config, {"size": {"height": 448, "width": 448}, "min_patches": 1, "max_patches": 12})


def _idefics(model_type: str, text: Fields, vision: Fields, factor: int) -> Shape:
    """Idefics3 and SmolVLM2; pictures of up to four times four tiles. `factor`: patches joined on a side."""
    config = {
        "model_type": model_type,
        "text_config": {"model_type": "llama", **text},
        "vision_config": vision,
        "scale_factor": factor,
        "tie_word_embeddings": False,
    }
    tile = vision["image_size"]
    return Shape(config, {"size": {"longest_edge": 4 * tile}, "max_image_size": {"longest_edge": tile}})


def _gemma3(text: Fields, head_dim: int) -> Shape:
    """Gemma 3; its tower is the same in all sizes, and its head is its embeddings."""
    config = {
        "model_type": "gemma3",
        "text_config": {**text, "head_dim": head_dim, "sliding_window": 1024},
        "vision_config": {**_SO400M, "image_size": 896, "vision_use_head": False},
        "mm_tokens_per_image": 256,
    }
    return Shape(config, {"size": {"height": 896, "width": 896}})


# SigLIP's towers.
_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
}
_SIGLIP_BASE = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "patch_size": 16,
    "image_size": 512,
}
# Those of Qwen3-VL.
_SMALL_TOWER = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "deepstack_visual_indexes": [5, 11, 17],
}
_LARGE_TOWER = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "deepstack_visual_indexes": [8, 16, 24],
}

PUBLISHED: dict[str, Shape] = {
    "7b-v1.5-224": _llava(4096, 11008, 32, 32, 224),
    "7b-v1.5-336": _llava(4096, 11008, 32, 32, 336),
    "13b-v1.5-336": _llava(5120, 13824, 40, 40, 336),
    "qwen2.5-vl-3b": _qwen25(_text(2048, 11008, 36, 16, 2, 151936), 3420, tied=True),
    "qwen2.5-vl-7b": _qwen25(_text(3584, 18944, 28, 28, 4, 152064), 3420),
    "qwen2.5-vl-32b": _qwen25(_text(5120, 27648, 64, 40, 8, 152064), 3456),
    "qwen2.5-vl-72b": _qwen25(_text(8192, 29568, 80, 64, 8, 152064), 3456),
    "qwen3-vl-2b": _qwen3(_text(2048, 6144, 28, 16, 8, 151936), _SMALL_TOWER, tied=True),
    "qwen3-vl-4b": _qwen3(_text(2560, 9728, 36, 32, 8, 151936), _SMALL_TOWER, tied=True),
    "qwen3-vl-8b": _qwen3(_text(4096, 12288, 36, 32, 8, 151936), _LARGE_TOWER),
    "qwen3-vl-32b": _qwen3(_text(5120, 25600, 64, 64, 8, 151936), _LARGE_TOWER),
    "internvl3-1b": _internvl(_text(896, 4864, 24, 14, 2, 151674)),
    "internvl3-2b": _internvl(_text(1536, 8960, 28, 12, 2, 151674)),
    "internvl3-8b": _internvl(_text(3584, 18944, 28, 28, 4, 151674)),
    "internvl3-14b": _internvl(_text(5120, 13824, 48, 40, 8, 151674)),
    "smolvlm2-500m": _idefics("smolvlm", _text(960, 2560, 32, 15, 5, 49280), _SIGLIP_BASE, 4),
    "smolvlm2-2.2b": _idefics(
        "smolvlm", _text(2048, 8192, 24, 32, 32, 49280), {**_SO400M, "image_size": 384}, 3
    ),
    "idefics3-8b": _idefics(
        "idefics3", _text(4096, 14336, 32, 32, 8, 128259), {**_SO400M, "image_size": 364}, 2
    ),
    "gemma-3-4b": _gemma3(_text(2560, 10240, 34, 8, 4, 262208), 256),
    "gemma-3-12b": _gemma3(_text(3840, 15360, 48, 16, 8, 262208), 256),
    "gemma-3-27b": _gemma3(_text(5376, 21504, 62, 32, 16, 262208), 128),
}

_IN_TILES = (
    *("<image>", "<fake_token_around_image>", "<global-img>", "\n", "\n\n"),
    *(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)),
)
# Where a tokenizer says with which ids a picture is written: what is a token in the released ones, first that of a feature. Of
# the two line breaks behind the last row of tiles it is not sure that they are one: a position more or less.
MARKS: dict[str, tuple[str, ...]] = {
    "internvl": ("<IMG_CONTEXT>", "<img>", "</img>", "<video>"),
    "idefics3": _IN_TILES,
    "smolvlm": _IN_TILES,
}

"""Random models in the format of the original LLaVA code, of any size, with a CLIP tower and a tokenizer beside them.

Weights are drawn wide and rounded to float16, so that outputs depend on every weight and files hold what is computed.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from sentencepiece import SentencePieceTrainer
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

PATCH_SIZE = 14
HALVES = 2
TOWER_NAME = "somebody/clip-tiny-patch14"
# Every character that the tests write, and words worth a piece of their own.
CORPUS = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
    "polite answers to the user's questions. USER: What is in the field? ASSISTANT: A brown dog.\n"
    "0123456789 ABCDEFGHIJKLMNOPQRSTUVWXYZ abcdefghijklmnopqrstuvwxyz ,;:!?'\"()-\n"
)


@dataclass(frozen=True)
class OriginalShape:
    """Sizes of an original model, and how it is written.

    Attributes:
        hidden, layers, heads, key_value_heads: of the language model.
        image_size: pixels; the tower sees `(image_size // 14) ** 2` patches.
        vision_hidden, vision_layers, vision_heads: of the tower.
        projector: `mlp2x_gelu` or `linear`.
        vocab_size: rows of the embeddings; the tokenizer has exactly as many pieces.
        seed: of the weights.
    """

    hidden: int = 48
    layers: int = 2
    heads: int = 4
    key_value_heads: int = 2
    image_size: int = 70
    vision_hidden: int = 24
    vision_layers: int = 3
    vision_heads: int = 2
    projector: str = "mlp2x_gelu"
    vocab_size: int = 380
    seed: int = 0

    @property
    def tokens_per_image(self) -> int:
        """Positions that one image takes in the language model."""
        return (self.image_size // PATCH_SIZE) ** 2

    def text_config(self) -> LlamaConfig:
        """The language model alone."""
        return LlamaConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden,
            intermediate_size=2 * self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_value_heads,
            max_position_embeddings=512,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0},
        )

    def vision_config(self) -> CLIPVisionConfig:
        """The tower alone."""
        return CLIPVisionConfig(
            hidden_size=self.vision_hidden,
            intermediate_size=2 * self.vision_hidden,
            num_hidden_layers=self.vision_layers,
            num_attention_heads=self.vision_heads,
            image_size=self.image_size,
            patch_size=PATCH_SIZE,
            projection_dim=16,
        )

    def original_config(self) -> dict:
        """`config.json` as the original code writes it."""
        text = self.text_config()
        return {
            "architectures": ["LlavaLlamaForCausalLM"],
            "model_type": "llava",
            "vocab_size": text.vocab_size,
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_hidden_layers,
            "num_attention_heads": text.num_attention_heads,
            "num_key_value_heads": text.num_key_value_heads,
            "hidden_act": "silu",
            "max_position_embeddings": text.max_position_embeddings,
            "rms_norm_eps": text.rms_norm_eps,
            "rope_theta": 5000.0,
            "rope_scaling": {"type": "linear", "factor": 2.0},
            "bos_token_id": 1,
            "eos_token_id": 2,
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
            "transformers_version": "4.31.0",
            "image_aspect_ratio": "pad",
            "mm_hidden_size": self.vision_hidden,
            "mm_projector_type": self.projector,
            "mm_use_im_start_end": False,
            "mm_vision_select_feature": "patch",
            "mm_vision_select_layer": -2,
            "mm_vision_tower": TOWER_NAME,
        }


def language_weights(shape: OriginalShape) -> dict[str, Tensor]:
    """Language model and projector under their original names, rotary buffers included."""
    weights = _random(LlamaForCausalLM(shape.text_config()), shape.seed)
    half = shape.hidden // shape.heads // HALVES
    for layer in range(shape.layers):
        weights[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(half).half()
    if shape.projector == "linear":
        projector = {"": torch.nn.Linear(shape.vision_hidden, shape.hidden)}
    else:
        sizes = (shape.vision_hidden, shape.hidden)
        projector = {
            f"{index}.": torch.nn.Linear(size, shape.hidden)
            for index, size in zip((0, 2), sizes, strict=True)
        }
    for index, (prefix, linear) in enumerate(projector.items()):
        drawn = _random(linear, shape.seed + 1 + index)
        weights |= {f"model.mm_projector.{prefix}{name}": value for name, value in drawn.items()}
    return weights


def tower_weights(shape: OriginalShape) -> dict[str, Tensor]:
    """The CLIP tower under the names of its files, with the position buffer that older files have."""
    weights = _random(CLIPVisionModel(shape.vision_config()), shape.seed + 10)
    weights["embeddings.position_ids"] = torch.arange(shape.tokens_per_image + 1).unsqueeze(0)
    return {f"vision_model.{name.removeprefix('vision_model.')}": value for name, value in weights.items()}


def write_original(
    folder: Path, shape: OriginalShape, shards: int = 1, ending: str = "bin", index: bool = True
) -> Path:
    """Write the model (without tower weights) to `folder`, which is created; returns it."""
    folder.mkdir(parents=True)
    write_json(folder / "config.json", shape.original_config())
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(shape.vocab_size))
    write_weights(folder, language_weights(shape), shards, ending, index)
    return folder


def write_tower(folder: Path, shape: OriginalShape) -> Path:
    """Write the CLIP tower to `folder`, which is created, as CLIP's own files come; returns it."""
    folder.mkdir(parents=True)
    config = shape.vision_config().to_dict()
    write_json(folder / "config.json", config)
    write_json(
        folder / "preprocessor_config.json",
        {"feature_extractor_type": "CLIPFeatureExtractor", "crop_size": shape.image_size, "do_center_crop": True}
        | {"size": shape.image_size, "do_resize": True, "do_normalize": True, "resample": 3}
        | {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]},
    )  # fmt: skip
    write_weights(folder, tower_weights(shape))
    return folder


def write_weights(
    folder: Path, weights: dict[str, Tensor], shards: int = 1, ending: str = "bin", index: bool = True
) -> None:
    """Write weights as the original code or `save_pretrained` does: one file, or shards with an index."""
    stem, save = {
        "bin": ("pytorch_model", torch.save),
        "safetensors": ("model", lambda part, file: save_file(part, file, {"format": "pt"})),
    }[ending]
    if shards == 1:
        save(weights, folder / f"{stem}.{ending}")
        return
    names = list(weights)
    per_shard = math.ceil(len(names) / shards)
    weight_map = {}
    for shard in range(shards):
        file = f"{stem}-{shard + 1:05}-of-{shards:05}.{ending}"
        part = names[shard * per_shard : (shard + 1) * per_shard]
        save({name: weights[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    if index:
        write_json(
            folder / f"{stem}.{ending}.index.json", {"metadata": {"total_size": 0}, "weight_map": weight_map}
        )


def write_json(path: Path, value: dict) -> None:
    """One JSON file."""
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def sentencepiece_model(vocab_size: int) -> bytes:
    """A sentencepiece model with LLaMA's settings (BPE, byte fallback, nothing normalised) for the text of `CORPUS`."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.splitlines()),
        model_writer=model,
        vocab_size=vocab_size,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        minloglevel=2,
    )
    return model.getvalue()


def _random(module: torch.nn.Module, seed: int) -> dict[str, Tensor]:
    """A state dict of these names and shapes: matrices scaled by their inputs, vectors around one or zero."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, value in module.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if value.dim() == 1:
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            drawn[name] = (centre + 0.2 * noise).half()
        else:
            drawn[name] = (noise / math.sqrt(value[0].numel())).half()
    return drawn

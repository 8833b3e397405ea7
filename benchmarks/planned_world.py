"""A random base of a stated size and data whose rows are all equally long, as files that the three programs run on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from llava_rlhf.initialize_policy_model import save_policy
from llava_rlhf.runs.reward_card import RewardModelCard
from llava_rlhf.runs.role_files import POLICY, REWARD
from llava_rlhf.train_reward_model import save_reward_model
from models.adapters import AdapterBank, AdapterSpec
from models.base_fingerprint import base_fingerprint
from models.heads import ScalarHead
from models.roles import Policy, RewardModel
from models.settings import LoraSettings
from models.vlm import VisionLanguageModel
from tests.support.tiny_models import BOS, IMAGE, PAD, PATCH_SIZE, STOP, save_tiny_processor

IMAGE_SIZE = 112
VOCABULARY = 32000
NEVER_STOP = 6.0  # standard deviation of the logits: the stop token, whose logit is 0, is next to never drawn
PROMPT_TEXT = "is the answer good?"


@dataclass(frozen=True)
class World:
    """Where the files lie."""

    base: Path
    images: Path
    preferences: Path
    dialogues: Path
    prompts: Path
    reward_prompt: Path
    policy: Path
    reward_model: Path

    @staticmethod
    def at(folder: Path) -> World:
        """The files in a folder."""
        names = (
            "base images preferences.json dialogues.json prompts.json reward_prompt.txt policy reward_model"
        )
        return World(*(folder / name for name in names.split()))


def write_world(
    folder: Path,
    hidden: int,
    layers: int,
    lora_r: int,
    query: int,
    response: int,
    rows: int,
    dtype: torch.dtype,
) -> World:
    """Write everything; `query` and `response` are words of a question and an answer, `dtype` is that of the base."""
    torch.manual_seed(0)
    world = World.at(folder)
    model = _write_base(world.base, hidden, layers, dtype)
    _write_roles(world, model, lora_r)
    world.images.mkdir()
    for row in range(rows):
        Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), (row, 90, 200)).save(world.images / f"{row}.png")
    world.reward_prompt.write_text(PROMPT_TEXT)
    turns = [("human", "<image>\n" + _words(query)), ("gpt", _words(response))]
    answers = {f"output_{number}": _turn("llava", _words(response)) for number in (1, 2)}
    shared = [
        {"id": str(row), "image": f"{row}.png", "conversations": [_turn(*turn) for turn in turns]}
        for row in range(rows)
    ]
    world.dialogues.write_text(json.dumps(shared))
    world.prompts.write_text(json.dumps(shared))
    world.preferences.write_text(json.dumps([{**row, **answers, "preference": 1} for row in shared]))
    return world


def _words(count: int) -> str:
    return " ".join(["cat"] * count)


def _turn(role: str, text: str) -> dict[str, str]:
    return {"from": role, "value": text}


def _write_base(folder: Path, hidden: int, layers: int, dtype: torch.dtype) -> LlavaForConditionalGeneration:
    positions = (IMAGE_SIZE // PATCH_SIZE) ** 2
    config = LlavaConfig(
        text_config=LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=hidden,
            intermediate_size=(hidden * 11008 // 4096) // 16 * 16,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 64,
            max_position_embeddings=4096,
            bos_token_id=BOS,
            eos_token_id=STOP,
            pad_token_id=PAD,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=hidden // 4,
            intermediate_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 64,
            image_size=IMAGE_SIZE,
            patch_size=PATCH_SIZE,
        ),
        image_token_index=IMAGE,
        image_seq_length=positions,
    )
    model = LlavaForConditionalGeneration(config)
    nn.init.normal_(model.lm_head.weight, std=NEVER_STOP / hidden**0.5)
    nn.init.zeros_(model.lm_head.weight[STOP])
    # In the format it is loaded in, and a file for every large weight: a CPU maps files instead of reading them, and a map
    # lives as long as one of its weights is not quantised.
    model.to(dtype).save_pretrained(folder, max_shard_size="100KB")
    save_tiny_processor(folder, IMAGE_SIZE)
    return model


def _write_roles(world: World, model: LlavaForConditionalGeneration, lora_r: int) -> None:
    spec = AdapterSpec(LoraSettings(lora_r), trainable=True)
    bank = AdapterBank(VisionLanguageModel(model), {POLICY: spec, REWARD: spec})
    save_policy(Policy(bank, POLICY), str(world.base), world.policy)
    card = RewardModelCard(str(world.base), PROMPT_TEXT, False, "tiny", "pad", base_fingerprint(world.base))
    world.reward_model.mkdir()
    head = ScalarHead(bank.vlm.hidden_size)
    save_reward_model(RewardModel(bank, REWARD, head), card, world.reward_model)

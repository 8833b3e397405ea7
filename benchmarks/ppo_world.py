"""Random models and prompts of stated sizes, put together into the PPO loop as the program does it.

Answer lengths are part of a size: they are steered by the numbers that sampling is given, so that everything that is
timed really runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from data_utils.batches import PromptBatch, collate_prompts
from data_utils.conversation import TEMPLATES
from data_utils.image_choices import ImageChoices
from data_utils.items import PromptItem
from data_utils.schema import AnswerType
from llava_rlhf.assembly.roles import PPORoles, TextSide
from llava_rlhf.ppo.arguments import PPOArguments, RewardArguments
from llava_rlhf.ppo.assembly import PPOSettings, assemble_trainer, make_accelerator
from llava_rlhf.ppo.batch_plan import plan_batches
from llava_rlhf.ppo.estimator_arguments import EstimatorArguments
from llava_rlhf.ppo.trainer import PPOTrainer
from llava_rlhf.runs.arguments import DataArguments
from llava_rlhf.runs.role_files import POLICY, REFERENCE, REWARD, VALUE
from models.adapters import AdapterBank, AdapterSpec
from models.heads import ScalarHead
from models.quantized import compute_alike_in_both_modes
from models.roles import Policy, RewardModel, ValueModel
from models.settings import LoraSettings
from models.vlm import VisionLanguageModel

VOCABULARY = 32000
UNK, BOS, STOP, IMAGE = 0, 1, 2, VOCABULARY - 1
PATCH = 14
REWARD_PROMPT_TOKENS = 269  # factual prompt and captions
QUERY_TOKENS = 48  # of 64 allowed; the image is one of them


def mixed_lengths(rows: int, mean: int = 200, longest: int = 896) -> tuple[int, ...]:
    """Answer lengths of about this mean: the quantiles of an exponential distribution, the last one at the limit."""
    quantiles = [-mean * math.log(1 - (row + 0.5) / rows) for row in range(rows - 1)]
    return (*(min(longest, max(2, round(length))) for length in quantiles), longest)


@dataclass(frozen=True)
class Size:
    """One configuration: language model, tower, answers (one length a row), the adapters' rank, `--tokens_per_micro_batch`."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    image: int
    vision_hidden: int
    vision_layers: int
    response_len: int
    lengths: tuple[int, ...]
    lora_r: int = 8
    reward_prompt_tokens: int = REWARD_PROMPT_TOKENS
    tokens_per_micro_batch: int = 0

    @property
    def positions(self) -> int:
        """Places of one image."""
        return (self.image // PATCH) ** 2


SIZES = {
    # 2 answers up to their limit, as many tokens in all as the recorded run had.
    "tiny": Size(64, 3, 176, 4, 56, 32, 3, 32, (3, 32, 32, 4, 32, 3, 11, 3)),
    "mid": Size(256, 6, 688, 8, 112, 128, 6, 64, (64,) * 8, tokens_per_micro_batch=512),
    "short answers": Size(128, 4, 344, 4, 112, 64, 4, 128, (3, 4, 5, 5, 6, 7, 8, 10)),
    # The shapes of the published models, for a GPU.
    "7b": Size(4096, 32, 11008, 32, 336, 1024, 24, 896, mixed_lengths(32), 64, tokens_per_micro_batch=16384),
    "13b": Size(5120, 40, 13824, 40, 336, 1024, 24, 896, mixed_lengths(32), 64, tokens_per_micro_batch=8192),
}


class BenchmarkStream:
    """All rows in every batch; sampling numbers that end each answer where it should end."""

    def __init__(self, lengths: Sequence[int], seed: int = 0):
        self.lengths = lengths
        self.seed = seed

    def uniforms(self, step: int, columns: int) -> Tensor:
        """float[R, columns]: 0 draws the first token that can be drawn, which is the stop; others are far from it."""
        generator = torch.Generator().manual_seed(self.seed + step)
        numbers = 0.01 + 0.98 * torch.rand(len(self.lengths), columns, generator=generator)
        for row, length in enumerate(self.lengths):
            if length < columns:
                numbers[row, length - 1] = 0.0
        return numbers

    def sampling_order(self, step: int) -> list[int]:
        """As they come."""
        return list(range(len(self.lengths)))

    def optimizer_batches(self, step: int, epoch: int, step_batch_size: int) -> list[list[int]]:
        """One optimizer step of all rows."""
        order = torch.randperm(len(self.lengths), generator=torch.Generator().manual_seed(step * 2 + epoch))
        return [order.tolist()]


def random_model(size: Size, dtype: torch.dtype, device: str, four_bit: bool = False) -> VisionLanguageModel:
    """A LLaVA of this size with random weights; `four_bit`: the language model's linear layers in NF4."""
    config = LlavaConfig(
        text_config=LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=size.hidden,
            intermediate_size=size.intermediate,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            max_position_embeddings=4096,
            pad_token_id=UNK,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=size.vision_hidden,
            intermediate_size=2 * size.vision_hidden,
            num_hidden_layers=size.vision_layers,
            num_attention_heads=4,
            image_size=size.image,
            patch_size=PATCH,
        ),
        image_token_index=IMAGE,
        image_seq_length=size.positions,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    if four_bit:
        _quantise(model, dtype)
    return VisionLanguageModel(model.eval(), dtype)


def _quantise(model: LlavaForConditionalGeneration, dtype: torch.dtype) -> None:
    """What loading with `BaseSettings(bits=4)` makes of it. Raises ImportError without bitsandbytes."""
    from bitsandbytes.nn import Linear4bit

    for block in model.model.language_model.layers.modules():
        for name, layer in list(block.named_children()):
            if isinstance(layer, nn.Linear):
                small = Linear4bit(
                    layer.in_features, layer.out_features, bias=False, compute_dtype=dtype, quant_type="nf4"
                )
                small.load_state_dict(layer.state_dict())
                setattr(block, name, small.to(layer.weight.device))
    model.is_loaded_in_4bit = True  # PEFT asks
    compute_alike_in_both_modes(model)


def stand_in_tokenizer() -> PreTrainedTokenizerFast:
    """32 000 words: only its size and its special tokens matter."""
    words = ["<unk>", "<s>", "</s>", *map(str, range(3, IMAGE)), "<image>"]
    backend = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )


def random_prompts(size: Size, rows: int) -> PromptBatch:
    """Prompts of one image each; every row has its own."""
    generator = torch.Generator().manual_seed(1)

    def ids(count: int) -> list[int]:
        return torch.randint(3, IMAGE, (count,), generator=generator).tolist()

    items = [
        PromptItem(
            row=row,
            id=str(row),
            query_ids=[BOS, *ids(30), IMAGE, *ids(QUERY_TOKENS - 32)],
            reward_prompt_ids=ids(size.reward_prompt_tokens),
            image_names=(f"{row}.jpg",),
            images=torch.randn(1, 3, size.image, size.image, generator=generator),
            reward_images=None,
            answer_type=AnswerType.GENERAL,
            length_bonus=1.0,
            captions=(),
            question="",
        )
        for row in range(rows)
    ]
    return collate_prompts(items)


def random_roles(
    size: Size, vlm: VisionLanguageModel, gradient_checkpointing: bool, critic: bool
) -> PPORoles:
    """Four adapters on one base; without a critic three."""
    lora = LoraSettings(r=size.lora_r)
    adapters = {
        name: AdapterSpec(lora, trainable=name in (POLICY, VALUE))
        for name in (POLICY, REFERENCE, *([VALUE] if critic else []), REWARD)
    }
    bank = AdapterBank(vlm, adapters, gradient_checkpointing)
    head = ScalarHead(size.hidden).requires_grad_(False).to(vlm.device)
    return PPORoles(
        Policy(bank, POLICY),
        Policy(bank, REFERENCE),
        ValueModel(bank, VALUE, ScalarHead(size.hidden, zero=True).to(vlm.device)) if critic else None,
        RewardModel(bank, REWARD, head),
        shared=True,
    )


def build_trainer(
    size: Size,
    output_dir: str,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    four_bit: bool = False,
    estimator: EstimatorArguments | None = None,
    **ppo_settings,
) -> tuple[PPOTrainer, PromptBatch]:
    """The loop of `train_rl_model` on random roles over one base, and the prompts of its steps."""
    rows, estimator = len(size.lengths), estimator or EstimatorArguments()
    settings = {
        "gradient_checkpointing": True,
        "noptepochs": 2,
        "rollout_per_device_batch_size": rows,
        "reward_model_per_device_batch_size": rows,
        "step_per_device_batch_size": rows,
        "use_cpu": device == "cpu",
        "bf16": dtype == torch.bfloat16,
        **ppo_settings,
    }
    ppo = PPOArguments(
        base_model_name="random",
        policy_model_name_or_path="random",
        reward_model_name_or_path="random",
        output_dir=output_dir,
        rollout_batch_size=rows,
        step_batch_size=rows,
        **settings,
    )
    plan = plan_batches(ppo, 1, rows)
    accelerator = make_accelerator(ppo, plan)
    vlm = random_model(size, dtype, device, four_bit)
    roles = random_roles(size, vlm, ppo.gradient_checkpointing, estimator.has_critic)
    tokenizer = stand_in_tokenizer()
    stops, choices = (tokenizer.eos_token_id,), ImageChoices("pad")
    text = TextSide(tokenizer, None, vlm.family, None, TEMPLATES["v1"], stops, choices)
    prompts = Path(output_dir, "prompts.json")  # of settings that nothing here reads
    prompts.write_text("[]")
    everything = PPOSettings(
        ppo,
        RewardArguments(),
        DataArguments(dataset_path=str(prompts), image_folder=output_dir, response_len=size.response_len),
        None,
        None,
        None,
        estimator=estimator,
    )
    trainer = assemble_trainer(
        accelerator, everything, plan, roles, text, [1] * rows, "random", lambda step: 1e-4, {}
    )
    trainer.stream = trainer.updater.stream = BenchmarkStream(size.lengths)
    # The first token that can be drawn is the stop.
    engine = trainer.collector.engine
    banned = (UNK, BOS, *engine.settings.banned_ids)
    trainer.collector.engine = replace(engine, settings=replace(engine.settings, banned_ids=banned))
    return trainer, random_prompts(size, rows)

"""What the planner counts, against hand arithmetic, real weights, real optimizers and what autograd really keeps."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.integrations import HfDeepSpeedConfig, is_deepspeed_zero3_enabled

from llava_rlhf.memory_planning import passes
from llava_rlhf.memory_planning.bases import BaseSpec, meta_model
from llava_rlhf.memory_planning.passes import Bank, Head, Pass, decoding, image_encoding, scoring, training
from llava_rlhf.memory_planning.weights import (
    Trained,
    Zero,
    adapter_numbers,
    base_parts,
    head_numbers,
    merged_bytes,
    optimizer_bytes,
    quantised_bytes,
)
from models.adapters import AdapterBank, AdapterSpec
from models.decoding_cache import GROWTH
from models.heads import LINEAR, MLP, new_head
from models.packed_features import PackedFeatures
from models.settings import LoraSettings
from models.vlm import VisionLanguageModel
from tests.support.tiers import tiered
from tests.support.tiny_models import TinyShape, tiny_llava

FLOAT = 4
HIDDEN, LAYERS, INTERMEDIATE, CACHED = 64, 4, 128, 2 * 2 * 16  # keys and values of 2 heads with 16 channels
LORA = LoraSettings(r=8)
ROWS, LENGTH, IMAGE_POSITIONS = 3, 40, 4


@pytest.fixture(scope="module")
def model():
    return tiny_llava(TinyShape(hidden=HIDDEN, layers=LAYERS))


@pytest.fixture(scope="module")
def base(model) -> BaseSpec:
    return BaseSpec.of("tiny", model.config)


def test_weights_of_a_base_are_those_of_the_real_model(model, base):
    numbers = sum(weight.numel() for weight in model.parameters())
    assert sum(part.size for part in base_parts(base)) == FLOAT * numbers
    halves = BaseSpec.of("tiny", model.config, dtype=torch.bfloat16)
    assert sum(part.size for part in base_parts(halves)) == 2 * numbers


@pytest.mark.parametrize("double_quant", [True, False])
def test_a_4_bit_layer_takes_what_bitsandbytes_keeps_of_it(model, double_quant):
    functional = pytest.importorskip("bitsandbytes").functional
    weight = torch.randn(256, 192)
    packed, state = functional.quantize_4bit(weight, compress_statistics=double_quant, quant_type="nf4")
    kept = [packed, state.absmax, state.code]
    if double_quant:
        kept += [state.offset, state.state2.absmax, state.state2.code]
    base = BaseSpec.of("tiny", model.config, bits=4, double_quant=double_quant)
    assert quantised_bytes(weight.shape, base) == sum(tensor.nbytes for tensor in kept)


def test_at_4_bits_only_the_linear_layers_of_the_language_model_shrink(model):
    parts = {part.name: part.size for part in base_parts(BaseSpec.of("tiny", model.config, bits=4))}
    inner = model.model
    tower = sum(w.nbytes for m in (inner.vision_tower, inner.multi_modal_projector) for w in m.parameters())
    vocabulary = 2 * model.config.get_text_config().vocab_size * HIDDEN
    norms = (2 * LAYERS + 1) * HIDDEN
    assert parts["tiny: vision tower and projector"] == tower
    assert parts["tiny: embeddings, vocabulary head, norms"] == FLOAT * (vocabulary + norms)
    linear = LAYERS * (2 * HIDDEN**2 + 2 * HIDDEN * HIDDEN // 2 + 3 * HIDDEN * INTERMEDIATE)
    assert linear / 2 < parts["tiny: linear layers at 4 bits"] < 0.9 * linear  # small layers: constants weigh


def test_an_adapter_has_r_numbers_for_each_input_and_output_of_a_layer(base):
    half = HIDDEN // 2  # two of four heads have keys and values
    ends = 2 * (HIDDEN + HIDDEN) + 2 * (HIDDEN + half) + 3 * (HIDDEN + INTERMEDIATE)
    assert sum(adapter_numbers(base, LORA)) == LAYERS * LORA.r * ends
    few = LoraSettings(r=2, layers=("q_proj",))
    assert sum(adapter_numbers(base, few)) == LAYERS * 2 * 2 * HIDDEN
    assert merged_bytes(base, few) == FLOAT * LAYERS * HIDDEN**2  # and not the tower's q_proj


def test_moments_take_what_a_real_optimizer_keeps():
    sizes = (7, 5000)
    weights = [nn.Parameter(torch.ones(size)) for size in sizes]
    optimizer = torch.optim.AdamW(weights)
    sum(weight.sum() for weight in weights).backward()
    optimizer.step()
    kept = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert optimizer_bytes("adamw_torch", [sizes]) == sum(tensor.nbytes for tensor in kept)
    # Two bytes a number, two float32 for each block of 256, and a tensor too small for it in full.
    assert optimizer_bytes("adamw_8bit", [sizes]) == 2 * 5000 + 2 * 20 * FLOAT + 2 * 7 * FLOAT


def test_zero_2_shares_moments_and_gradients():
    alone = Trained(((1000,),), "adamw_torch", torch.bfloat16)
    shared = Trained(((1000,),), "adamw_torch", torch.bfloat16, processes=8, zero=Zero(2, 64, False))
    assert [part.size for part in alone.held()] == [2 * 4 * 1000]
    assert [part.size for part in shared.held()] == [2 * 4 * 125, 4 * 125]  # and a float32 copy of the share
    assert alone.gradients == 4 * 1000
    assert shared.gradients == 2 * 125
    assert shared.buckets == 2 * 64


def test_sampling_keeps_keys_and_values_of_every_layer_and_a_copy_of_the_weights(base):
    bank, prompt, response = Bank(base, LORA), 500, 20

    def peak(rows: int, merge: bool) -> int:
        return decoding(bank, rows, prompt, response, merge)

    cache = FLOAT * LAYERS * CACHED * (prompt + GROWTH)
    rest = 10 * FLOAT * (HIDDEN + INTERMEDIATE)  # one token's activations
    row = peak(5, False) - peak(4, False)
    assert cache <= row <= cache + rest
    low_rank = FLOAT * sum(adapter_numbers(base, LORA))  # scaled copies of these, where nothing is merged
    assert peak(4, True) - peak(4, False) == pytest.approx(
        merged_bytes(base, LORA) - low_rank / 2, abs=low_rank
    )


def test_logits_exist_for_one_chunk_at_a_time():
    config, vocabulary = tiny_llava().config, 32_000
    config.text_config.vocab_size = vocabulary
    bank = Bank(BaseSpec.of("tiny", config), LORA)

    def peak(chunk: int) -> int:
        return scoring(bank, Pass(10, 40, Head(400, chunk, entropy=True)))

    # Logits and their exponentials, each float32 for every token of the chunk.
    assert peak(100) - peak(50) == pytest.approx(2 * FLOAT * 50 * vocabulary, rel=1e-3)


def _kept_by_autograd(bank: AdapterBank, head: nn.Module) -> int:
    """Bytes of the distinct tensors that a forward pass of the real model keeps for its backward, weights apart."""
    kept: dict[int, int] = {}
    known = {weight.data_ptr() for module in (bank, head) for weight in module.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.full((ROWS, LENGTH), 7)
    ids[:, :IMAGE_POSITIONS] = bank.vlm.image_token_id
    table = torch.randn(ROWS * IMAGE_POSITIONS, HIDDEN)
    features = PackedFeatures(table, (IMAGE_POSITIONS,) * ROWS, ((),) * ROWS)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with bank.use("it", training=True) as vlm:
            hidden = vlm(ids, None, features)
        result = head(hidden.flatten(0, 1)).sum()
        return sum(kept.values()) if result.requires_grad else 0


def test_activations_are_those_that_autograd_keeps(base):
    real = AdapterBank(
        VisionLanguageModel(tiny_llava(TinyShape(hidden=HIDDEN, layers=LAYERS))),
        {"it": AdapterSpec(LORA, trainable=True)},
    )
    work = Pass(ROWS, LENGTH, Head(ROWS * LENGTH))
    kept = {kind: _kept_by_autograd(real, new_head(kind, HIDDEN)) for kind in (LINEAR, MLP)}
    planned = {kind: training(Bank(base, LORA, head=kind), work).saved for kind in (LINEAR, MLP)}
    assert planned[LINEAR] == pytest.approx(kept[LINEAR], rel=0.05)
    assert planned[MLP] - planned[LINEAR] == kept[MLP] - kept[LINEAR] > 0


@pytest.mark.parametrize("kind", [LINEAR, MLP])
def test_a_head_has_as_many_numbers_as_planned(base, kind):
    assert head_numbers(kind, base) == tuple(w.numel() for w in new_head(kind, base.hidden).parameters())


def test_with_checkpointing_a_layer_keeps_what_went_into_it():
    work = Pass(ROWS, LENGTH, Head(ROWS * LENGTH))

    def saved(layers: int, checkpointing: bool) -> int:
        config = tiny_llava(TinyShape(hidden=HIDDEN, layers=layers)).config
        return training(Bank(BaseSpec.of("tiny", config), LORA, checkpointing), work).saved

    assert saved(2, True) - saved(1, True) == FLOAT * ROWS * LENGTH * HIDDEN
    assert saved(2, False) - saved(1, False) > 10 * FLOAT * ROWS * LENGTH * HIDDEN


def test_under_zero_3_planned_models_are_not_cut_up(base):
    pytest.importorskip("deepspeed")
    zero = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": 1})
    assert is_deepspeed_zero3_enabled()
    weights = list(meta_model(base, layers=1, vision_layers=1).parameters())
    assert not any(
        hasattr(weight, "ds_id") for weight in weights
    )  # cutting up would wait for other processes
    del zero


@pytest.mark.parametrize("checkpointing", tiered([False, True], quick=[False]))
def test_deep_models_are_read_off_shallow_ones(monkeypatch, checkpointing):
    config = tiny_llava(TinyShape(layers=3)).config
    config.vision_config.num_hidden_layers = 4
    base = BaseSpec.of("tiny", config)
    work = Pass(ROWS, LENGTH, Head(ROWS * LENGTH, chunk=50))
    bank = Bank(base, LORA, checkpointing)
    read_off = (training(bank, work), image_encoding(base, 3))
    training.cache_clear()
    passes.picture_encoding.cache_clear()
    monkeypatch.setattr(passes, "at_depth", lambda measure, layers, shallow=1: tuple(measure(layers)))
    assert (training(bank, work), image_encoding(base, 3)) == read_off

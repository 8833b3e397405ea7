"""Adapters in every family: on the language model alone, with the gradients of the model's own forward."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from models.adapter_files import ADAPTER_CONFIG, check_adapter_fits
from models.adapters import AdapterBank, AdapterSpec
from models.generation import SamplingSettings
from models.heads import ScalarHead
from models.roles import Policy, RewardModel
from models.settings import LANGUAGE_MODEL_LINEAR_LAYERS, LoraSettings
from tests.models.families.worlds import PAD, World

ALL = [0, 1, 2]
CLOSE = 1e-5


@pytest.fixture
def bank(world: World) -> AdapterBank:
    specs = {name: AdapterSpec(LoraSettings(r=4, alpha=8), True) for name in ("policy", "reward")}
    bank = AdapterBank(world.load(), specs, gradient_checkpointing=True)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in bank.vlm.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1, generator=generator)
    return bank


def test_lora_is_on_every_linear_layer_of_the_language_model_and_nowhere_else(bank):
    adapted = {name for name, module in bank.vlm.model.named_modules() if hasattr(module, "lora_A")}
    layers = bank.vlm.model.config.get_text_config().num_hidden_layers
    inside = {name for name, module in bank.vlm.model.named_modules() if module is bank.vlm.language_model}
    assert len(adapted) == 7 * layers
    assert all(name.startswith(f"{inside.copy().pop()}.") for name in adapted)


def test_gradients_are_those_of_the_models_own_forward_with_and_without_checkpointing(world, bank):
    ids, mask = world.batch("right")
    features = world.features(ALL, bank.vlm)

    def loss(hidden: Tensor) -> Tensor:
        return ((hidden * torch.linspace(-1, 1, hidden.shape[-1])).sum(dim=-1)[mask] ** 2).mean()

    def gradients(training: bool, own: bool) -> dict[str, Tensor]:
        bank.vlm.model.zero_grad(set_to_none=True)
        with bank.use("policy", training) as vlm:
            if own:
                hidden = vlm(ids, None, features)
            else:
                vlm.model.model.rope_deltas = None
                hidden = vlm.model.model(
                    input_ids=ids, attention_mask=mask.long(), **world.native(ids, ALL)
                ).last_hidden_state
        if training:  # somebody else's look in between must not be in the gradient
            with torch.no_grad(), bank.use("reward", False) as vlm:
                vlm(ids, None, features)
        loss(hidden).backward()
        return {name: p.grad.clone() for name, p in bank.vlm.model.named_parameters() if p.grad is not None}

    plain, recomputed, native = gradients(False, True), gradients(True, True), gradients(False, False)
    assert len(plain) == 2 * 7 * bank.vlm.model.config.get_text_config().num_hidden_layers
    largest = max(float(gradient.abs().max()) for gradient in plain.values())
    for other in (recomputed, native):
        assert plain.keys() == other.keys()
        assert max(float((plain[n] - other[n]).abs().max()) for n in plain) <= CLOSE * max(1.0, largest)


@torch.no_grad()
def test_scores_and_sampled_answers_are_those_of_rows_alone(world, bank):
    head = ScalarHead(bank.vlm.hidden_size)
    torch.nn.init.normal_(head.linear.weight)
    reward = RewardModel(bank, "reward", head)
    ids, mask = world.batch("right")
    scores = reward(ids, mask, world.features(ALL, bank.vlm), right_padded=True)
    for row in ALL:
        one = torch.tensor([world.rows[row]])
        with bank.use("reward", False) as vlm:
            vlm.model.model.rope_deltas = None
            hidden = vlm.model.model(
                input_ids=one, attention_mask=torch.ones_like(one), **world.native(one, [row])
            ).last_hidden_state[:, -1]
        torch.testing.assert_close(scores[row], head(hidden)[0], rtol=CLOSE, atol=CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("merge", [False, True])
def test_a_saved_adapter_gives_plain_peft_our_answers(world, bank, tmp_path, merge):
    ids, mask = world.batch("left")
    bank.save("policy", tmp_path)
    settings = SamplingSettings(10, (), PAD, temperature=0.0)
    ours = Policy(bank, "policy").sample(ids, mask, world.features(ALL, bank.vlm), settings, None, merge)
    plain = type(world.vlm.model).from_pretrained(world.base, use_safetensors=True).eval()
    theirs = PeftModel.from_pretrained(plain, tmp_path).generate(
        input_ids=ids,
        attention_mask=mask.long(),
        **world.native(ids, ALL),
        do_sample=False,
        max_new_tokens=10,
        eos_token_id=None,
        pad_token_id=PAD,
    )
    assert ours.ids.tolist() == theirs[:, ids.shape[1] :].tolist()


@pytest.mark.parametrize("layers", [None, list(LANGUAGE_MODEL_LINEAR_LAYERS)])
def test_an_adapter_is_read_onto_the_language_model_whatever_its_settings_say(world, bank, tmp_path, layers):
    """A plain list of layers, as others write it, would also be found in the tower."""
    bank.save("policy", tmp_path)
    settings = json.loads((tmp_path / ADAPTER_CONFIG).read_text())
    settings["target_modules"] = layers or settings["target_modules"]
    (tmp_path / ADAPTER_CONFIG).write_text(json.dumps(settings))
    check_adapter_fits(tmp_path, world.base)
    read = AdapterBank(world.load(), {"policy": AdapterSpec(tmp_path, trainable=True)})
    ours, theirs = bank.state_dict_of("policy"), read.state_dict_of("policy")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)

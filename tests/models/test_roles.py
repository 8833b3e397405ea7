"""Where a reward, a value and a log-probability are read, against literal loops; and what must not be computed."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from models.adapters import AdapterBank, AdapterSpec
from models.generation import SamplingSettings
from models.heads import ScalarHead
from models.roles import Policy, RewardModel, ValueModel
from models.settings import LoraSettings
from models.vlm import BaseSettings, load_base
from tests.models.tiny_banks import randomise
from tests.models.tiny_rows import IMAGE_ROW, MIXED, PIXELS, TEXT, TWO_IMAGES, last_columns, pad
from tests.support.tiny_models import PAD, STOP

LORA = LoraSettings(r=4, alpha=8.0)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # rows alone and in a batch: sums in another order
PROMPTS = (IMAGE_ROW, TEXT, TWO_IMAGES)
RESPONSES = ([20, 33, 47, STOP], [50, STOP], [61, 62, 63, 64, 65])  # right-padded to T = 5


@pytest.fixture(scope="module")
def bank(tiny_base):
    names = ("policy", "value", "reward")
    bank = AdapterBank(load_base(tiny_base, BaseSettings()), {n: AdapterSpec(LORA, True) for n in names})
    randomise(bank, *names)
    return bank


@pytest.fixture
def head(bank):
    torch.manual_seed(2)
    head = ScalarHead(bank.vlm.hidden_size)
    torch.nn.init.constant_(head.linear.bias, 0.25)
    return head


@pytest.fixture
def no_vocabulary(bank):
    """Fails the test when a vocabulary logit is computed."""

    def forbid(module, args):
        raise AssertionError("the vocabulary projection was called")

    hook = bank.vlm.model.lm_head.register_forward_pre_hook(forbid)
    yield
    hook.remove()


def inputs(bank, batch):
    return batch.input_ids, batch.mask, bank.vlm.encode_images(PIXELS, batch.image_index)


def states_alone(bank, adapter, row):
    """float[length, D]: one row without any padding or neighbour."""
    batch = pad((row,))
    with torch.no_grad(), bank.use(adapter, training=False) as vlm:
        return vlm(*inputs(bank, batch))[0]


def score(head, state):
    """w · h + b, number by number."""
    weight, bias = head.linear.weight[0].tolist(), head.linear.bias.item()
    return math.fsum(w * h for w, h in zip(weight, state.tolist(), strict=True)) + bias


def sequences():
    """Prompts left-padded, responses right-padded: a batch and its response mask bool[B, T]."""
    prompt = pad(PROMPTS)
    width = max(len(r) for r in RESPONSES)
    ids = torch.tensor([r + [PAD] * (width - len(r)) for r in RESPONSES])
    mask = torch.tensor([[i < len(r) for i in range(width)] for r in RESPONSES])
    whole = prompt._replace(
        input_ids=torch.cat([prompt.input_ids, ids], dim=1), mask=torch.cat([prompt.mask, mask], dim=1)
    )
    return whole, mask


# --- reward


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("extra", [0, 3])
@pytest.mark.usefixtures("no_vocabulary")
def test_a_reward_is_read_at_the_last_real_token(bank, head, side, extra):
    model = RewardModel(bank, "reward", head)
    with torch.no_grad():
        found = model(*inputs(bank, pad(MIXED, side, extra)))
    expected = torch.tensor([score(head, states_alone(bank, "reward", row)[-1]) for row in MIXED])
    assert expected.std() > 0.3
    assert found.dtype == torch.float32
    assert_close(found, expected, **CLOSE)


def test_a_reward_is_read_behind_a_padded_response(bank, head):
    """Padding between prompt and reward prompt, as in PPO: holes do not matter, the last real token counts."""
    batch, _ = sequences()
    padded = batch._replace(
        input_ids=torch.cat([batch.input_ids, torch.tensor([[70, 71]] * 3)], dim=1),
        mask=torch.cat([batch.mask, torch.ones(3, 2, dtype=torch.bool)], dim=1),
    )
    with torch.no_grad():
        found = RewardModel(bank, "reward", head)(*inputs(bank, padded))
    rows = [
        row._replace(ids=row.ids + response + [70, 71])
        for row, response in zip(PROMPTS, RESPONSES, strict=True)
    ]
    expected = torch.tensor([score(head, states_alone(bank, "reward", row)[-1]) for row in rows])
    assert_close(found, expected, **CLOSE)


# --- value


@pytest.mark.usefixtures("no_vocabulary")
def test_a_value_is_read_before_its_token_is_emitted(bank, head):
    batch, mask = sequences()
    with torch.no_grad():
        found = ValueModel(bank, "value", head)(
            *inputs(bank, batch), last_columns(batch.input_ids, mask.shape[1])
        )
    assert found.shape == mask.shape
    for index, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        states = states_alone(bank, "value", prompt._replace(ids=prompt.ids + response))
        for t in range(len(response)):
            expected = score(head, states[len(prompt.ids) + t - 1])
            assert found[index, t].item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_a_value_does_not_see_its_token(bank, head):
    batch, mask = sequences()
    model = ValueModel(bank, "value", head)
    changed = batch.input_ids.clone()
    changed[:, -mask.shape[1] + 1] = 77  # the second response token of every row
    with torch.no_grad():
        before = model(*inputs(bank, batch), last_columns(batch.input_ids, mask.shape[1]))
        after = model(*inputs(bank, batch._replace(input_ids=changed)), last_columns(changed, mask.shape[1]))
    assert torch.equal(before[:, :2], after[:, :2])
    assert (before[0, 2:4] != after[0, 2:4]).all()


# --- policy


def test_response_states_predict_the_response(bank):
    batch, mask = sequences()
    policy = Policy(bank, "policy")
    with torch.no_grad():
        states = policy.response_states(*inputs(bank, batch), last_columns(batch.input_ids, mask.shape[1]))
        found = policy.project(states).log_softmax(dim=-1)
    response = batch.input_ids[:, -mask.shape[1] :]
    for index, (prompt, ids) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        for t, token in enumerate(ids):
            prefix = prompt._replace(ids=prompt.ids + ids[:t])
            with torch.no_grad():
                logits = policy.project(states_alone(bank, "policy", prefix)[-1]).tolist()
            expected = logits[token] - math.log(math.fsum(math.exp(x) for x in logits))
            assert response[index, t] == token
            assert found[index, t, token].item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_roles_enter_their_own_adapter(bank, head):
    """Roles of one bank that differ in nothing but the adapter; each leaves the bank free."""
    batch, mask = sequences()
    arguments = inputs(bank, batch)
    with torch.no_grad():
        states = {
            n: Policy(bank, n).response_states(*arguments, last_columns(arguments[0], mask.shape[1]))
            for n in bank.names
        }
        values = ValueModel(bank, "value", head)(*arguments, last_columns(arguments[0], mask.shape[1]))
    assert bank.active is None
    assert torch.equal(values, head(states["value"]).detach())
    assert not torch.allclose(states["policy"], states["value"])
    assert not torch.allclose(states["policy"], states["reward"])


def test_sampling_answers_what_the_role_says(bank):
    """Greedy answers of two roles differ, and each is the argmax of that role's own logits."""
    batch = pad(PROMPTS)
    settings = SamplingSettings(max_new_tokens=4, stop_ids=(-1,), pad_id=PAD, temperature=0.0)
    answers = {}
    for name in ("policy", "reward"):
        policy = Policy(bank, name)
        answers[name] = policy.sample(*inputs(bank, batch), settings).ids
        rows = pad(
            tuple(row._replace(ids=row.ids + answers[name][i].tolist()) for i, row in enumerate(PROMPTS))
        )
        with torch.no_grad():
            logits = policy.project(
                policy.response_states(*inputs(bank, rows), last_columns(rows.input_ids, 4))
            )
        assert torch.equal(logits.argmax(dim=-1), answers[name])
    assert not torch.equal(answers["policy"], answers["reward"])


@pytest.mark.parametrize("training", [False, True])
def test_gradients_reach_the_role_and_its_head_only(tiny_base, head, training):
    bank = AdapterBank(
        load_base(tiny_base, BaseSettings()), {n: AdapterSpec(LORA, True) for n in ("policy", "value")}, True
    )
    randomise(bank, "policy", "value")
    batch, mask = sequences()
    ValueModel(bank, "value", head)(
        *inputs(bank, batch), last_columns(batch.input_ids, mask.shape[1]), training=training
    )[mask].sum().backward()
    assert bank.vlm.model.training is training
    assert all(p.grad.any() for p in bank.parameters_of("value").values())
    assert all(p.grad is None for p in bank.parameters_of("policy").values())
    assert_close(head.linear.bias.grad, mask.sum().float().reshape(1))


# --- heads


def test_a_zero_head_gives_exactly_zero(bank):
    head = ScalarHead(bank.vlm.hidden_size, zero=True)
    batch, mask = sequences()
    values = ValueModel(bank, "value", head)(
        *inputs(bank, batch), last_columns(batch.input_ids, mask.shape[1])
    )
    assert torch.equal(values, torch.zeros(mask.shape))
    values.sum().backward()
    assert head.linear.weight.grad.any()  # it can leave zero

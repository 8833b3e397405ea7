"""Products with frozen weights: the numbers and the gradients of a plain linear layer, by either library."""

from __future__ import annotations

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.testing import assert_close

from models import matrix_products
from models.matrix_products import (
    ENOUGH_WORK,
    FrozenLinear,
    few_sizes,
    frozen_linear,
    use_frozen_products,
)
from models.vlm import BaseSettings, load_base
from tests.models.tiny_banks import build_bank

pytestmark = pytest.mark.skipif(not matrix_products.HAS_ONEDNN, reason="PyTorch without oneDNN")
IN, OUT = 96, 160
MANY = ENOUGH_WORK // (IN * OUT) + 1  # rows from which on oneDNN is asked


def tensors(*shapes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


@pytest.fixture
def asked(monkeypatch):
    """Shapes of the inputs with which oneDNN was asked."""
    shapes, product = [], matrix_products._onednn_product

    def watched(x, weight, bias):
        shapes.append(tuple(x.shape))
        return product(x, weight, bias)

    monkeypatch.setattr(matrix_products, "_onednn_product", watched)
    return shapes


@pytest.mark.parametrize("rows", [(MANY,), (4, MANY // 4 + 1), (2, 2, MANY), (3,), (2, 3), (0,), ()])
@pytest.mark.parametrize("with_bias", [False, True])
def test_numbers_and_gradients(asked, rows, with_bias):
    x, weight, bias, direction = tensors((*rows, IN), (OUT, IN), (OUT,), (*rows, OUT))
    bias = bias if with_bias else None
    x.requires_grad_()
    found = frozen_linear(x, weight, bias)
    expected = torch.nn.functional.linear(
        x.double(), weight.double(), None if bias is None else bias.double()
    )
    assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    (found * direction).sum().backward()
    assert_close(x.grad.double(), direction.double() @ weight.double(), rtol=1e-5, atol=1e-4)
    many = x.numel() // IN >= MANY
    assert asked == ([tuple(x.shape), tuple(direction.shape)] if many else [])
    with torch.no_grad():
        assert torch.equal(frozen_linear(x, weight, bias), found)


def test_without_gradients_onednn_sees_few_sizes(asked):
    weight, many = tensors((OUT, IN), (2 * MANY, IN))
    with torch.no_grad():
        for count in range(MANY, 2 * MANY):
            found = frozen_linear(many[:count], weight)
            assert found.shape == (count, OUT)
        assert_close(found, many[:count] @ weight.T, rtol=1e-5, atol=1e-4)
    assert len(asked) == MANY and len(set(asked)) <= 9
    assert all(count <= shape[0] <= 1.125 * count for count, shape in enumerate(asked, MANY))


def test_logits_get_no_rows_beside_theirs(asked):
    x, weight = tensors((1001, IN), (6 * IN + 1, IN))
    with torch.no_grad():
        assert_close(frozen_linear(x, weight), x @ weight.T, rtol=1e-5, atol=1e-4)
        assert asked == [(1001, IN)]
        frozen_linear(x, weight[1:])
    assert asked[1:] == [(1024, IN)]


def test_without_gradients_onednn_is_not_asked_for_small_weights(asked):
    x, small, larger = tensors((ENOUGH_WORK // 64, 64), (128, 64), (129, 64))
    with torch.no_grad():
        for weight, times in ((small, 0), (larger, 1)):
            assert_close(frozen_linear(x, weight), x @ weight.T, rtol=1e-5, atol=1e-4)
            assert len(asked) == times
    frozen_linear(x.requires_grad_(), small)
    assert len(asked) == 2  # in training it is


@pytest.mark.parametrize(
    ("count", "size"), [(0, 0), (1, 1), (15, 15), (17, 18), (31, 32), (33, 36), (576, 576), (577, 640)]
)
def test_eight_sizes_to_every_doubling(count, size):
    assert few_sizes(count) == size


def test_inputs_and_gradients_in_any_layout(asked):
    """A transposed and a sliced input, and the gradient of a sum, which is one number seen everywhere."""
    weight, whole = tensors((OUT, IN), (IN, 2, MANY))
    for x in (whole.transpose(0, 2), whole.permute(1, 2, 0)[:, ::2][:1].expand(3, -1, -1)):
        x = x.detach().requires_grad_()
        found = frozen_linear(x, weight)
        assert_close(found.double(), x.double() @ weight.double().T, rtol=1e-5, atol=1e-4)
        found.sum().backward()
        assert_close(x.grad, weight.sum(dim=0).expand(x.shape), rtol=1e-5, atol=1e-4)
    assert len(asked) == 4


def test_weights_that_train_get_their_gradient(asked):
    x, weight, bias, direction = tensors((MANY, IN), (OUT, IN), (OUT,), (MANY, OUT))
    for trained in ((weight,), (bias,), (weight, bias)):
        for tensor in (weight, bias):
            tensor.grad = None
            tensor.requires_grad_(any(tensor is one for one in trained))
        (frozen_linear(x, weight, bias) * direction).sum().backward()
        for tensor, expected in ((weight, direction.T @ x), (bias, direction.sum(dim=0))):
            if tensor.requires_grad:
                assert_close(tensor.grad, expected, rtol=1e-4, atol=1e-3)
            else:
                assert tensor.grad is None
    assert asked == []


def test_other_precisions_are_none_of_its_business(asked):
    x, weight = tensors((MANY, IN), (OUT, IN))
    assert frozen_linear(x.bfloat16(), weight.bfloat16()).dtype == torch.bfloat16
    assert frozen_linear(x.double(), weight.double()).dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert frozen_linear(x, weight).dtype == torch.bfloat16
    assert asked == []


def test_a_second_derivative_is_an_error_and_not_a_wrong_number():
    x, weight = tensors((MANY, IN), (OUT, IN))
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(frozen_linear(x, weight).pow(3).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_only_plain_linear_layers_are_changed():
    class Special(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(3, 4), Special(4, 5), nn.Embedding(6, 7))
    before = model.state_dict()
    assert use_frozen_products(model) is model
    assert [type(module) for module in model] == [FrozenLinear, Special, nn.Embedding]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("bits", "kind"), [(16, "FrozenLinear"), (8, "Linear8bitLt"), (4, "Linear4bit")])
def test_a_loaded_base_uses_them(tiny_base, bits, kind):
    model = build_bank(tiny_base, bits=bits).vlm.model
    layers = [module.get_base_layer() for module in model.modules() if isinstance(module, LoraLayer)]
    assert {type(layer).__name__ for layer in layers} == {kind}
    tower = load_base(tiny_base, BaseSettings(bits=bits)).model.model.vision_tower
    linear = [module for module in (*tower.modules(), model.lm_head) if isinstance(module, nn.Linear)]
    assert len(linear) > 2 and {type(module) for module in linear} == {FrozenLinear}

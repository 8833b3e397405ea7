"""Learning rate and optimizer by name."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from llava_rlhf.ppo.optimization import check_optimizer, learning_rate_schedule, make_optimizer


def test_cosine_with_warm_up_by_hand():
    rate = learning_rate_schedule("cosine", 8.0, warmup_steps=4, total_steps=12)
    # 1/4, 2/4, 3/4, 4/4 of 8 in steps 0 to 3, then half a cosine from step 4 to step 12, where it would be 0.
    assert [rate(step) for step in range(5)] == [2.0, 4.0, 6.0, 8.0, 8.0]
    assert rate(8) == pytest.approx(4.0)  # half way down
    assert rate(11) == pytest.approx(4.0 * (1 + math.cos(math.pi * 7 / 8)))
    assert rate(11) > 0


def test_the_first_and_the_last_step_always_move():
    for name in ("cosine", "linear", "constant_with_warmup"):
        for total in (1, 2, 7):
            rate = learning_rate_schedule(name, 1.0, warmup_steps=3, total_steps=total)
            assert rate(0) > 0 and rate(total - 1) > 0


def test_constant_is_constant():
    rate = learning_rate_schedule("constant", 0.5, warmup_steps=0, total_steps=3)
    assert [rate(step) for step in range(3)] == [0.5, 0.5, 0.5]


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no_such"):
        learning_rate_schedule("no_such", 1.0, 0, 10)
    with pytest.raises(ValueError, match="reduce_lr_on_plateau"):
        learning_rate_schedule("reduce_lr_on_plateau", 1.0, 0, 10)
    with pytest.raises(ValueError, match=r"--optim sgd.*adamw_torch"):
        check_optimizer("sgd")


@pytest.mark.parametrize("name", ["adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_32bit"])
def test_every_optimizer_takes_adams_first_step(name):
    parameter = nn.Parameter(torch.ones(8))
    optimizer = make_optimizer(name, [[parameter]], learning_rate=0.25, weight_decay=0.0)
    (parameter * torch.tensor([3.0, -3.0] * 4)).sum().backward()
    optimizer.step()
    # The first step of Adam is the learning rate against the gradient's sign.
    expected = 1 - 0.25 * torch.tensor([1.0, -1.0] * 4)
    assert torch.allclose(parameter.detach(), expected, atol=2e-3 if name == "adamw_8bit" else 1e-6)

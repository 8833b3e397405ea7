"""Masked statistics: by hand, against torch's own on the selected values, and under regrouping."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_rlhf.functional.masked import (
    Moments,
    last_true_index,
    masked_sum,
    merge_moments,
    moments,
    whiten,
)

NAN = float("nan")
# Real values 1, 2 / 6: sum 9, mean 3, squared deviations 4 + 1 + 9 = 14, population variance 14/3.
X = torch.tensor([[1.0, 2.0, NAN], [6.0, NAN, float("inf")]])
MASK = torch.tensor([[True, True, False], [True, False, False]])


def test_by_hand_with_garbage_on_padding():
    assert masked_sum(X, MASK).item() == 9.0
    assert moments(X, MASK).var.item() == pytest.approx(14 / 3, rel=1e-12)


def test_gradient_reaches_real_positions_only():
    x = X.clone().requires_grad_()
    masked_sum(x, MASK).backward()
    torch.testing.assert_close(x.grad, MASK.float())


def test_nothing_counts():
    nothing = torch.zeros_like(MASK)
    assert masked_sum(X, nothing).item() == 0.0
    assert moments(X, nothing) == (0.0, 0.0, 0.0)


def test_a_mask_is_bool_and_of_the_same_shape():
    with pytest.raises(AssertionError, match=r"float32"):
        masked_sum(X, MASK.float())
    with pytest.raises(AssertionError, match=r"differ in shape"):
        masked_sum(X, MASK[:, :1])


def test_moments_by_hand():
    count, mean, m2 = moments(X, MASK)
    assert (count.item(), mean.item()) == (3.0, 3.0)
    assert m2.item() == pytest.approx(14.0, rel=1e-12)
    assert count.dtype == mean.dtype == m2.dtype == torch.float64


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), groups=st.integers(1, 5), offset=st.sampled_from([0.0, 1e4]))
def test_merged_moments_equal_those_of_all_numbers(seed, groups, offset):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(groups, 3, 4, generator=generator) + offset
    mask = torch.rand(groups, 3, 4, generator=generator) < 0.6
    mask[0, 0, 0] = True
    parts = [moments(a, b) for a, b in zip(x, mask, strict=True)]
    for order in (parts, parts[::-1]):
        merged = merge_moments(order)
        chosen = x[mask].double()
        assert merged.count.item() == chosen.numel()
        torch.testing.assert_close(merged.mean, chosen.mean(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(merged.var, chosen.var(correction=0), rtol=1e-9, atol=1e-12)


def test_a_process_without_tokens_changes_nothing():
    empty = moments(X, torch.zeros_like(MASK))
    assert [field.item() for field in empty] == [0.0, 0.0, 0.0]
    alone = moments(X, MASK)
    for merged, single in zip(merge_moments([empty, alone, empty]), alone, strict=True):
        assert merged == single


def test_moments_travel_as_one_tensor():
    sent = torch.stack(moments(X, MASK))
    assert sent.shape == (3,) and sent.dtype == torch.float64
    assert Moments(*sent).var.item() == pytest.approx(14 / 3, rel=1e-12)


def test_whiten_by_hand():
    std = (14 / 3) ** 0.5
    shifted = whiten(X, MASK, moments(X, MASK), shift_mean=True)
    torch.testing.assert_close(shifted, torch.tensor([[-2.0, -1.0, 0.0], [3.0, 0.0, 0.0]]) / std)
    kept = whiten(X, MASK, moments(X, MASK), shift_mean=False)
    torch.testing.assert_close(kept, torch.tensor([[3 - 2 / std, 3 - 1 / std, 0], [3 + 3 / std, 0, 0]]))


def test_equal_numbers_whiten_to_zero():
    x = torch.full((2, 3), 5.0)
    assert whiten(x, MASK, moments(x, MASK), shift_mean=True).abs().max() == 0.0


def test_whitening_with_no_numbers_is_refused():
    with pytest.raises(ValueError, match="cannot whiten"):
        whiten(X, MASK, moments(X, torch.zeros_like(MASK)), shift_mean=True)


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whitening_in_parts_and_with_more_padding_changes_nothing(shift_mean):
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)) * 3 + 7
    mask = torch.arange(5) < torch.tensor([[5], [1], [3], [2], [5], [4]])
    whole = whiten(x, mask, moments(x, mask), shift_mean)
    shared = merge_moments([moments(x[:1], mask[:1]), moments(x[1:], mask[1:])])
    parts = torch.cat(
        [whiten(x[:1], mask[:1], shared, shift_mean), whiten(x[1:], mask[1:], shared, shift_mean)]
    )
    torch.testing.assert_close(parts, whole)
    wide_x = torch.cat([x, torch.full((6, 4), 1e6)], dim=1)
    wide_mask = torch.cat([mask, torch.zeros(6, 4, dtype=torch.bool)], dim=1)
    padded = whiten(wide_x, wide_mask, moments(wide_x, wide_mask), shift_mean)
    torch.testing.assert_close(padded[:, :5], whole)
    assert padded[:, 5:].abs().max() == 0.0


def test_last_true_index():
    mask = torch.tensor([[True, True, False], [True, False, False], [True, True, True], [False, True, False]])
    assert last_true_index(mask).tolist() == [1, 0, 2, 1]
    with pytest.raises(ValueError, match=r"rows \[1, 3\]"):
        last_true_index(mask & torch.tensor([[True], [False], [True], [False]]))

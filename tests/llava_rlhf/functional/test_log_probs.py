"""Log-probabilities and entropies: by hand, against float64, and chunked against whole, gradients and memory included."""

from __future__ import annotations

import math

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.functional import cross_entropy

from llava_rlhf.functional.log_probs import head_log_probs

N, D, V = 11, 6, 17
INF = float("inf")


@pytest.fixture
def head():
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(N, D, generator=generator, requires_grad=True)
    linear = torch.nn.Linear(D, V).requires_grad_(False)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(V, D, generator=generator))
        linear.bias.copy_(torch.randn(V, generator=generator))
    targets = torch.randint(V, (N,), generator=generator)
    return hidden, targets, linear


def of_logits(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropies where the head gives these logits."""
    return head_log_probs(logits, targets, torch.clone, 1.0, 2, with_entropy=True)


def test_by_hand():
    # Odds 1 : 2 : 5, so p = 1/8, 2/8, 5/8; adding a constant to a row changes nothing.
    logits = torch.log(torch.tensor([[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]])) + torch.tensor([[0.0], [100.0]])
    log_probs, entropies = of_logits(logits, torch.tensor([2, 0]))
    # float32 holds 100 to 8e-6, which is what is left after the constant is taken off again.
    torch.testing.assert_close(log_probs, torch.tensor([5 / 8, 1 / 8]).log(), rtol=1e-5, atol=2e-5)
    entropy = -(math.log(1 / 8) / 8 + 2 * math.log(2 / 8) / 8 + 5 * math.log(5 / 8) / 8)
    torch.testing.assert_close(entropies, torch.tensor([entropy, entropy]), rtol=1e-5, atol=2e-5)


def test_impossible_tokens_take_no_probability_and_no_entropy():
    logits = torch.log(torch.tensor([[1.0, 3.0, 7.0]]))
    logits[0, 2] = -INF
    log_probs, entropy = of_logits(logits, torch.tensor([1]))
    torch.testing.assert_close(log_probs, torch.tensor([3 / 4]).log())
    assert of_logits(logits, torch.tensor([2]))[0].item() == -INF
    expected = -(math.log(1 / 4) / 4 + 3 * math.log(3 / 4) / 4)
    torch.testing.assert_close(entropy, torch.tensor([expected]))


def test_half_precision_logits_are_upcast():
    logits = torch.randn(4, 5000, generator=torch.Generator().manual_seed(0)).bfloat16()
    targets = torch.tensor([0, 17, 4999, 256])
    log_probs, entropy = of_logits(logits, targets)
    assert log_probs.dtype == entropy.dtype == torch.float32
    exact = logits.double().log_softmax(-1)
    torch.testing.assert_close(log_probs, exact.gather(1, targets[:, None])[:, 0].float())
    torch.testing.assert_close(entropy, -(exact.exp() * exact).sum(-1).float())


@pytest.mark.parametrize("chunk_size", [1, 4, N, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunked_head_equals_the_whole_table(head, chunk_size, temperature):
    hidden, targets, linear = head
    banned = torch.tensor([(int(targets[0]) + 1) % V])
    targets = torch.where(targets == banned, targets[0], targets)
    weights = torch.linspace(-1, 2, N)

    table = (linear(hidden) / temperature).double().index_fill(1, banned, -INF).log_softmax(dim=-1)
    expected = table.gather(1, targets[:, None])[:, 0].float()
    (expected_grad,) = torch.autograd.grad((expected * weights).sum(), [hidden])
    finite = table.detach().masked_fill(table.detach() == -INF, 0.0)
    expected_entropy = -(finite.exp() * finite).sum(-1).float()

    log_probs, entropy = head_log_probs(hidden, targets, linear, temperature, chunk_size, True, banned)
    (grad,) = torch.autograd.grad((log_probs * weights).sum(), [hidden])
    torch.testing.assert_close(log_probs, expected)
    torch.testing.assert_close(entropy, expected_entropy)
    assert not entropy.requires_grad
    torch.testing.assert_close(grad, expected_grad)
    with torch.no_grad():
        without_grad, nothing = head_log_probs(
            hidden, targets, linear, temperature, chunk_size, False, banned
        )
    assert torch.equal(without_grad, log_probs) and nothing is None


def test_a_banned_target_is_impossible_and_the_others_share_its_probability(head):
    hidden, targets, linear = head
    banned = targets[:1]
    log_probs, entropy = head_log_probs(hidden, targets, linear, 1.0, 4, True, banned)
    assert log_probs[0].item() == -INF
    assert entropy.isfinite().all()
    every_target = torch.arange(V)
    row, _ = head_log_probs(hidden[:1].expand(V, D), every_target, linear, 1.0, 4, False, banned)
    assert row.exp().sum().item() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("train", [True, False])
def test_no_logits_outlive_their_chunk(head, train):
    hidden, targets, linear = head
    storages: list[StorageWeakRef] = []
    alive_at_each_call = []

    def project(chunk):
        alive_at_each_call.append(sum(not storage.expired() for storage in storages))
        logits = linear(chunk)
        storages.append(StorageWeakRef(logits.untyped_storage()))
        return logits

    with torch.set_grad_enabled(train):
        log_probs, _ = head_log_probs(hidden, targets, project, 1.0, 3, with_entropy=True)
    assert len(storages) == math.ceil(N / 3)
    assert all(storage.expired() for storage in storages), "forward keeps logits"
    if train:
        log_probs.sum().backward()
        assert len(storages) == math.ceil(N / 3), "backward projects nothing again"
    assert max(alive_at_each_call) == 0, "the chunk before is still there"


def test_nothing_of_vocabulary_size_is_saved_for_backward(head):
    hidden, targets, linear = head
    saved = []

    def pack(tensor):
        # The head's own weight is there anyway.
        if tensor.untyped_storage().data_ptr() != linear.weight.untyped_storage().data_ptr():
            saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        head_log_probs(hidden, targets, linear, 1.0, N, with_entropy=True)
    assert saved == [] or max(saved) < N * V


ROWS, WIDTH = 8, 4096
TABLE = ROWS * WIDTH * 4


def memory_of_a_chunk(**settings) -> int:
    """Bytes held at most, as PyTorch's profiler counts them."""
    hidden = torch.randn(ROWS, D, requires_grad=True)
    weight = torch.randn(WIDTH, D)
    targets = torch.randint(WIDTH, (ROWS,))
    with torch.profiler.profile(profile_memory=True) as profile:
        head_log_probs(hidden, targets, lambda x: x @ weight.t(), 0.7, ROWS, True, targets[:1], **settings)
    held = highest = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            highest = max(highest, held)
    return highest


@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_a_chunk_needs_two_tables(entropy_gradient):
    """Its logits and one more."""
    assert 2 * TABLE <= memory_of_a_chunk(entropy_gradient=entropy_gradient) < 2.1 * TABLE


def test_the_summed_cross_entropy_equals_torch(head):
    hidden, targets, linear = head
    expected = cross_entropy(linear(hidden), targets, reduction="sum")
    loss = -head_log_probs(hidden, targets, linear, 1.0, 4, with_entropy=False)[0].sum()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, hidden), torch.autograd.grad(expected, hidden))


def test_no_supervised_token_gives_zero_and_still_a_graph(head):
    hidden, targets, linear = head
    loss = -head_log_probs(hidden[:0], targets[:0], linear, 1.0, 4, with_entropy=False)[0].sum()
    loss.backward()
    assert loss.item() == 0.0
    assert hidden.grad.abs().max() == 0.0


def entropy_of(logits: torch.Tensor, banned: torch.Tensor) -> torch.Tensor:
    log_probs = logits.index_fill(1, banned, -INF).log_softmax(dim=-1)
    return -(log_probs.exp() * log_probs.clamp(min=-1e30)).sum(-1)


@pytest.mark.parametrize("chunk_size", [1, 4, N])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_entropys_gradient_equals_that_of_the_whole_softmax(head, chunk_size, temperature):
    """Beside that of the log-probability, which it does not change."""
    hidden, targets, linear = head
    banned = torch.tensor([(int(targets[0]) + 1) % V])
    targets = torch.where(targets == banned, targets[0], targets)
    settings = (temperature, chunk_size, True, banned)
    weights = torch.linspace(-1, 2, N)
    expected = entropy_of(linear(hidden) / temperature, banned)
    log_probs, entropy = head_log_probs(hidden, targets, linear, *settings, entropy_gradient=True)
    torch.testing.assert_close(entropy, expected)
    gradients = [torch.autograd.grad((x * weights).sum(), hidden)[0] for x in (entropy, expected)]
    assert gradients[1].abs().max() > 0.1
    torch.testing.assert_close(*gradients)
    without, plain = head_log_probs(hidden, targets, linear, *settings)
    assert torch.equal(without, log_probs) and torch.equal(plain, entropy) and not plain.requires_grad
    assert torch.equal(*(torch.autograd.grad((x * weights).sum(), hidden)[0] for x in (without, log_probs)))


def test_the_entropys_gradient_by_hand():
    # p = 1/4, 3/4: d H / d x = −p (log p + H), and at temperature 2 logits count half.
    logits = (2 * torch.log(torch.tensor([[1.0, 3.0]]))).requires_grad_()
    _, entropy = head_log_probs(logits, torch.tensor([0]), torch.clone, 2.0, 1, True, entropy_gradient=True)
    h = -(math.log(1 / 4) / 4 + 3 * math.log(3 / 4) / 4)
    slope = -0.25 * (math.log(1 / 4) + h) / 2
    (gradient,) = torch.autograd.grad(entropy.sum(), logits)
    torch.testing.assert_close(gradient, torch.tensor([[slope, -slope]]))


def test_ranges_are_checked(head):
    hidden, targets, linear = head
    with pytest.raises(ValueError, match="temperature must be > 0, got 0"):
        head_log_probs(hidden, targets, linear, 0.0, 4, False)
    with pytest.raises(ValueError, match="chunk_size must be >= 1 token, got 0"):
        head_log_probs(hidden, targets, linear, 1.0, 0, False)

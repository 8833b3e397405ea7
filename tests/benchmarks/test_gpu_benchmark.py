"""The GPU benchmark, tried on a CPU at the smallest size: it runs, and what it divides by is right."""

from __future__ import annotations

import sys

import pytest
import torch
from accelerate.state import AcceleratorState

from benchmarks import adapters_per_row, gpu_step
from benchmarks.ppo_world import SIZES, mixed_lengths, random_model


@pytest.fixture(autouse=True)
def new_accelerator():
    """accelerate keeps the precision of the first program in a process for all that follow."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_answers_have_the_stated_lengths():
    lengths = mixed_lengths(32)
    assert len(lengths) == 32 and max(lengths) == 896 and len(set(lengths)) > 25
    assert sum(lengths) / 32 == pytest.approx(200, rel=0.05)


@pytest.mark.slow
def test_a_step_is_timed_and_its_work_adds_up():
    result = gpu_step.time_line("tiny-bf16", 1, "cpu")
    size = SIZES["tiny"]
    # Whoever has not stopped is decoded once a token, but for the first, which the prompt gives, and the last.
    assert result["decoding steps"] == max(size.lengths) - 1
    prompt = 48 - 1 + size.positions
    tokens = sum(size.lengths)
    assert result["sampled LM tokens"] == 8 * prompt + tokens - 8
    assert result["cache columns"] == sum(sum(prompt + t for t in range(n - 1)) for n in size.lengths)
    assert result["projected in sampling"] == tokens
    assert result["projected with gradient"] == 2 * tokens
    assert result["sampling GFLOP"] + result["scoring GFLOP"] + result["update GFLOP"] == pytest.approx(
        result["GFLOP"]
    )
    for share in ("update share", "scoring share", "decode share"):
        assert 0 < result[share] < 1
    assert "tiny-bf16" in gpu_step.table_line("tiny-bf16", result)


def test_decoding_reads_weights_once_a_step_and_keys_and_values():
    vlm = random_model(SIZES["tiny"], torch.bfloat16, "cpu")
    layer = 4 * 64 * 64 + 3 * 64 * 176 + 2 * 64  # and two norms
    weights = 2 * (3 * layer + 32000 * 64)
    counts = {"decoding steps": 5, "cache columns": 7}
    assert gpu_step.decoding_bytes(vlm, counts) == 5 * weights + 7 * 2 * 2 * 3 * 64


def test_four_bits_without_bitsandbytes_say_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", None)
    with pytest.raises(ImportError, match="bitsandbytes"):
        gpu_step.time_line("tiny-nf4", 1, "cpu")
    assert gpu_step.table_line("7b-nf4", {"skipped": "no bitsandbytes"}).endswith("skipped: no bitsandbytes")


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="--lines 7b-int8"):
        gpu_step.prepare(["--output_file", "x", "--lines", "7b-int8"])
    with pytest.raises(ValueError, match="--sizes 70b"):
        adapters_per_row.prepare(["--sizes", "70b"])


def test_both_ways_of_scoring_two_adapters_give_the_same():
    arguments = adapters_per_row.prepare(["--sizes", "tiny", "--rows", "2", "--columns", "12"])
    bank, inputs = adapters_per_row.build(SIZES["tiny"], arguments)
    two, one = adapters_per_row.two_passes(bank, *inputs), adapters_per_row.one_pass(bank, *inputs)
    assert not torch.allclose(two[:2], two[2:], atol=1e-3)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)

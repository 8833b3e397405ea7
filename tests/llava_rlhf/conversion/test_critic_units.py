"""A value head that speaks in the critic's units is written for the original in those of the rewards."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from llava_rlhf import convert_checkpoint
from llava_rlhf.conversion.adapter_layouts import PPO_KIND
from llava_rlhf.ppo.return_normalizer import ReturnNormalizer
from llava_rlhf.runs.checkpoints import COMPLETE
from llava_rlhf.runs.role_files import VALUE_HEAD
from models.heads import ScalarHead
from tests.support.tiny_data import command_line

# Two PPO steps of returns, 40 and 80 on average: 0.9 · 0.1 and 0.1 of the weight, by hand. Squares 2000 and 8000.
RETURNS = {"weight": 0.19, "first": 0.09 * 40 + 0.1 * 80, "second": 0.09 * 2000 + 0.1 * 8000}
MEAN, SPREAD = 11.6 / 0.19, (980 / 0.19 - (11.6 / 0.19) ** 2) ** 0.5


@pytest.fixture
def run(checkpoints, small_base, tmp_path) -> Path:
    """A run folder of ours after its end, with its last checkpoint, of a critic in its own units."""
    argv = command_line(input=checkpoints[PPO_KIND], output=tmp_path / "run", base_model=small_base)
    convert_checkpoint.run(convert_checkpoint.prepare(argv))
    folder = tmp_path / "run"
    record(folder, normalize_returns=True)
    last = folder / "checkpoint-2"
    shutil.copytree(folder, tmp_path / "copy")
    shutil.move(tmp_path / "copy", last)
    (last / COMPLETE).touch()
    (last / "state.json").write_text(json.dumps({"step": 2, "returns": RETURNS}))
    return folder


def record(folder: Path, **settings: bool) -> None:
    (folder / "arguments.json").write_text(json.dumps({"EstimatorArguments": settings}))


def original_head(source: Path, output: Path) -> dict[str, torch.Tensor]:
    argv = command_line(input=source, output=output, to="original")
    convert_checkpoint.run(convert_checkpoint.prepare(argv))
    return torch.load(output / "value_head.pt", weights_only=True)


@pytest.mark.parametrize("place", [".", "checkpoint-2"])
def test_values_stay_what_they_are(place, run, tmp_path):
    head = ScalarHead(load_file(run / VALUE_HEAD)["weight"].shape[1])
    head.load(run / VALUE_HEAD)
    normalizer = ReturnNormalizer(head)
    normalizer.load_state_dict(RETURNS)
    states = torch.randn(5, head.hidden_size, generator=torch.Generator().manual_seed(0))
    found = original_head(run / place, tmp_path / "back")
    with torch.no_grad():
        expected = normalizer.values(head(states)).flatten()
    assert_close((states @ found["weight"].T + found["bias"]).flatten(), expected)
    assert_close(found["bias"], head.linear.bias.detach() * SPREAD + MEAN)
    assert abs(expected).min() > 1, "in units of the rewards they are far from what the head says"


@pytest.mark.parametrize("recorded", [None, {}, {"normalize_returns": False}])
def test_a_head_in_units_of_the_rewards_is_written_as_it_is(recorded, run, tmp_path):
    if recorded is None:
        (run / "arguments.json").unlink()
    else:
        record(run, **recorded)
    ours, found = load_file(run / VALUE_HEAD), original_head(run, tmp_path / "back")
    assert found.keys() == ours.keys() and all(torch.equal(found[name], ours[name]) for name in ours)


def test_a_head_whose_units_no_file_tells_is_refused(run, tmp_path):
    stopped = run / "stopped-in-step-2"
    shutil.copytree(run / "checkpoint-2", stopped)
    for name in ("state.json", "arguments.json", COMPLETE):
        (stopped / name).unlink()
    head = load_file(run / VALUE_HEAD)
    save_file({**head, "bias": head["bias"] + 1}, run / VALUE_HEAD)  # of another step than the checkpoint's
    for folder in (run, stopped):
        with pytest.raises(
            ValueError, match=f"{folder}: its critic .*Name a checkpoint of the run as --input"
        ):
            original_head(folder, tmp_path / "back")


def test_a_critic_that_read_facts_is_spoken_of(run, tmp_path, capsys):
    for facts, units in itertools.product((False, True), (False, True)):
        record(run, normalize_returns=units, value_sees_facts=facts)
        original_head(run, tmp_path / f"back {facts} {units}")
        assert ("its critic read the reward prompt with its facts" in capsys.readouterr().out) == facts

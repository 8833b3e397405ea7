"""Training of a reward head of two layers, and that the published one is drawn as ever."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

from llava_rlhf import train_reward_model
from llava_rlhf.assembly import reward_models
from llava_rlhf.runs.arguments import AdapterArguments
from llava_rlhf.runs.reward_card import read_reward_card
from llava_rlhf.runs.run_folder import read_json_lines
from models.adapters import AdapterBank, AdapterSpec
from models.heads import head_shapes
from models.vlm import BaseSettings, load_base
from tests.support.reward_models import plain_scores
from tests.support.tiny_data import reward_command


def run(argv):
    prepared = train_reward_model.prepare(argv)
    train_reward_model.run(prepared)
    return prepared


def test_a_head_of_two_layers_is_trained_as_a_loop_over_pairs_trains_it(tiny_data, tiny_base, tmp_path):
    """Saved, named in the card, continued bit for bit, and of other numbers than it began with."""
    settings = {"reward_head": "mlp", "max_steps": 2, "save_steps": 1, "learning_rate": 1e-2, "eval_size": 4}
    prepared = run(reward_command(tiny_data, tiny_base, tmp_path / "whole", **settings))
    card = read_reward_card(tmp_path / "whole")
    assert (card.reward_head, prepared.card.reward_head) == ("mlp", "mlp")
    rows = plain_scores(tiny_base, tmp_path / "whole", prepared.eval_set)
    mean = sum(first + second for first, second, _ in rows) / (2 * len(rows))
    (final,) = (
        line for line in read_json_lines(tmp_path / "whole" / "metrics.jsonl") if "final_loss" in line
    )
    assert final["final_average_score"] == pytest.approx(mean, rel=1e-4, abs=1e-5)
    heads = [load_file(tmp_path / "whole" / f"checkpoint-{n}" / "reward_head.safetensors") for n in (1, 2)]
    assert all((heads[0][name] != heads[1][name]).any() for name in head_shapes("mlp", 1))

    (tmp_path / "again").mkdir()
    (tmp_path / "whole" / "checkpoint-1").rename(tmp_path / "again" / "checkpoint-1")
    with pytest.raises(ValueError, match="reward_head: then mlp, now linear"):
        train_reward_model.prepare(
            reward_command(tiny_data, tiny_base, tmp_path / "again", **{**settings, "reward_head": "linear"})
        )
    run(reward_command(tiny_data, tiny_base, tmp_path / "again", **settings))
    again = load_file(tmp_path / "again" / "reward_head.safetensors")
    assert all(torch.equal(again[name], value) for name, value in heads[1].items())


def test_a_linear_head_is_drawn_as_before_there_was_a_choice(tiny_base):
    """The numbers that a seed gives are published results: adapter first, then w ~ N(0, 1/(D+1))."""
    settings, arguments = BaseSettings(), AdapterArguments(lora_r=4)
    torch.manual_seed(3)
    found = reward_models.new_reward_model(tiny_base, settings, arguments, False)
    torch.manual_seed(3)
    bank = AdapterBank(
        load_base(tiny_base, settings), {"lora_reward": AdapterSpec(arguments.lora_settings(), True)}
    )
    linear = torch.nn.Linear(bank.vlm.hidden_size, 1)
    torch.nn.init.normal_(linear.weight, std=1 / math.sqrt(bank.vlm.hidden_size + 1))
    assert torch.equal(found.head.linear.weight, linear.weight)

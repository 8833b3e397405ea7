"""Direct preference optimisation against a literal twin of plain models, and runs that must be equal."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from data_utils.answer_pairs import AnswerPairCollator
from llava_rlhf import initialize_policy_model
from llava_rlhf.assembly import reward_models
from llava_rlhf.assembly.preference_roles import policy_and_reference
from llava_rlhf.runs.arguments import AdapterArguments
from llava_rlhf.runs.metrics import meaning_of
from llava_rlhf.runs.run_folder import read_json_lines
from llava_rlhf.supervised.dpo_trainer import AnswerComparison
from models.vlm import BaseSettings
from tests.support.literal_dpo import literal_dpo
from tests.support.plain_models import PlainRole
from tests.support.tiny_data import dpo_command
from tests.support.tiny_models import IMAGE, PAD

SGD = {"optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0, "lr_scheduler_type": "constant"}
ALL_ROWS = {"per_device_train_batch_size": 16}
COMPARED = (
    *("loss", "chosen_reward", "rejected_reward", "reward_margin", "accuracy", "approxkl"),
    *("chosen_log_prob", "rejected_log_prob"),
)


def run(argv):
    prepared = initialize_policy_model.prepare(argv)
    initialize_policy_model.run(prepared)
    return prepared


def adapter(folder):
    return load_file(folder / "lora_policy" / "adapter_model.safetensors")


def lines(folder, key):
    return [line for line in read_json_lines(folder / "metrics.jsonl") if key in line]


def items(dataset):
    return [dataset[index] for index in range(len(dataset))]


def moves(policy_run, **changes):
    """Flags of a run that starts from a trained policy, of rank 4, with steps that matter."""
    return {"policy_model_name_or_path": policy_run, "learning_rate": 1e-2, **changes}


@pytest.mark.parametrize("start", ["base", "adapter"])
def test_loss_and_metrics_are_those_of_whole_sequences_without_padding(
    start, tiny_data, tiny_base, policy_run, tmp_path
):
    """Rows with an image, with two, of text alone, and with an earlier answer, which is not compared."""
    named = policy_run if start == "adapter" else None
    settings = moves(named, max_steps=3, eval_size=7, per_device_eval_batch_size=7)
    argv = dpo_command(tiny_data, tiny_base, tmp_path, dpo_beta=0.3, dpo_label_smoothing=0.1, **settings)
    prepared = run(argv)
    assert {len(item.chosen.images) for item in items(prepared.eval_set)} >= {0, 1}
    policy = PlainRole(tiny_base, tmp_path / "lora_policy")
    reference = PlainRole(tiny_base, policy_run / "lora_policy") if named else None
    expected = literal_dpo(policy, reference, items(prepared.eval_set), 0.3, 0.1)
    (final,) = lines(tmp_path, "final_loss")
    assert all(meaning_of(name) for line in lines(tmp_path, "step") for name in set(line) - {"step"})
    assert abs(final["final_reward_margin"]) > 1e-3 and final["final_approxkl"] > 1e-4
    for name in COMPARED:
        assert final[f"final_{name}"] == pytest.approx(float(expected[name].detach()), rel=1e-5, abs=1e-5), (
            name
        )


def test_the_first_step_knows_no_difference(tiny_data, tiny_base, policy_run, tmp_path):
    """Policy and reference start as one: every margin is 0, and the loss log 2."""
    run(dpo_command(tiny_data, tiny_base, tmp_path, **moves(policy_run, max_steps=1)))
    (first,) = lines(tmp_path, "loss")
    assert first["loss"] == pytest.approx(math.log(2), rel=1e-6)
    assert (first["accuracy"], first["approxkl"], first["reward_margin"]) == (0.5, 0.0, 0.0)


def test_the_gradient_is_that_of_the_twin_by_autograd(tiny_data, tiny_base, policy_run, tmp_path):
    """Of the second step, in which the margins are no longer 0: under plain SGD the weights move by it."""
    settings = moves(policy_run, max_steps=2, save_steps=1, dpo_beta=0.5, **{**SGD, **ALL_ROWS})
    prepared = run(dpo_command(tiny_data, tiny_base, tmp_path, **settings))
    before, after = tmp_path / "checkpoint-1", tmp_path / "checkpoint-2"
    policy = PlainRole(tiny_base, before / "lora_policy", trainable=True)
    reference = PlainRole(tiny_base, policy_run / "lora_policy")
    found = literal_dpo(policy, reference, items(prepared.train_set), 0.5, 0.0)
    assert abs(float(found["reward_margin"].detach())) > 1e-3
    found["loss"].backward()
    first, second, size = adapter(before), adapter(after), 0.0
    named = dict(policy.model.named_parameters())
    for name, weight in first.items():
        gradient = named[name.replace(".weight", ".default.weight")].grad
        torch.testing.assert_close(first[name] - second[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
        size = max(size, float(gradient.abs().max()))
        assert weight.shape == gradient.shape
    assert size > 1e-2


def test_accumulation_over_uneven_rows_equals_one_big_batch(tiny_data, tiny_base, policy_run, tmp_path):
    layouts, runs = {"one": (8, 1), "four": (2, 4), "eight": (1, 8)}, {}
    for name, (size, accumulation) in layouts.items():
        batch = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        settings = moves(policy_run, max_steps=3, **{**SGD, "learning_rate": 0.1, **batch})
        run(dpo_command(tiny_data, tiny_base, tmp_path / name, **settings))
        runs[name] = adapter(tmp_path / name), lines(tmp_path / name, "loss")
    for name in ("four", "eight"):
        for key, value in runs["one"][0].items():
            torch.testing.assert_close(runs[name][0][key], value, rtol=1e-5, atol=1e-6, msg=key)
        for line, expected in zip(runs[name][1], runs["one"][1], strict=True):
            assert line == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_rows_that_only_fill_a_step_count_nowhere(tiny_data, tiny_base, tmp_path):
    """16 rows in 4 steps of 5: four rows stand there only to fill them. One line of metrics tells of all."""
    batch = {"per_device_train_batch_size": 5, "max_steps": 4, "logging_steps": 4, "learning_rate": 0.0}
    prepared = run(dpo_command(tiny_data, tiny_base, tmp_path, **batch))
    (line,) = lines(tmp_path, "loss")
    policy = PlainRole(tiny_base, tmp_path / "lora_policy")
    every = literal_dpo(policy, None, items(prepared.train_set), 0.1, 0.0)
    for name in ("chosen_log_prob", "rejected_log_prob"):
        assert line[name] == pytest.approx(float(every[name].detach()), rel=1e-5)
    assert line["loss"] == pytest.approx(math.log(2), rel=1e-5)  # divided by the real pairs of each step


@pytest.mark.slow
def test_gradient_checkpointing_changes_nothing(tiny_data, tiny_base, policy_run, tmp_path):
    """The layers are recomputed under the policy, though the reference has been through them."""
    for on in (False, True):
        settings = moves(policy_run, **{**SGD, "learning_rate": 0.1}, gradient_checkpointing=on)
        run(dpo_command(tiny_data, tiny_base, tmp_path / str(on), **settings))
    first, second = adapter(tmp_path / "False"), adapter(tmp_path / "True")
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-5, atol=1e-7, msg=name)


class Killed(Exception):
    """Raised in the middle of a run."""


def test_killed_and_continued_equals_uninterrupted(tiny_data, tiny_base, tmp_path, monkeypatch):
    """Bit for bit; a line of metrics every 3 steps spans the checkpoint, and dropout draws random numbers."""
    settings = {
        "max_steps": 6,
        "save_steps": 4,
        "logging_steps": 3,
        "learning_rate": 1e-2,
        "lora_dropout": 0.2,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 1,
    }
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(dpo_command(tiny_data, tiny_base, whole, **settings))
    save_policy, calls = initialize_policy_model.save_policy, []

    def dying(policy, base_model, folder):
        calls.append(folder)
        if len(calls) == 2:  # the first is checkpoint-4, the second the one at the end
            raise Killed
        save_policy(policy, base_model, folder)

    with monkeypatch.context() as patch:
        patch.setattr(initialize_policy_model, "save_policy", dying)
        with pytest.raises(Killed):
            run(dpo_command(tiny_data, tiny_base, broken, **settings))
    run(dpo_command(tiny_data, tiny_base, broken, **settings))
    first, second = adapter(whole), adapter(broken)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert lines(whole, "loss") == lines(broken, "loss")
    assert [line["step"] for line in lines(broken, "loss")] == [3, 6]


def test_one_base_is_loaded_and_the_reference_stays(tiny_data, tiny_base, policy_run, tmp_path, monkeypatch):
    load, loaded = reward_models.load_base, []
    monkeypatch.setattr(reward_models, "load_base", lambda *args: loaded.append(load(*args)) or loaded[-1])
    run(dpo_command(tiny_data, tiny_base, tmp_path, **moves(policy_run)))
    (vlm,) = loaded
    weights = dict(vlm.model.named_parameters())
    start, end = adapter(policy_run), adapter(tmp_path)
    assert any(not torch.equal(start[name], end[name]) for name in start)
    for name, value in start.items():
        name = name.removeprefix("base_model.model.")
        kept = weights[name.replace(".weight", ".lora_ref_policy.weight")]
        assert torch.equal(kept, value) and not kept.requires_grad
    record = json.loads((tmp_path / "arguments.json").read_text())
    assert record["ObjectiveArguments"]["objective"] == "dpo"
    assert record["inputs"]["policy_model_name_or_path"]


def test_more_padding_changes_nothing(tiny_data, tiny_base, policy_run, tmp_path):
    prepared = initialize_policy_model.prepare(dpo_command(tiny_data, tiny_base, tmp_path))
    roles = policy_and_reference(
        tiny_base, BaseSettings(), AdapterArguments(lora_r=4), False, policy_run / "lora_policy"
    )
    comparison = AnswerComparison(*roles, torch.tensor([IMAGE])).eval()
    collate = AnswerPairCollator(PAD, IMAGE, lambda grid: [IMAGE] * 4)
    rows = items(prepared.train_set)
    with torch.no_grad():
        together = comparison(**collate(rows))
        alone = torch.cat([comparison(**collate([row])) for row in rows])
    assert len({len(row.chosen.input_ids) for row in rows}) > 1
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert together[..., 1].abs().max() == 0  # one adapter, twice

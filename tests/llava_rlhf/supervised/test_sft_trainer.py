"""Supervised fine-tuning: Hugging Face's own loss, one division, and runs that must be equal."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from data_utils.batches import DialogueCollator
from llava_rlhf import initialize_policy_model
from llava_rlhf.assembly import roles
from llava_rlhf.runs.metrics import meaning_of
from llava_rlhf.runs.run_folder import read_json_lines
from llava_rlhf.supervised.sft_trainer import SFTTrainer
from tests.support.tiers import tiered
from tests.support.tiny_data import policy_command
from tests.support.tiny_models import IMAGE, PAD

SGD = {"optim": "sgd", "learning_rate": 0.05, "max_grad_norm": 0}  # an update in proportion to the gradient


def run(argv):
    prepared = initialize_policy_model.prepare(argv)
    initialize_policy_model.run(prepared)
    return prepared


def adapter(folder):
    return load_file(folder / "lora_policy" / "adapter_model.safetensors")


def lines(folder, key):
    return [line for line in read_json_lines(folder / "metrics.jsonl") if key in line]


def collated(dataset, rows):
    return DialogueCollator(PAD, IMAGE, lambda grid: [IMAGE] * 4)([dataset[row] for row in rows])


def hugging_face_loss(base, folder, batch):
    """Cross-entropy of `LlavaForConditionalGeneration` with the adapter loaded by plain PEFT: a mean over labels.

    Without the image placeholder, which no answer holds.
    """
    model = LlavaForConditionalGeneration.from_pretrained(base)
    model = PeftModel.from_pretrained(model, folder / "lora_policy")
    with torch.no_grad():
        logits = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask.long(),
            pixel_values=batch.pixel_values,
        ).logits
    logits[..., IMAGE] = -torch.inf
    return float(
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten())
    )


def test_the_loss_is_that_of_hugging_face_with_the_saved_adapter(tiny_data, tiny_base, tmp_path):
    settings = {"max_steps": 3, "learning_rate": 1e-2, "eval_size": 7, "per_device_eval_batch_size": 7}
    prepared = run(policy_command(tiny_data, tiny_base, tmp_path, **settings))
    assert all(meaning_of(name) for line in lines(tmp_path, "step") for name in set(line) - {"step"})
    batch = collated(prepared.eval_set, range(7))
    assert batch.pixel_values is not None and (batch.labels == -100).any()
    (final,) = lines(tmp_path, "final_loss")
    assert final["final_loss"] == pytest.approx(hugging_face_loss(tiny_base, tmp_path, batch), rel=1e-5)


def test_the_logged_loss_of_a_step_is_the_mean_over_its_tokens(tiny_data, tiny_base, tmp_path):
    settings = {"max_steps": 1, "learning_rate": 0.0, "per_device_train_batch_size": 4}
    prepared = run(policy_command(tiny_data, tiny_base, tmp_path, gradient_accumulation_steps=4, **settings))
    batch = collated(
        prepared.train_set, range(16)
    )  # the step takes all rows; an adapter at learning rate 0 is 0
    (first,) = lines(tmp_path, "loss")
    assert first["loss"] == pytest.approx(hugging_face_loss(tiny_base, tmp_path, batch), rel=1e-4)


def test_accumulation_over_uneven_rows_equals_one_big_batch(tiny_data, tiny_base, tmp_path):
    runs = {}
    for size, accumulation in ((8, 1), (2, 4), (1, 8)):
        folder = tmp_path / str(size)
        settings = {
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": accumulation,
            "max_steps": 3,
        }
        prepared = run(policy_command(tiny_data, tiny_base, folder, **SGD, **settings))
        runs[size] = adapter(folder), [line["loss"] for line in lines(folder, "loss")]
    counts = {sum(prepared.train_set[row].supervised) for row in range(16)}
    assert len(counts) > 1, "rows of one length would not tell Σ / N from a mean of means"
    assert max(float(value.abs().max()) for name, value in runs[8][0].items() if "lora_B" in name) > 1e-3
    for size in (2, 1):
        for name, value in runs[8][0].items():
            torch.testing.assert_close(runs[size][0][name], value, rtol=1e-5, atol=1e-6, msg=name)
        assert runs[size][1] == pytest.approx(runs[8][1], rel=1e-4)


@pytest.mark.slow
def test_gradient_checkpointing_changes_nothing(tiny_data, tiny_base, tmp_path):
    for on in (False, True):
        run(policy_command(tiny_data, tiny_base, tmp_path / str(on), **SGD, gradient_checkpointing=on))
    first, second = adapter(tmp_path / "False"), adapter(tmp_path / "True")
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-5, atol=1e-7, msg=name)


def test_seeds_cover_initialisation(tiny_data, tiny_base, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(policy_command(tiny_data, tiny_base, tmp_path / name, max_steps=1, learning_rate=0.0, seed=seed))
    first, again, other = (adapter(tmp_path / name) for name in "abc")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


class Killed(Exception):
    """Raised in the middle of a run."""


@pytest.mark.parametrize("checkpointing", tiered([False, True], quick=[False]))
def test_killed_and_continued_equals_uninterrupted(
    tiny_data, tiny_base, tmp_path, monkeypatch, checkpointing
):
    settings = {
        "max_steps": 4,
        "save_steps": 2,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 1,
        "lora_dropout": 0.2,  # draws random numbers in every forward: the generator must be restored too
        "gradient_checkpointing": checkpointing,
    }
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(policy_command(tiny_data, tiny_base, whole, **settings))
    step = SFTTrainer.training_step
    calls = []

    def dying(self, *args, **kwargs):
        calls.append(None)
        if len(calls) == 4:
            raise Killed
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(SFTTrainer, "training_step", dying)
        with pytest.raises(Killed):
            run(policy_command(tiny_data, tiny_base, broken, **settings))
    run(policy_command(tiny_data, tiny_base, broken, **settings))
    first, second = adapter(whole), adapter(broken)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert lines(whole, "loss") == lines(broken, "loss")
    assert [line["step"] for line in lines(broken, "loss")] == [1, 2, 3, 4]


def test_a_failing_save_leaves_the_older_checkpoint(tiny_data, tiny_base, tmp_path, monkeypatch):
    save_policy, calls = initialize_policy_model.save_policy, []

    def failing(policy, base_model, folder):
        calls.append(folder)
        save_policy(policy, base_model, folder)
        if len(calls) == 2:
            raise OSError("disk full")

    monkeypatch.setattr(initialize_policy_model, "save_policy", failing)
    with pytest.raises(OSError, match="disk full"):
        run(policy_command(tiny_data, tiny_base, tmp_path))
    assert [path.name for path in sorted(tmp_path.glob("checkpoint-*"))] == ["checkpoint-1"]
    assert (tmp_path / "checkpoint-1" / "COMPLETE").is_file()


def test_the_logged_learning_rate_and_norm_are_those_of_the_step(tiny_data, tiny_base, tmp_path):
    """Under SGD a clipped step moves the weights by the learning rate times the limit."""
    limit = 0.1
    settings = {**SGD, "max_grad_norm": limit, "lr_scheduler_type": "linear", "max_steps": 4}
    run(policy_command(tiny_data, tiny_base, tmp_path, **settings))
    logged = lines(tmp_path, "learning_rate")
    assert [line["learning_rate"] for line in logged] == pytest.approx([0.05, 0.0375, 0.025, 0.0125])
    for step in (2, 3, 4):
        assert logged[step - 1]["grad_norm"] > 2 * limit, "the norm before clipping, which did clip"
        before, after = (adapter(tmp_path / f"checkpoint-{number}") for number in (step - 1, step))
        moved = sum(float((after[name] - before[name]).square().sum()) for name in after) ** 0.5
        assert moved == pytest.approx(logged[step - 1]["learning_rate"] * limit, rel=1e-3)


def test_the_vocabulary_projection_sees_supervised_tokens_only(tiny_data, tiny_base, tmp_path, monkeypatch):
    projected = []
    new_policy = roles.new_policy

    def recording(*args):
        policy = new_policy(*args)
        policy.bank.vlm.model.lm_head.register_forward_pre_hook(
            lambda module, inputs: projected.append(inputs[0].shape[:-1].numel())
        )
        return policy

    monkeypatch.setattr(roles, "new_policy", recording)
    whole = {"max_steps": 1, "per_device_train_batch_size": 16}
    prepared = run(policy_command(tiny_data, tiny_base, tmp_path, **whole))
    supervised = sum(sum(prepared.train_set[row].supervised) for row in range(16))
    assert sum(projected) == supervised  # once: backward needs no logits

"""The reward model: its loss and accuracy by a literal loop over pairs, and what it leaves on disk."""

from __future__ import annotations

import json
import math

import pytest
import torch
from transformers import EvalPrediction

from llava_rlhf import train_reward_model
from llava_rlhf.assembly import reward_models
from llava_rlhf.runs.checkpoints import complete_checkpoints, step_of
from llava_rlhf.runs.metrics import meaning_of
from llava_rlhf.runs.parsing import ArgumentError
from llava_rlhf.runs.reward_card import read_reward_card
from llava_rlhf.runs.run_folder import read_json_lines
from llava_rlhf.supervised.reward_trainer import pair_metrics
from llava_rlhf.train_reward_model import load_reward_model
from tests.support.reward_models import plain_scores
from tests.support.tiny_data import FACT_PROMPT, changed, reward_command
from tests.support.tiny_models import STOP

EVAL_SIZE = 6


def run(argv):
    prepared = train_reward_model.prepare(argv)
    train_reward_model.run(prepared)
    return prepared


@pytest.fixture(scope="module")
def evaluated(tiny_data, tiny_base, tmp_path_factory):
    """4 steps, an evaluation and a checkpoint after each; the folder and the checked settings."""
    folder = tmp_path_factory.mktemp("reward") / "run"
    settings = {
        "max_steps": 4,
        "learning_rate": 2e-2,
        "eval_size": EVAL_SIZE,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "per_device_eval_batch_size": EVAL_SIZE,
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "accuracy",
    }
    return folder, run(reward_command(tiny_data, tiny_base, folder, **settings))


def lines(folder, key):
    return [line for line in read_json_lines(folder / "metrics.jsonl") if key in line]


def test_loss_and_metrics_equal_a_loop_over_pairs_with_plain_models(evaluated, tiny_base):
    folder, prepared = evaluated
    rows = plain_scores(tiny_base, folder, prepared.eval_set)
    assert {preference for *_, preference in rows} == {1, 2}
    loss, right = 0.0, 0
    for first, second, preference in rows:
        margin = first - second if preference == 1 else second - first
        loss += -math.log(1 / (1 + math.exp(-margin))) / len(rows)
        right += margin > 0
    loss += 1e-3 * abs(sum(first + second for first, second, _ in rows) / len(rows))
    (final,) = lines(folder, "final_loss")
    assert all(meaning_of(name) for line in lines(folder, "step") for name in set(line) - {"step"})
    assert final["final_loss"] == pytest.approx(loss, rel=1e-4)
    assert final["final_accuracy"] == pytest.approx(right / len(rows))
    mean = sum(first + second for first, second, _ in rows) / (2 * len(rows))
    assert final["final_average_score"] == pytest.approx(mean, rel=1e-4, abs=1e-5)
    positive = sum(preference == 2 for *_, preference in rows) / len(rows)
    assert final["final_label_positive_rate"] == pytest.approx(positive)


def test_accuracy_by_hand():
    # Margins 1 → second preferred: right; 1 → first preferred: wrong; −2 → first: right; a tie counts half.
    scores = [[0.0, 1.0], [0.0, 1.0], [1.0, -1.0], [0.5, 0.5]]
    metrics = pair_metrics(EvalPrediction(predictions=scores, label_ids=[1, 0, 0, 1]))
    assert metrics == {"accuracy": 2.5 / 4, "label_positive_rate": 0.5, "average_score": 3.0 / 8}


@pytest.mark.parametrize("preference", [1, 2])
def test_the_preferred_output_earns_more(preference, tiny_data, tiny_base, tmp_path):
    data = changed(
        tiny_data.preferences,
        f"always_{preference}.json",
        lambda rows: [{**row, "preference": preference} for row in rows],
    )
    argv = reward_command(
        tiny_data, tiny_base, tmp_path, dataset_path=data, max_steps=8, learning_rate=1e-2, save_strategy="no"
    )
    prepared = run(argv)
    for first, second, _ in plain_scores(tiny_base, tmp_path, prepared.train_set):
        assert (second > first) == (preference == 2)


def test_the_evaluation_rows_are_held_out(tiny_data, tiny_base, tmp_path):
    twelve = changed(tiny_data.preferences, "twelve.json", lambda rows: rows[:12])  # later rows repeat some
    argv = reward_command(tiny_data, tiny_base, tmp_path, dataset_path=twelve, eval_size=5)
    splits = []
    for _ in range(2):
        prepared = train_reward_model.prepare(argv)
        splits.append(
            [
                {
                    str((item.input_ids, float(item.images.sum())))
                    for item in map(part.__getitem__, range(len(part)))
                }
                for part in (prepared.train_set, prepared.eval_set)
            ]
        )
    train, held_out = splits[0]
    assert (len(train), len(held_out)) == (7, 5) and not train & held_out
    assert splits[0] == splits[1], "the split depends on the seed alone"


def test_the_best_checkpoint_is_kept_and_becomes_the_result(evaluated, tiny_base):
    folder, _ = evaluated
    accuracies = {line["step"]: line["eval_accuracy"] for line in lines(folder, "eval_accuracy")}
    assert sorted(accuracies) == [1, 2, 3, 4] and len(set(accuracies.values())) > 1
    best = min(step for step, value in accuracies.items() if value == max(accuracies.values()))
    kept = [step_of(path) for path in complete_checkpoints(folder)]
    assert best < 4 and kept == [best, 4], "the best, and the newest to continue from"
    state = json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(folder / f"checkpoint-{best}")
    best_folder = folder / f"checkpoint-{best}"
    for name in ("reward_head.safetensors", "lora_reward/adapter_model.safetensors"):
        assert (folder / name).read_bytes() == (best_folder / name).read_bytes()
    (final,) = lines(folder, "final_accuracy")
    assert final["final_accuracy"] == accuracies[best]


def test_of_two_checkpoints_the_best_and_the_newest_outlive_the_run(tiny_data, tiny_base, tmp_path):
    """Under `--save_total_limit 1` transformers' Trainer would delete the newest when the run ends."""
    settings = {
        "max_steps": 3,
        "eval_size": EVAL_SIZE,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "average_score",
        "learning_rate": 2e-2,
        "greater_is_better": False,
    }
    run(reward_command(tiny_data, tiny_base, tmp_path, **settings))
    scores = {line["step"]: line["eval_average_score"] for line in lines(tmp_path, "eval_average_score")}
    best = min(scores, key=scores.get)
    assert [step_of(path) for path in complete_checkpoints(tmp_path)] == sorted({best, 3})


def test_both_answers_of_a_pair_read_the_same_captions_in_the_same_order(evaluated):
    _, prepared = evaluated
    orders = set()
    for dataset in (prepared.train_set, prepared.eval_set):
        for index in range(len(dataset)):
            tails = [ids[len(ids) - ids[::-1].index(STOP) :] for ids in dataset[index].input_ids]
            assert tails[0] == tails[1] and len(tails[0]) > 5
            assert dataset[index].input_ids[0] != dataset[index].input_ids[1]
            orders.add(tuple(tails[0]))
    assert len(orders) > 5


def test_the_card_says_how_it_was_trained(evaluated, tiny_base):
    folder, _ = evaluated
    card = read_reward_card(folder)
    assert (card.base_model, card.template, card.image_aspect_ratio) == (str(tiny_base), "tiny", "pad")
    assert card.prompt == FACT_PROMPT and card.facts is True
    assert read_reward_card(folder / "checkpoint-4") == card


def test_facts_false_is_the_plain_prompt(tiny_data, tiny_base, tmp_path):
    without = train_reward_model.prepare(reward_command(tiny_data, tiny_base, tmp_path, facts=False))
    plain = train_reward_model.prepare(
        reward_command(
            tiny_data,
            tiny_base,
            tmp_path,
            reward_prompt_file=tiny_data.plain_prompt,
            image_to_caption_file=None,
        )
    )
    for index in range(16):
        assert without.train_set[index].input_ids == plain.train_set[index].input_ids
    assert without.card == plain.card and not plain.card.facts


def test_a_saved_model_scores_as_before_and_training_computes_no_logits(
    tiny_data, tiny_base, tmp_path, monkeypatch
):
    made = []
    new_reward_model = reward_models.new_reward_model

    def recording(*args):
        model = new_reward_model(*args)
        model.bank.vlm.model.lm_head.register_forward_pre_hook(
            lambda *call: pytest.fail("vocabulary logits were computed")
        )
        made.append(model)
        return model

    monkeypatch.setattr(reward_models, "new_reward_model", recording)
    settings = {"eval_size": 4, "eval_strategy": "steps", "eval_steps": 1, "learning_rate": 1e-2}
    prepared = run(reward_command(tiny_data, tiny_base, tmp_path, **settings))
    trained_model = made[0]
    base_settings = prepared.model.base_settings(False, False, "cpu")
    fresh = new_reward_model(tiny_base, base_settings, prepared.model, False)
    ids = torch.tensor([prepared.train_set[3].input_ids[0]])
    images = None
    ids = ids[:, ids[0] != prepared.text.image_token_id]
    mask = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        expected = trained_model(ids, mask, images)
        assert not torch.allclose(fresh(ids, mask, images), expected, atol=1e-3)
        load_reward_model(fresh, tmp_path)
        assert torch.equal(fresh(ids, mask, images), expected)


def test_continued_equals_uninterrupted(tiny_data, tiny_base, tmp_path):
    settings = {"max_steps": 4, "save_steps": 2, "lr_scheduler_type": "cosine", "warmup_steps": 1}
    run(reward_command(tiny_data, tiny_base, tmp_path / "whole", **settings))
    whole = tmp_path / "whole"
    interrupted = tmp_path / "interrupted"
    interrupted.mkdir()
    (whole / "checkpoint-2").rename(interrupted / "checkpoint-2")
    (interrupted / "metrics.jsonl").write_bytes((whole / "metrics.jsonl").read_bytes())
    run(reward_command(tiny_data, tiny_base, interrupted, **settings))
    for name in ("reward_head.safetensors", "lora_reward/adapter_model.safetensors"):
        assert (interrupted / name).read_bytes() == (whole / name).read_bytes()
    for before, after in zip(lines(whole, "loss"), lines(interrupted, "loss"), strict=True):
        assert before == after


def test_the_prompt_file_is_asked_for(tiny_data, tiny_base, tmp_path):
    with pytest.raises(ArgumentError, match="required: --reward_prompt_file"):
        train_reward_model.prepare(reward_command(tiny_data, tiny_base, tmp_path, reward_prompt_file=None))

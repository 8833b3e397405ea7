"""Scoring: pairs as the reward model's training scores them, answers as PPO does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from data_utils.batches import PairCollator
from llava_rlhf import answer_prompts, score, train_reward_model
from llava_rlhf.assembly.image_features import SeenImages
from llava_rlhf.assembly.reward_models import trained_reward_model
from llava_rlhf.evaluation.reward_scoring import score_dataset
from llava_rlhf.evaluation.reward_summary import pair_numbers
from llava_rlhf.evaluation.score_records import json_line
from llava_rlhf.runs.run_folder import read_json_lines
from llava_rlhf.supervised.reward_trainer import PairScorer
from models.vlm import BaseSettings
from tests.llava_rlhf.evaluation.scoring import (
    score_command,
    scored,
    train_reward,
    with_card,
    write_scoring_data,
)
from tests.support.ppo_world import assemble
from tests.support.recorded_scripts import ScriptRunner, copy_scripts, parsed
from tests.support.tiny_data import (
    FACT_PROMPT,
    TinyData,
    command_line,
    ppo_command,
    reward_command,
)
from tests.support.tiny_models import PAD, STOP
from tests.support.tiny_programs import train_policy


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TinyData:
    return write_scoring_data(tmp_path_factory.mktemp("score") / "tiny data")


@pytest.fixture(scope="module")
def reward(data, tiny_base, tmp_path_factory) -> Path:
    return train_reward(data, tiny_base, tmp_path_factory.mktemp("score") / "reward model")


@pytest.fixture(scope="module")
def policy(data, tiny_base, tmp_path_factory) -> Path:
    return train_policy(data, tiny_base, tmp_path_factory.mktemp("score") / "policy")


@pytest.fixture(scope="module")
def answers(data, tiny_base, policy, tmp_path_factory) -> Path:
    """Two sampled answers to each prompt."""
    path = tmp_path_factory.mktemp("score") / "answers.jsonl"
    settings = {"base_model_name": tiny_base, "adapter": policy, "samples": 2, "temperature": 1.0}
    sampling = {"dataset_path": data.prompts, "image_folder": data.images, "response_len": 12}
    argv = command_line(**settings, **sampling, version="tiny", output_file=path, use_cpu=True, seed=1)
    answer_prompts.run(answer_prompts.prepare(argv))
    return path


@pytest.fixture(scope="module")
def pairs(data, reward, tmp_path_factory):
    return scored(data, reward, tmp_path_factory.mktemp("score") / "new folder" / "pairs.jsonl")


def test_pairs_score_as_in_training(pairs, data, reward, tiny_base, tmp_path):
    lines, _ = pairs
    training = train_reward_model.prepare(reward_command(data, tiny_base, tmp_path, eval_size=0))
    text, dataset = training.text, training.train_set
    scorer = PairScorer(trained_reward_model(tiny_base, BaseSettings(), reward)).eval()
    collate = PairCollator(text.tokenizer.pad_token_id, text.image_token_id, text.family.placeholder)
    batch = dict(collate([dataset[index] for index in range(16)]))
    batch.pop("choice")
    with torch.no_grad():
        expected = scorer(**batch)
    got = torch.tensor([line["scores"] for line in lines])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.05 and (expected[:, 0] - expected[:, 1]).abs().min() > 1e-4
    assert (training.card.prompt, len(lines)) == (FACT_PROMPT, 16)


def test_lines_of_pairs_say_everything(pairs, data):
    lines, _ = pairs
    rows = json.loads(data.preferences.read_text())
    for position, (line, row) in enumerate(zip(lines, rows, strict=True)):
        assert (line["row"], line["id"], line["preference"]) == (position, row["id"], row["preference"])
        assert line["responses"] == [row["output_1"]["value"], row["output_2"]["value"]]
        image = row.get("image", [])
        assert line["image"] == ([image] if isinstance(image, str) else image)
        assert line["question"] == row["conversations"][-2]["value"].replace("<image>", "").strip()
        first, second = line["scores"]
        margin = first - second if row["preference"] == 1 else second - first
        assert line["margin"] == pytest.approx(margin) and line["agrees"] is (margin > 0)
        assert ("answer_type" in line) == ("caption_type" in row)
    assert [line.get("answer_type") for line in lines[6:10]] == [None, None, "A_IN_ABCD", "B_IN_ABCD"]


def test_the_summary_of_pairs_is_that_of_its_lines(pairs, data, reward, tiny_base):
    lines, summary = pairs
    assert summary["rows"] == {"read": 16, "scored": 16, "dropped": {}}
    assert (summary["reward_model"], summary["base_model"]) == (str(reward), str(tiny_base))
    assert summary["dataset"] == str(data.preferences)
    everyone = summary["all"]
    assert 0 < everyone["accuracy"] < 1, "one that is always right would show little"
    assert everyone["accuracy"] == pytest.approx(np.mean([line["agrees"] for line in lines]))
    assert everyone["mean_margin"] == pytest.approx(np.mean([line["margin"] for line in lines]))
    assert sum(item["count"] for item in everyone["reliability"]) == everyone["pairs"] == 16
    # Rows without a type are GENERAL.
    assert {name: entry["pairs"] for name, entry in summary["by_answer_type"].items()} == {
        "GENERAL": 9,
        "A_IN_ABCD": 2,
        "B_IN_ABCD": 1,
        "C_IN_ABCD": 1,
        "D_IN_ABCD": 1,
        "NO_IN_YESNO": 1,
        "YES_IN_YESNO": 1,
    }


def test_the_trainer_measures_the_same(data, tiny_base, tmp_path):
    """Accuracy, loss and mean score of the pairs that training held out."""
    folder = train_reward(data, tiny_base, tmp_path / "reward", eval_size=6, per_device_eval_batch_size=6)
    (final,) = [line for line in read_json_lines(folder / "metrics.jsonl") if "final_loss" in line]
    held_out = train_reward_model.prepare(reward_command(data, tiny_base, tmp_path, eval_size=6)).eval_set
    rows = held_out.column("row")
    assert rows != sorted(rows), "captions are ordered by the row: a file of its own would order them anew"
    lines, _ = scored(data, folder, tmp_path / "scores.jsonl")
    chosen = [lines[row] for row in rows]
    assert final["final_accuracy"] == pytest.approx(np.mean([line["agrees"] for line in chosen]))
    scores, preferences = (np.array([line[name] for line in chosen]) for name in ("scores", "preference"))
    numbers = pair_numbers(torch.from_numpy(scores), torch.from_numpy(preferences) - 1)
    assert final["final_loss"] == pytest.approx(numbers["loss"], rel=1e-4)
    mean = np.mean([line["scores"] for line in chosen])
    assert final["final_average_score"] == pytest.approx(mean, rel=1e-4, abs=1e-5)


def test_answers_score_as_in_ppo(answers, data, tiny_base, policy, reward, tmp_path):
    """The collector of PPO gives the same scores to the same prompts and responses, in whatever order they come."""
    records = read_json_lines(answers)
    assert {record["stopped"] for record in records} == {True, False}
    assert {"captions" in record for record in records} == {True, False}
    shuffled = tmp_path / "answers.json"
    shuffled.write_text(json.dumps(records[::-1]))
    lines, summary = scored(data, reward, tmp_path / "scores.jsonl", dataset_path=shuffled)
    ppo = ppo_command(data, tiny_base, policy, reward, tmp_path / "ppo", response_len=20)
    assembled = assemble(ppo)
    encoder, reward_model = assembled.prepared.text.encoder, assembled.roles.reward
    batch = assembled.batch([line["prompt_row"] for line in lines])
    responses = [
        (encoder.encode_response(line["answer"]) if line["answer"] else []) + [STOP] * line["stopped"]
        for line in lines
    ]
    images = SeenImages().encode("reward", reward_model.bank.vlm, batch.images, batch.items)
    with torch.no_grad():
        expected = assembled.trainer.collector.scorer.scores(batch.items, responses, images)[:, 0]
    got = torch.tensor([line["score"] for line in lines])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.05 and len(lines) == summary["all"]["answers"] == 32
    for line, record in zip(lines, records[::-1], strict=True):
        kept = {name: value for name, value in record.items() if name not in ("captions", "row")}
        assert kept.items() <= line.items()
    assert [line["row"] for line in lines] == list(range(32))


def test_a_stop_changes_the_score(answers, data, reward, tmp_path):
    records = read_json_lines(answers)[:8]
    scores = {}
    for stopped in (True, False, None):
        path = tmp_path / f"{stopped}.jsonl"
        path.write_text("".join(json_line({**record, "stopped": stopped}) for record in records))
        lines, _ = scored(data, reward, tmp_path / f"{stopped}.scores", dataset_path=path)
        scores[stopped] = [line["score"] for line in lines]
    assert scores[None] == scores[True]  # a file that says nothing of it
    assert np.abs(np.subtract(scores[True], scores[False])).min() > 1e-4


def test_the_summary_of_answers(answers, data, reward, tmp_path, capsys):
    lines, summary = scored(data, reward, tmp_path / "scores.jsonl", dataset_path=answers)
    scores = [line["score"] for line in lines]
    assert summary["all"]["mean"] == pytest.approx(np.mean(scores))
    assert summary["all"]["std"] == pytest.approx(np.std(scores, ddof=1))
    assert summary["all"]["quantiles"]["0.5"] == pytest.approx(np.median(scores))
    general = [line["score"] for line in lines if line["answer_type"] == "GENERAL"]
    assert summary["by_answer_type"]["GENERAL"]["mean"] == pytest.approx(np.mean(general))
    assert len(summary["by_answer_type"]) == 7
    printed = capsys.readouterr().out
    assert "32 of 32 rows scored" in printed and "mean score" in printed and "YES_IN_YESNO" in printed


@pytest.mark.parametrize("kind", ["pairs", "answers"])
def test_scores_do_not_depend_on_the_batch_size(kind, data, answers, reward, tiny_base, tmp_path):
    path = data.preferences if kind == "pairs" else answers
    argv = score_command(data, reward, tmp_path / "scores.jsonl", dataset_path=path)
    dataset = score.prepare(argv).dataset
    model = trained_reward_model(tiny_base, BaseSettings(), reward)
    # In float32 other batches round otherwise (measured 2e-6); with a base in float64 only a mistake would remain.
    for tolerance in (1e-5, 1e-6):
        alone, *together = (score_dataset([model], dataset, PAD, size)[..., 0] for size in (1, 5, 64))
        for other in together:
            torch.testing.assert_close(other, alone, rtol=0, atol=tolerance)
        model.double()
    # The order is that of the file, and not by length.
    lengths = dataset.report.token_lengths["total"]
    assert lengths != sorted(lengths, reverse=True)


def test_over_long_rows_are_dropped_counted_and_named(data, reward, tiny_base, tmp_path, capsys):
    kept = train_reward_model.prepare(reward_command(data, tiny_base, tmp_path, query_len=20, eval_size=0))
    lines, summary = scored(data, reward, tmp_path / "scores.jsonl", query_len=20)
    assert 0 < len(lines) < 16
    assert [line["row"] for line in lines] == kept.train_set.column("row")
    dropped = 16 - len(lines)
    reason = "query longer than query_len 20"
    assert summary["rows"] == {"read": 16, "scored": len(lines), "dropped": {reason: dropped}}
    assert f"dropped {dropped}: {reason}" in capsys.readouterr().out


def test_scores_that_are_not_finite_are_an_error(data, reward, tmp_path):
    broken = with_card(reward, tmp_path / "broken")
    head = load_file(broken / "reward_head.safetensors")
    head["bias"] += float("nan")
    save_file(head, broken / "reward_head.safetensors")
    with pytest.raises(
        FloatingPointError, match=r"16 rows have scores that are not finite, first rows \[0, 1"
    ):
        scored(data, broken, tmp_path / "scores.jsonl")
    assert not (tmp_path / "scores.jsonl").exists()


def test_half_a_surrogate_pair_in_a_field_that_is_passed_on(data, reward, tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"question": "what?", "answer": "a cat", "note": "\\ud83d", "place": "Zürich"}')
    lines, _ = scored(data, reward, tmp_path / "scores.jsonl", dataset_path=path)
    assert (lines[0]["note"], lines[0]["place"]) == ("\ud83d", "Zürich")
    assert "Zürich" in (tmp_path / "scores.jsonl").read_text()


def test_the_script_is_read_by_the_real_parser(tmp_path):
    runner = ScriptRunner(copy_scripts(tmp_path / "my checkout"), tmp_path)
    folder = str(tmp_path / "data")
    (call,) = runner.run("score.sh", "--seed", "7", DATA_DIR=folder, OUTPUT_FILE="out put.jsonl")
    settings = parsed(call, tmp_path)
    assert call.module == "llava_rlhf.score" and settings["seed"] == 7 and settings["bf16"] is True
    assert settings["output_file"] == f"{runner.cwd}/out put.jsonl"
    assert settings["base_model_name"] is None and settings["reward_prompt_file"] is None
    (call,) = runner.run("score.sh", CAPTIONS="", BASE_MODEL="my base", DATASET=f"{folder}/a.jsonl")
    assert "--image_to_caption_file" not in call.words and call.value("base_model_name").endswith("/my base")

"""What is logged, against the rows that were written and numbers computed by hand."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from llava_rlhf.functional.masked import Moments
from llava_rlhf.runs.metrics import MEANINGS, one_line
from llava_rlhf.runs.reductions import global_moments, global_sums
from llava_rlhf.runs.run_folder import read_json_lines
from tests.support.ppo_world import metrics_of, run_ppo
from tests.support.tiny_data import ppo_command


@pytest.fixture(scope="module")
def ppo_run(tiny_data, tiny_base, policy_run, reward_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ppo") / "run"
    # Some answers are longer than 4 tokens: they are cut off and miss their stop.
    settings = {"response_len": 4, "learning_rate": 3e-3, "kl_coef": 0.3, "reward_bias": 0.5}
    run_ppo(ppo_command(tiny_data, tiny_base, policy_run, reward_run, folder, **settings))
    return folder


def test_the_means_are_those_of_the_written_rollouts(ppo_run):
    for step, metrics in enumerate(metrics_of(ppo_run), 1):
        rows = read_json_lines(ppo_run / "rollouts" / f"{step:06d}.jsonl")
        assert len(rows) == 8

        def column(name, rows=rows):
            return [row[name] for row in rows]

        for metric, name in {
            "objective/reward_model": "reward_model",
            "objective/stop_penalty": "stop_penalty",
            "objective/length_bonus": "length_bonus",
            "objective/correct_bonus": "correct_bonus",
            "objective/rewards": "score",
            "objective/kl_sum_seq": "kl",
            "response/length_mean": "length",
        }.items():
            assert metrics[metric] == pytest.approx(statistics.fmean(column(name)), rel=1e-5, abs=1e-6), (
                metric
            )
        per_token = statistics.fmean(row["kl"] / row["length"] for row in rows)
        assert metrics["objective/kl_avg_seq"] == pytest.approx(per_token, rel=1e-5, abs=1e-7)
        assert metrics["objective/non_score_rewards"] == pytest.approx(
            -0.3 * metrics["objective/kl_sum_seq"], rel=1e-5, abs=1e-7
        )
        stopped = [reason == "stop token" for reason in column("stop_reason")]
        assert metrics["response/stop_rate"] == statistics.fmean(stopped)
        shaped = metrics["objective/rewards"] + metrics["objective/non_score_rewards"]
        assert metrics["objective/shaped_rewards"] == pytest.approx(shaped, rel=1e-5)


def test_rows_have_the_first_value_and_its_return(
    ppo_run, tiny_data, tiny_base, policy_run, reward_run, tmp_path
):
    """With γ = λ = 1 a return is all that the answer earned, in units of the rewards, whatever the critic's are."""
    settings = {"response_len": 4, "kl_coef": 0.3, "normalize_returns": True, "max_steps": 2}
    run_ppo(ppo_command(tiny_data, tiny_base, policy_run, reward_run, tmp_path, **settings))
    for folder in (ppo_run, tmp_path):
        first, second = (read_json_lines(folder / "rollouts" / f"{step:06d}.jsonl") for step in (1, 2))
        for row in (*first, *second):
            assert row["return"] == pytest.approx(10 * (row["score"] - 0.3 * row["kl"]), rel=1e-5, abs=1e-4)
        assert len({row["value"] for row in first}) == 1, "its head begins at 0"
        assert len({row["value"] for row in second}) > 4
    expected = statistics.fmean(row["return"] for row in first)
    assert first[0]["value"] == pytest.approx(expected, rel=0.5), "not in units of the critic, where it is 0"


def test_length_percentiles_where_the_longest_answers_differ(
    tiny_data, tiny_base, policy_run, reward_run, tmp_path
):
    run_ppo(ppo_command(tiny_data, tiny_base, policy_run, reward_run, tmp_path, response_len=12, max_steps=3))
    apart = 0
    for step, metrics in enumerate(metrics_of(tmp_path), 1):
        rows = read_json_lines(tmp_path / "rollouts" / f"{step:06d}.jsonl")
        lengths = sorted(row["length"] for row in rows)
        apart += lengths[-1] != lengths[-2]
        assert metrics["response/length_p50"] == pytest.approx(np.percentile(lengths, 50))
        assert metrics["response/length_p95"] == pytest.approx(np.percentile(lengths, 95))
    assert apart, "with equal longest answers any high percentile would pass"


def test_each_written_row_adds_up(ppo_run):
    rows = read_json_lines(ppo_run / "rollouts" / "000001.jsonl")
    assert len({row["row"] for row in rows}) == 8, "prompts are drawn without replacement"
    assert {row["stop_reason"] for row in rows} == {"stop token", "length"}
    for row in rows:
        terms = row["reward_model"] + row["stop_penalty"] + row["length_bonus"] + row["correct_bonus"]
        assert row["score"] == pytest.approx(terms + 0.5, rel=1e-5)
        assert row["stop_penalty"] == pytest.approx(
            -8.0 if row["stop_reason"] != "stop token" else 0.0, abs=1e-5
        )
        multiplier = 0.5 if row["row"] % 5 == 0 else 1.0  # as `tests.support.tiny_data.prompt_row` writes it
        assert row["length_bonus"] == pytest.approx(-10 * row["length"] / 4 * multiplier)
        assert row["id"] == f"row {row['row']}"


def test_moments_and_sums_of_one_process_are_its_own():
    accelerator = Accelerator(cpu=True)
    own = Moments(*torch.tensor([4.0, 2.5, 5.0], dtype=torch.float64))
    assert [float(value) for value in global_moments(accelerator, own)] == [4.0, 2.5, 5.0]
    sums = {"a": torch.tensor(2**24 + 1, dtype=torch.float64), "b": 0.5, "c": torch.tensor(3)}
    assert global_sums(accelerator, sums) == {"a": 2.0**24 + 1, "b": 0.5, "c": 3.0}


def test_the_printed_line_names_step_and_numbers():
    line = one_line(3, 10, dict.fromkeys(MEANINGS, 0.25))
    assert line.startswith("step 3/10") and "reward 0.250" in line and "kl 0.250" in line


def test_every_sentence_says_something():
    for name, meaning in MEANINGS.items():
        assert len(meaning.split()) > 2, name
        assert name.split("/")[0] in ("objective", "response", "ppo", "time")

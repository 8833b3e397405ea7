"""The comparison of estimators: its settings, its level and its table."""

from __future__ import annotations

import pytest

from benchmarks import optimisers
from llava_rlhf.runs.parsing import StrictParser
from llava_rlhf.train_rl_model import ARGUMENTS


def test_a_level_is_reached_by_the_mean_of_three_steps():
    curve = [0.8, 0.3, 0.5, 0.4, 0.3, 0.2]  # means of three: .533, .4, .4, .3
    assert [optimisers.steps_to(curve, level) for level in (0.6, 0.41, 0.35, 0.1)] == [3, 4, 6, 7]
    assert optimisers.steps_to([0.1, 0.1], 0.4) == 3


def test_the_table_has_means_and_standard_errors_and_a_dash_where_there_is_no_critic():
    row = dict.fromkeys(optimisers.COLUMNS, 1.0)
    bare = {name: value for name, value in row.items() if name != "explained"}
    lines = optimisers.table({"a": [{**row, "cpu": 10.0}, {**row, "cpu": 14.0}], "b": [bare]}).splitlines()
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == [
        *("a", "1 ± 0", "1 ± 0", "1 ± 0", "12 ± 2", "1 ± 0", "1 ± 0")
    ]
    assert lines[3].startswith("| b | – | 1 |")


@pytest.mark.parametrize("arm", optimisers.ARMS)
def test_arms_are_settings_of_ppo(arm):
    found = StrictParser(ARGUMENTS).parse_values(["--recipe", "modern", *optimisers.ARMS[arm]])
    critic = arm in ("published", "modern")
    assert (found["advantage_estimator"] == "gae") == critic
    assert found["value_sees_facts"] == found["normalize_returns"] == (arm == "modern")
    assert found["learning_rate"] == (5e-4 if arm == "published" else 1e-3)


def test_mistakes_are_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("RUN_DIR", raising=False)
    for argv, message in ((["--arms", "ppo"], "--arms ppo: choose from"), ([], "RUN_DIR is not set")):
        with pytest.raises(ValueError, match=message):
            optimisers.prepare(["--output_dir", str(tmp_path), *argv])

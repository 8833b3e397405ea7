"""What a policy is trained on: preferences that prefer nothing, flags that nobody would read, starts that do not fit."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.errors.documented import documented
from tests.support.tiny_data import changed, dialogue_row
from tests.support.tiny_models import TinyShape, save_tiny_base


def same_outputs(rows):
    rows[2]["output_2"] = rows[2]["output_1"]


def no_preference(rows):
    del rows[1]["preference"]


def dialogues(rows):
    return [dialogue_row(index) for index in range(len(rows))]


ROWS = {"same-outputs": same_outputs, "no-preference": no_preference, "dialogues": dialogues}
FLAGS = {
    "beta-without-dpo": {"objective": "sft", "dpo_beta": 0.5},
    "start-without-dpo": {"objective": "sft", "policy_model_name_or_path": "policy"},
    "beta-0": {"dpo_beta": 0},
    "all-labels-wrong": {"dpo_label_smoothing": 0.5},
}
STARTS = (
    "start-absent",
    "start-of-another-rank",
    "start-with-dropout",
    "start-of-another-base",
    "start-of-another-template",
)
CASES = (*ROWS, *FLAGS, *STARTS)


@pytest.fixture
def start(policy_folder, tmp_path):
    """start(case): flags that name what a policy can't start from."""

    def make(case):
        if case == "start-absent":
            return {"policy_model_name_or_path": tmp_path / "nothing"}
        folder = shutil.copytree(policy_folder, tmp_path / "start")
        flags = {"policy_model_name_or_path": folder}
        if case == "start-of-another-rank":
            return {**flags, "lora_r": 8}
        if case == "start-with-dropout":
            return {**flags, "lora_dropout": 0.1}
        if case == "start-of-another-base":
            wide = save_tiny_base(tmp_path / "wide", TinyShape(hidden=128))
            return {**flags, "model_name_or_path": wide}
        record = {"DataArguments": {"version": "v1", "system_message": None}}
        (folder / "arguments.json").write_text(json.dumps(record))
        return flags

    return make


@pytest.mark.parametrize("case", CASES)
def test_documented(case, prepare, data, start, tmp_path):
    row = documented(__file__, case)
    flags = {"objective": "dpo", "dataset_path": data.preferences, **FLAGS.get(case, {})}
    if case in ROWS:
        flags["dataset_path"] = changed(data.preferences, f"{case}.json", ROWS[case])
    if case in STARTS:
        flags |= start(case)
    with pytest.raises(ValueError, match=row.pattern):
        prepare("policy", **flags)
    assert not (tmp_path / "run").exists()
    if row.skipped == "drops it":
        kept = prepare("policy", **flags, skip_invalid=True)
        assert len(kept.train_set) == 15
    else:
        assert row.skipped == "–"


def test_a_start_that_fits_passes(prepare, data, policy_folder):
    flags = {"objective": "dpo", "policy_model_name_or_path": policy_folder}
    prepared = prepare("policy", dataset_path=data.preferences, **flags)
    assert prepared.adapter == policy_folder / "lora_policy"


def test_another_start_is_another_run(prepare, data, policy_folder, tmp_path):
    """A run goes on with the reference that it has, whatever the folder is called."""
    flags = {"objective": "dpo", "dataset_path": data.preferences}
    record = prepare("policy", **flags, policy_model_name_or_path=policy_folder).record
    checkpoint = tmp_path / "run" / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "COMPLETE").touch()
    (checkpoint / "arguments.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="this run differs from the one that wrote"):
        prepare("policy", **flags)

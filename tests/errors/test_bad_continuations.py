"""Checkpoints that a run of these settings can't go on from: refused by `prepare`, which never loads a model."""

from __future__ import annotations

import json

import pytest

from llava_rlhf.runs.checkpoints import COMPLETE
from llava_rlhf.runs.role_files import VALUE
from tests.errors.documented import documented

CASES = ("with-critic", "without-critic", "setting-of-later")


@pytest.fixture
def checkpoint(prepare, tmp_path):
    """checkpoint(critic): what a run of these settings would write after its first step, without weights."""

    def make(critic):
        folder = tmp_path / "old" / "checkpoint-1"
        (folder / VALUE if critic else folder).mkdir(parents=True)
        (folder / COMPLETE).touch()
        record = dict(prepare("ppo").record)
        del record["LossArguments"]  # the policy's loss offered nothing yet
        (folder / "arguments.json").write_text(json.dumps(record))
        return folder

    return make


@pytest.mark.parametrize("case", CASES)
def test_documented(case, prepare, checkpoint, tmp_path):
    row = documented(__file__, case)
    flags = {"resume": checkpoint(critic=case != "without-critic")}
    if case == "setting-of-later":
        flags["kl_placement"], flags["kl_estimator"] = "loss", "k3"
    else:
        flags["allow_changed_arguments"] = True
    if case == "with-critic":
        flags["advantage_estimator"] = "reinforce"
    with pytest.raises(ValueError, match=row.pattern):
        prepare("ppo", **flags)
    assert row.skipped == "–" and not (tmp_path / "run").exists()


def test_settings_at_the_defaults_of_then_pass(prepare, checkpoint):
    folder = checkpoint(critic=True)
    assert prepare("ppo", resume=folder, kl_placement="reward").checkpoint == folder

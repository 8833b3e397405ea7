"""A run continues only under the settings and from the inputs that its checkpoint was made with."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from importlib import import_module

import pytest

from llava_rlhf.runs import changes
from llava_rlhf.runs.changes import differences
from tests.reliability.forked import POLICY_INIT, PPO, REWARD
from tests.support.tiny_data import changed


@pytest.fixture
def prepare(command, uninterrupted, tmp_path):
    """prepare(program, **changes): the program's checks, to continue from step 4 of a finished run in a folder of its own."""

    def run(program: str, **more):
        checkpoint = uninterrupted(program)[0] / "checkpoint-4"
        argv = command(program, tmp_path / "elsewhere", resume=checkpoint, **more)
        return checkpoint, import_module(program).prepare(argv)

    return run


@pytest.mark.parametrize(
    ("program", "change", "told"),
    [
        (PPO, {"learning_rate": 2e-3}, "learning_rate: then 0.001, now 0.002"),
        (PPO, {"max_steps": 9}, "max_steps: then 4, now 9"),
        (PPO, {"kl_coef": 0.2}, "kl_coef: then 0.1, now 0.2"),
        (PPO, {"kl_controller": "fixed"}, "kl_controller: then adaptive, now fixed"),
        (PPO, {"seed": 4}, "seed: then 3, now 4"),
        (PPO, {"step_batch_size": 8}, "step_batch_size: then 4, now 8"),
        (REWARD, {"lora_dropout": 0.0}, "lora_dropout: then 0.2, now 0.0"),
        (REWARD, {"per_device_train_batch_size": 2}, "global_batch_size: then 4, now 2"),
        (POLICY_INIT, {"weight_decay": 0.5}, "weight_decay: then 0.0, now 0.5"),
    ],
)
def test_what_matters_is_refused_and_can_be_allowed(program, change, told, prepare):
    with pytest.raises(ValueError) as refusal:
        prepare(program, **change)
    lines = str(refusal.value).splitlines()
    assert f"  {told}" in lines and "--allow_changed_arguments True" in lines[-1]
    checkpoint, prepared = prepare(program, **change, allow_changed_arguments=True)
    assert prepared.checkpoint == checkpoint


@pytest.mark.parametrize(
    ("program", "change"),
    [
        (
            PPO,
            {
                "save_steps": 2,
                "save_total_limit": 0,
                "dataloader_num_workers": 2,
                "recipe": "modern",
                "value_sees_facts": False,
            },
        ),
        (REWARD, {"logging_steps": 1, "save_steps": 3, "dataloader_num_workers": 2, "disable_tqdm": False}),
    ],
)
def test_what_never_matters_is_not_even_mentioned(program, change, prepare, caplog):
    with caplog.at_level(logging.WARNING):
        checkpoint, prepared = prepare(program, **change)
    assert prepared.checkpoint == checkpoint and "differs" not in caplog.text


@pytest.mark.parametrize(
    ("program", "change", "told"),
    [
        (PPO, {"step_per_device_batch_size": 4}, "step_per_device_batch_size: then 2, now 4"),
        (
            REWARD,
            {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
            "gradient_accumulation_steps: then 1, now 2",
        ),
    ],
)
def test_what_changes_rounding_only_is_mentioned(program, change, told, prepare, caplog):
    with caplog.at_level(logging.WARNING):
        checkpoint, prepared = prepare(program, **change)
    assert prepared.checkpoint == checkpoint
    assert "not bit for bit" in caplog.text and told in caplog.text


def test_data_may_move_but_not_change(data, prepare):
    copy = shutil.copy(data.prompts, data.prompts.with_name("moved.json"))
    checkpoint, prepared = prepare(PPO, dataset_path=copy)
    assert prepared.checkpoint == checkpoint
    other = changed(data.prompts, "other.json", lambda rows: rows[:-1] + rows[:1])
    with pytest.raises(ValueError, match=r"content of dataset_path: then .* bytes, sha256"):
        prepare(PPO, dataset_path=other)


def test_a_base_may_move_but_not_change(data, tiny_base, tiny_reward_base, prepare, tmp_path):
    moved = shutil.copytree(tiny_base, tmp_path / "moved")
    checkpoint, prepared = prepare(REWARD, model_name_or_path=moved)
    assert prepared.checkpoint == checkpoint
    with pytest.raises(ValueError, match="content of model_name_or_path: then weights"):
        prepare(REWARD, model_name_or_path=tiny_reward_base)


def test_a_finished_run_with_more_steps_is_asked_about(command, uninterrupted, tmp_path):
    folder = shutil.copytree(uninterrupted(PPO)[0], tmp_path / "run")
    with pytest.raises(ValueError, match="max_steps: then 4, now 5"):
        import_module(PPO).prepare(command(PPO, folder, max_steps=5))
    prepared = import_module(PPO).prepare(command(PPO, folder, max_steps=5, allow_changed_arguments=True))
    assert prepared.checkpoint == folder / "checkpoint-4"


@pytest.mark.parametrize("program", [PPO, REWARD, POLICY_INIT])
def test_a_finished_run_exits_well(program, command, uninterrupted, capsys):
    folder = uninterrupted(program)[0]
    with pytest.raises(SystemExit) as end:
        import_module(program).prepare(command(program, folder))
    assert end.value.code == 0 and f"The run in {folder} is finished" in capsys.readouterr().out


def test_processes_and_versions_are_mentioned_but_not_under_deepspeed(uninterrupted):
    then = json.loads((uninterrupted(PPO)[0] / "checkpoint-4" / "arguments.json").read_text())
    now = json.loads(json.dumps(then))
    now["processes"], now["environment"]["torch"] = 2, "0.0"
    assert [(item.name, item.serious) for item in differences(then, now)] == [
        ("processes", False),
        ("torch", False),
    ]
    then["inputs"]["deepspeed"] = now["inputs"]["deepspeed"] = "some file"
    assert ("processes", True) in [(item.name, item.serious) for item in differences(then, now)]


def test_every_listed_name_is_a_setting():
    """So that the lists do not outlive a flag."""
    since_5_2x = {"activation_checkpointing", "activation_checkpointing_kwargs"}  # of transformers
    known = {
        field.name
        for program in (PPO, REWARD, POLICY_INIT)
        for kind in import_module(program).ARGUMENTS
        for field in dataclasses.fields(kind.complete() if hasattr(kind, "complete") else kind)
    }
    listed = changes.NEVER_MATTERS | changes.COMPARED_BY_CONTENT | changes.ROUNDING_ONLY
    assert listed - since_5_2x <= known


def test_a_feature_cache_may_move_but_not_come_or_go():
    """Its entries are known by content; but features are rounded with it, and not without."""

    def record(place):
        surroundings = {"inputs": {}, "environment": {}, "processes": 1, "global_batch_size": 4}
        return {"RunArguments": {"feature_cache": place}, **surroundings}

    assert differences(record("/a"), record("/b")) == []
    for then, now in ((None, "/a"), ("/a", None)):
        (found,) = differences(record(then), record(now))
        assert found.name == "feature_cache" and found.serious

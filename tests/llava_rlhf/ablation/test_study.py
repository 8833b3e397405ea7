"""Studies that are run: in order, over kills and failures, and never twice."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from llava_rlhf.ablate import prepare
from llava_rlhf.ablation.design import RECIPE, make_arms
from llava_rlhf.ablation.study import settings_of
from tests.llava_rlhf.ablation.small_study import ROOT, SmallStudy

ARMS = [arm.name for arm in make_arms("one_off", ["facts", "correct_bonus"])]
SMALL = ("--design", "one_off", "--factors", "facts", "correct_bonus", "--seeds", "0", "1")


def make_study(folder, monkeypatch) -> SmallStudy:
    study = SmallStudy(folder)
    monkeypatch.setenv("CALLS", str(study.calls_file))
    return study


@pytest.fixture
def study(tmp_path, monkeypatch) -> SmallStudy:
    return make_study(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Iterator[SmallStudy]:
    """A whole grid. The variables in its environment are of stages, and must not reach them."""
    with pytest.MonkeyPatch.context() as patch:
        study = make_study(tmp_path_factory.mktemp("grid"), patch)
        for name in ("OUTPUT_DIR", "FACTS", "ADAPTER"):
            patch.setenv(name, "/nowhere")
        study.run("--jobs", "4")
        yield study


@pytest.mark.slow
def test_a_grid_is_run_once_and_its_effects_are_known(grid, capsys):
    calls = grid.calls()
    assert len(calls) == len(set(calls)) == 3 * 49
    for seed in "012":
        shared = calls.index(f"seed {seed}")
        assert all(shared < place for place, call in enumerate(calls) if call.startswith(f"{seed} "))
    results = grid.results()
    assert results[2][RECIPE] == {"sampled/error": pytest.approx(0.21), "sampled/odd": None}
    grid.run("--jobs", "4")
    assert grid.calls() == calls  # nothing is done again
    written = json.loads((grid.output_dir / "ablation.json").read_text())
    effects = {
        (entry["ingredient"], entry["measure"]): entry["over_the_grid"] for entry in written["effects"]
    }
    facts = effects["facts in the reward prompt", "sampled/error"]
    assert facts["per_seed"] == pytest.approx({"0": -0.22, "1": -0.21, "2": -0.20})
    assert facts["interval"] == pytest.approx([-0.21 - 0.024841, -0.21 + 0.024841], abs=1e-6)
    assert effects["facts in the reward prompt", "sampled/odd"] is None
    assert len(written["runs"]) == 144
    table = (grid.output_dir / "ablation.md").read_text()
    assert table.split("## Together")[0].strip() in capsys.readouterr().out
    assert "| facts in the reward prompt | **-0.210 [-0.235, -0.185]** | – |" in table
    assert "| missing-stop penalty | +0.000 [+0.000, +0.000] | – |" in table
    assert "| facts in the reward prompt | sampled/error | correct-answer bonus | **-0.040" in table
    assert "| before PPO: sft | 0.900 ± 0.000 | – |" in table
    assert "| facts-bonus-length-stop-k1_clamped (the recipe) | 0.200 ± 0.006 | – |" in table
    assert (grid.output_dir / "ablation.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_measures_are_chosen_and_unknown_ones_named(grid):
    grid.run("--report_only", "True", "--measures", "sampled/odd")
    assert "| ingredient | sampled/odd |" in (grid.output_dir / "ablation.md").read_text()
    with pytest.raises(SystemExit, match="there are sampled/error, sampled/odd"):
        grid.run("--report_only", "True", "--measures", "error")


def test_a_failure_is_shown_and_only_it_is_tried_again(study, capsys):
    study.fail.write_text(ARMS[1])
    with pytest.raises(SystemExit, match="2 of 8 runs failed"):
        study.run(*SMALL)
    output = capsys.readouterr().out
    assert f"seed 0, {ARMS[1]} failed" in output and "the disk is on fire" in output
    assert "| correct-answer bonus |" in output  # of what is there
    assert len(study.calls()) == 2 * 4
    study.fail.write_text("")
    study.run(*SMALL)
    assert study.calls()[8:] == [f"0 {ARMS[1]}", f"1 {ARMS[1]}"]


def test_without_what_it_needs_an_arm_is_not_started(study, capsys):
    (study.scripts / "ablation_seed.sh").write_text('echo "seed $SEED" >>"$CALLS"\n[ "$SEED" = 1 ]\n')
    with pytest.raises(SystemExit, match="1 of 8 runs failed"):
        study.run(*SMALL)
    assert "seed 0 failed" in capsys.readouterr().out
    assert sorted(study.calls()) == sorted(["seed 0", "seed 1", *(f"1 {name}" for name in ARMS)])


def started_and_hanging(study: SmallStudy) -> subprocess.Popen:
    study.hang.write_text(ARMS[1])
    process = study.start(*SMALL)
    until = time.monotonic() + 60
    while f"0 {ARMS[1]}" not in study.calls():
        assert time.monotonic() < until, study.calls()
        time.sleep(0.05)
    return process


def test_a_signal_ends_the_runs_and_the_same_command_goes_on(study):
    process = started_and_hanging(study)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "SIGTERM: waiting for runs to save and end (1)" in output
    done = study.calls()
    study.hang.write_text("")
    study.run(*SMALL)
    assert study.calls()[len(done) :] == [
        f"0 {ARMS[1]}",
        f"0 {ARMS[2]}",
        "seed 1",
        *(f"1 {name}" for name in ARMS),
    ]


def test_after_a_kill_nobody_starts_a_run_beside_the_orphan(study):
    process = started_and_hanging(study)
    process.kill()
    process.wait()
    with pytest.raises(SystemExit, match="another process works there"):
        study.run(*SMALL)
    assert study.calls()[-1] == f"0 {ARMS[1]}"


def test_what_can_not_be_written_ends_the_runs_that_are_going_on(study):
    """Here a log; nothing would mark the runs as done, and they would hold the folder."""
    (study.output_dir / "logs/seed-0").mkdir(parents=True)
    (study.output_dir / f"logs/seed-0/{ARMS[2]}.log").mkdir()
    study.hang.write_text(ARMS[1])
    process = study.start(*SMALL, "--jobs", "2")
    since = time.monotonic()
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 1 and "Traceback" not in output and f"{ARMS[2]}.log" in output
    assert time.monotonic() - since < 28, "waited until the hanging run was over"
    study.hang.write_text("")
    (study.output_dir / f"logs/seed-0/{ARMS[2]}.log").rmdir()
    study.run(*SMALL)


def test_failures_are_shown_though_the_tables_can_not_be_written(study, capsys):
    study.fail.write_text(ARMS[1])
    with pytest.raises(SystemExit, match="--measures error: no run has it"):
        study.run(*SMALL, "--measures", "error")
    assert "the disk is on fire" in capsys.readouterr().out


def test_a_study_can_grow_but_not_change(study, monkeypatch):
    study.run("--factors", "facts", "--seeds", "0")
    assert len(study.calls()) == 3
    study.run("--factors", "facts", "correct_bonus", "--seeds", "0", "1")
    assert len(study.calls()) == 3 + 2 + 5
    monkeypatch.setenv("OTHER", "5")  # a variable that the scripts read
    with pytest.raises(ValueError, match="variables: OTHER: then not set, now 5"):
        prepare(study.command("--seeds", "0"))
    script = study.scripts / "ablation_arm.sh"
    script.write_text(script.read_text() + "# changed\n")
    with pytest.raises(ValueError, match=r"scripts: ablation_arm\.sh: then .*; variables: OTHER"):
        prepare(study.command("--seeds", "0"))
    study.run("--factors", "facts", "--seeds", "0", "--allow_changed_arguments", "True")
    study.run("--factors", "facts", "--seeds", "0")  # now these are its settings
    assert len(study.calls()) == 10


def test_before_a_seed_is_done_settings_can_be_mended(study, monkeypatch):
    script = study.scripts / "ablation_seed.sh"
    text = script.read_text()
    script.write_text("exit 1\n")
    with pytest.raises(SystemExit, match="2 of 8 runs failed"):
        study.run(*SMALL)
    script.write_text(text)
    monkeypatch.setenv("OTHER", "5")
    study.run(*SMALL)
    assert len(study.calls()) == 8


def test_variables_that_change_no_number_are_not_recorded(study):
    environment = {"MASTER_PORT": "8", "SEED": "3", "OUTPUT_DIR": "x", "OTHER": "y", "HOME": "/root"}
    assert settings_of(study.scripts, environment)["variables"] == {"OTHER": "y"}


@pytest.mark.parametrize("size", ["tiny", "7b-v1.5-224", "13b-v1.5-336"])
def test_the_number_of_processes_is_recorded(size):
    """Batches of the reward models and of policy init are a process's times their number."""
    environment = {"NUM_GPUS": "4", "NUM_PROCESSES": "2", "NNODES": "2"}
    assert settings_of(ROOT / "scripts" / size, environment)["variables"] == environment


def test_scripts_elsewhere_that_a_size_runs_are_recorded():
    """The reward model of the 7B policy is trained by a script of the 13B model."""
    recorded = settings_of(ROOT / "scripts/7b-v1.5-224", {})["scripts"]
    elsewhere = {name for name in recorded if name.startswith("../")}
    launch = {f"../launch/{name}.sh" for name in ("training", "evaluation", "ablation")}
    assert elsewhere == {"../common.sh", "../13b-v1.5-336/train_reward_model.sh", *launch}


def test_a_dry_run_is_not_taken_for_a_run(study, monkeypatch):
    """With it a script would print what it would start, and end as if that had been done."""
    monkeypatch.setenv("DRY_RUN", "1")
    prepared = prepare(study.command(*SMALL))
    assert all("DRY_RUN" not in stage.environment for stage in prepared.stages)


def test_a_finished_run_without_scores_is_an_error(study):
    (study.scripts / "ablation_arm.sh").write_text("true\n")
    with pytest.raises(SystemExit, match=r"no score file; delete .* to run it again"):
        study.run(*SMALL)

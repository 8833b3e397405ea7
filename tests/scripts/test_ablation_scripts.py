"""The scripts behind a study: what a seed prepares is what its arms use, and the flags of an arm win."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava_rlhf.ablation.arguments import AblationArguments
from llava_rlhf.ablation.design import FACTORS, make_arms
from llava_rlhf.ablation.study import make_stages
from llava_rlhf.runs.parsing import StrictParser
from tests.support.recorded_scripts import Call, parsed
from tests.support.tiers import tiered

SIZES = ("tiny", "7b-v1.5-224", "13b-v1.5-336")
PLAIN = {"tiny": "tiny_reward_prompt.txt"}


def of(calls: list[Call], module: str) -> list[Call]:
    return [call for call in calls if call.module == f"llava_rlhf.{module}"]


@pytest.fixture(params=tiered(SIZES, quick=SIZES[:2]))
def size(request) -> str:
    return request.param


@pytest.mark.parametrize("facts", ["True", "False"])
def test_an_arm_uses_what_its_seed_prepared(size, facts, runner, tmp_path):
    shared, arm = str(tmp_path / "my study/seed-3"), str(tmp_path / "my study/seed-3/arms/one")
    given = {"SEED": "3", "RUN_DIR": shared, "DATA_DIR": str(tmp_path / "data")}
    before = runner.run(f"{size}/ablation_seed.sh", **given)
    reward_models = {
        call.value("facts") if "--facts" in call.words else "True": call
        for call in of(before, "train_reward_model")
    }
    assert set(reward_models) == {"True", "False"}
    *_, init = of(before, "initialize_policy_model")
    flags = ("--correct_bonus_score", "0", "--penalize_no_stop_token", "False", "--kl_estimator", "k3")
    after = runner.run(f"{size}/ablation_arm.sh", *flags, **given, FACTS=facts, OUTPUT_DIR=arm)
    (ppo,) = of(after, "train_rl_model")
    for call in (*reward_models.values(), init, ppo):
        assert call.value("seed") == "3"
    assert ppo.value("output_dir") == arm
    assert ppo.value("policy_model_name_or_path") == init.value("output_dir") == f"{shared}/policy_init"
    reward_model = reward_models[facts]
    assert ppo.value("reward_model_name_or_path") == reward_model.value("output_dir")
    assert ppo.value("reward_prompt_file") == reward_model.value("reward_prompt_file")
    assert ppo.value("facts") == facts
    plain = str(runner.checkout / "prompts" / PLAIN.get(size, "reward_prompt.txt"))
    assert (reward_model.value("reward_prompt_file") == plain) == (facts == "False")
    if size == "7b-v1.5-224":
        assert reward_model.value("model_name_or_path") == ppo.value("reward_base_model_name")
    if size == "tiny":
        settings = parsed(ppo, tmp_path)
        assert settings["correct_bonus_score"] == 0 and settings["kl_estimator"] == "k3"
        assert settings["penalize_no_stop_token"] is False and settings["length_bonus_score"] == -1


@pytest.mark.parametrize("large", tiered(SIZES[1:], quick=SIZES[1:2]))
def test_the_base_of_the_reward_model_is_not_that_of_the_policy(large, runner, tmp_path):
    given = {"SEED": "3", "RUN_DIR": str(tmp_path), "BASE_MODEL": "/policy", "REWARD_BASE_MODEL": "/reward"}
    calls = runner.run(f"{large}/ablation_seed.sh", **given)
    assert {call.value("model_name_or_path") for call in of(calls, "train_reward_model")} == {"/reward"}
    assert {call.value("model_name_or_path") for call in of(calls, "initialize_policy_model")} == {"/policy"}


def test_scores_lie_where_the_study_looks_for_them(size, runner, tmp_path):
    shared, arm = str(tmp_path / "seed-0"), str(tmp_path / "arm")
    given = {"SEED": "0", "RUN_DIR": shared, "BENCHMARKS": "pope chair"}
    scored = [
        (call.value("answers"), call.value("output_file"))
        for calls in (
            runner.run(f"{size}/ablation_seed.sh", **given),
            runner.run(f"{size}/ablation_arm.sh", **given, FACTS="True", OUTPUT_DIR=arm),
        )
        for call in of(calls, "evaluate")
        if "--answers" in call.words
    ]
    folders = [f"{shared}/before/sft", f"{shared}/before/policy_init", f"{arm}/evaluation"]
    files = ["sampled/scores.json"] if size == "tiny" else ["pope.json", "chair.json"]
    expected = {f"{folder}/{file}" for folder in folders for file in files}
    assert {output for _, output in scored} == expected
    assert len({answers for answers, _ in scored}) == len(scored)


def test_steps_of_one_stage_only(size, runner, tmp_path):
    given = {"SEED": "0", "RUN_DIR": str(tmp_path), "REWARD_MODEL_STEPS": "5", "PPO_STEPS": "7"}
    calls = runner.run(f"{size}/ablation_seed.sh", **given)
    assert [call.value("max_steps") for call in of(calls, "train_reward_model")] == ["5", "5"]
    assert not {"5", "7"} & {call.value("max_steps") for call in of(calls, "initialize_policy_model")}
    arm = runner.run(f"{size}/ablation_arm.sh", **given, FACTS="True", OUTPUT_DIR=str(tmp_path / "arm"))
    assert [call.value("max_steps") for call in of(arm, "train_rl_model")] == ["7"]


@pytest.mark.parametrize("large", tiered(SIZES[1:], quick=SIZES[1:2]))
def test_benchmarks_keep_their_own_pictures_and_greedy_answers(large, runner, tmp_path):
    """IMAGE_FOLDER and TEMPERATURE in the environment are of the training."""
    given = {
        "SEED": "0",
        "RUN_DIR": str(tmp_path),
        "DATA_DIR": "/data",
        "IMAGE_FOLDER": "/own",
        "TEMPERATURE": "0.7",
    }
    calls = runner.run(f"{large}/ablation_seed.sh", **given)
    calls += runner.run(f"{large}/ablation_arm.sh", **given, FACTS="True", OUTPUT_DIR=str(tmp_path / "arm"))
    answered = [call for call in of(calls, "evaluate") if "answer" in call.words]
    assert [(call.value("image_folder"), call.value("temperature")) for call in answered] == [
        ("/data/coco/val2014", "0")
    ] * 3
    (ppo,) = of(calls, "train_rl_model")
    assert (ppo.value("image_folder"), ppo.value("temperature")) == ("/own", "0.7")


@pytest.mark.parametrize("large", tiered(SIZES[1:], quick=SIZES[1:2]))
def test_benchmarks_that_give_no_scores_are_refused_before_anything_is_trained(large, runner, tmp_path):
    given = {"SEED": "0", "RUN_DIR": str(tmp_path)}
    for benchmarks, complaint in (("pope mmhal", "JUDGE_URL"), ("pope gqa", "BENCHMARKS has gqa")):
        done = runner.start(f"{large}/ablation_seed.sh", **given, BENCHMARKS=benchmarks)
        assert done.returncode and complaint in done.stderr and not runner.calls()
    calls = runner.run(f"{large}/ablation_seed.sh", **given, BENCHMARKS="mmhal", JUDGE_URL="http://judge")
    first, *_ = calls
    assert "--benchmark mmhal" in " ".join(
        first.words
    )  # a benchmark that is not there shows before the training


def test_facts_and_stray_variables_are_checked(size, runner, tmp_path):
    given = {"SEED": "0", "RUN_DIR": str(tmp_path), "OUTPUT_DIR": str(tmp_path / "arm")}
    assert "FACTS" in runner.start(f"{size}/ablation_arm.sh", **given, FACTS="perhaps").stderr
    assert not runner.calls()
    if size == "tiny":
        for script in ("ablation_seed", "ablation_arm"):
            for name in ("SFT_MODEL", "REWARD_MODEL", "REWARD_PROMPT", "POLICY_MODEL", "WORLD_DIR"):
                done = runner.start(f"tiny/{script}.sh", **given | {name: "/x"})
                assert done.returncode == 2 and f"{name} is set" in done.stderr and not runner.calls()


def test_ablate_passes_its_variables(runner, tmp_path):
    scripts = str(runner.checkout / "scripts/13b-v1.5-336")
    given = {"SCRIPTS": scripts, "OUTPUT_DIR": "my study", "DESIGN": "one_off", "FACTORS": "facts kl_form"}
    given |= {"SEEDS": "4 5", "JOBS": "1", "MEASURES": "pope/f1 pope/accuracy"}
    (call,) = runner.run("ablate.sh", "--jobs", "3", **given)
    (read,) = StrictParser((AblationArguments,)).parse(call.arguments)
    assert read.output_dir == str(runner.cwd / "my study") and read.scripts == scripts
    assert (read.design, read.factors, read.seeds) == ("one_off", ["facts", "kl_form"], [4, 5])
    assert (read.jobs, read.measures) == (3, ["pope/f1", "pope/accuracy"])
    (call,) = runner.run("ablate.sh")
    (read,) = StrictParser((AblationArguments,)).parse(call.arguments)
    arms = make_arms(read.design, read.factors)
    assert len(make_stages(tmp_path, Path(read.scripts), read.seeds, arms)) == 3 + 3 * 48
    assert set(read.factors) == set(FACTORS) and read.scripts == str(runner.checkout / "scripts/tiny")

"""Words become enums, lists and switches; and how a program ends on a user's mistake."""

from __future__ import annotations

import sys

import pytest

from data_utils.facts import MissingCaptions
from llava_rlhf import initialize_policy_model, train_reward_model, train_rl_model
from llava_rlhf.functional.estimators import KLEstimator
from llava_rlhf.runs.parsing import StrictParser, run_program
from tests.support.tiny_data import policy_command, ppo_command, reward_command


@pytest.fixture
def ppo_argv(tiny_data, tmp_path):
    return ppo_command(tiny_data, "base", "policy", "reward", tmp_path)


def parse_ppo(argv):
    return StrictParser(train_rl_model.ARGUMENTS).parse(argv)


def test_values_reach_their_settings(ppo_argv):
    more = "--kl_estimator k3 --missing_captions no_fact --bits 4 --facts False".split()
    more += ["--max_kl", "12", "--guard_action", "warn", "--value_learning_rate", "1e-3"]
    more += ["--loss_normalization", "sequence"]
    ppo, reward, data, facts, model, run, guards, estimator, loss, *_ = parse_ppo(
        [*ppo_argv, *more, "--resume=no"]
    )
    assert (loss.loss_normalization, loss.dual_clip) == ("sequence", None)
    assert (estimator.value_learning_rate, estimator.normalize_returns) == (1e-3, False)
    assert (guards.max_kl, guards.guard_action) == (12.0, "warn")
    assert reward.kl_estimator is KLEstimator.K3 and facts.missing_captions is MissingCaptions.NO_FACT
    assert model.bits == 4 and facts.facts is False
    assert (ppo.rollout_batch_size, data.version, run.resume) == (8, "tiny", "no")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--kl_estimator", "k4"], "--kl_estimator.*: invalid choice: 'k4'"),
        (["--missing_captions", "guess"], "--missing_captions.*: invalid choice: 'guess'"),
        (["--noptepochs", "two"], "--noptepochs: invalid int value: 'two'"),
        (["--seed", "1", "2"], "unexpected value on the command line: 2|unrecognized arguments: 2"),
        (["--image_to_caption_file", "absent.json"], "--image_to_caption_file absent.json: no such file"),
        (["--query_len", "0"], "--query_len 0: must be at least 1"),
    ],
)
def test_a_wrong_word_is_an_error_that_names_it(ppo_argv, words, message):
    with pytest.raises(ValueError, match=message):
        parse_ppo([*ppo_argv, *words])


@pytest.mark.parametrize("flag", ["--model_name_or_path", "--output_dir"])
@pytest.mark.parametrize("program", [train_reward_model, initialize_policy_model])
def test_the_trainer_programs_need_a_base_and_a_run_folder(program, flag, tiny_data, tmp_path):
    make = reward_command if program is train_reward_model else policy_command
    with pytest.raises(ValueError, match=f"{flag} is required"):
        program.prepare(make(tiny_data, tmp_path, tmp_path, **{flag[2:]: None}))


def test_a_users_mistake_ends_with_status_2_and_no_traceback(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["program", "--no_such_flag"])

    def prepare(argv):
        raise ValueError(f"unknown flag {argv[0]}")

    with pytest.raises(SystemExit) as end:
        run_program(prepare, run=lambda prepared: None)
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: unknown flag --no_such_flag\n"


def test_our_own_mistake_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program"])

    def run(prepared):
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        run_program(lambda argv: None, run)


def test_gradients_are_clipped_as_published_by_default(ppo_argv):
    assert parse_ppo(ppo_argv)[0].max_grad_norm == 1.0
    for program in (train_reward_model, initialize_policy_model):
        assert program.ARGUMENTS[0].__dataclass_fields__["max_grad_norm"].default == 0.3

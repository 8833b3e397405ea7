"""Where numbers come from: the command of a run can be pasted, its links lead to its files."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from llava_rlhf import initialize_policy_model, train_reward_model, train_rl_model
from llava_rlhf.reporting.provenance import command, differing_settings, link_to, links, seed
from llava_rlhf.runs.parsing import StrictParser
from llava_rlhf.runs.run_record import run_record
from tests.support.tiny_data import command_line


def record(program, **flags) -> tuple[dict, tuple]:
    """What a run of a program records, and its settings."""
    parsed = StrictParser(program.ARGUMENTS).parse(command_line(**flags))
    return run_record(parsed, {"dataset_path": "1 byte"}, 1, 8), parsed


def pasted(program, lines: list[str]) -> tuple:
    """The settings that the command gives when it is pasted into a shell."""
    words = shlex.split(" ".join(lines))
    assert words[:3] == ["python", "-m", program.__name__]
    return StrictParser(program.ARGUMENTS).parse(words[3:])


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    """Flags of files that must exist."""
    (tmp_path / "images").mkdir()
    for name in ("rows.json", "prompt.txt"):
        (tmp_path / name).write_text("")
    return {"dataset_path": tmp_path / "rows.json", "image_folder": tmp_path / "images"}


def test_the_command_of_a_ppo_run_gives_its_settings_again(tmp_path, files):
    odd = str(tmp_path / "it's a run, $HOME")
    written, settings = record(
        train_rl_model,
        base_model_name="base model",
        policy_model_name_or_path="policy",
        reward_model_name_or_path="reward",
        output_dir=odd,
        reward_prompt_file=tmp_path / "prompt.txt",
        facts=False,
        **files,
        kl_estimator="k3",
        penalize_no_stop_token=False,
        length_bonus_score=-2.5,
        seed=11,
        use_cpu=True,
    )
    assert pasted(train_rl_model, command(written)) == settings
    assert seed(written) == 11


def test_the_commands_of_the_trainer_programs(tmp_path, files):
    of_the_reward_model = {"facts": False, "reward_prompt_file": tmp_path / "prompt.txt"}
    for program, more in ((train_reward_model, of_the_reward_model), (initialize_policy_model, {})):
        flags = {
            "model_name_or_path": "base",
            "output_dir": tmp_path / "out",
            "per_device_train_batch_size": 3,
            "gradient_checkpointing": True,
            "seed": 5,
            "use_cpu": True,
            "report_to": "none",
            **files,
            **more,
        }
        written, settings = record(program, **flags)
        again, _ = run_record(pasted(program, command(written)), {}, 1, 8), None
        groups = [type(group).__name__ for group in settings]
        assert {name: again[name] for name in groups} == {name: written[name] for name in groups}


def test_several_processes_and_unknown_programs():
    several = {"PPOArguments": {"seed": 0, "deepspeed": None}, "processes": 8, "global_batch_size": 4}
    assert command(several) == ["torchrun --nproc_per_node 8 -m llava_rlhf.train_rl_model", "--seed 0"]
    assert command({}) == [] and seed({}) is None


def test_links_lead_to_what_there_is(tmp_path):
    run = tmp_path / "a run"
    (run / "lora_policy").mkdir(parents=True)
    (run / "metrics.jsonl").write_text("")
    found = links(run, tmp_path / "pages" / "report.html")
    assert [(link.text, link.address) for link in found] == [
        ("metrics", "./../a%20run/metrics.jsonl"),
        ("policy", "./../a%20run/lora_policy"),
    ]
    odd = link_to(Path(tmp_path / 'x"<b>.html'), tmp_path / "report.html", "odd")
    assert odd.address == "./x%22%3Cb%3E.html"


def test_settings_that_differ():
    runs = [
        {"PPOArguments": {"seed": 0, "lam": 1.0}, "processes": 1},
        {"PPOArguments": {"seed": 1, "lam": 1.0, "new": True}, "processes": 1},
    ]
    assert differing_settings(runs) == [
        ("PPOArguments.seed", ["0", "1"]),
        ("PPOArguments.new", ["–", "True"]),
    ]
    assert differing_settings(runs[:1]) == []

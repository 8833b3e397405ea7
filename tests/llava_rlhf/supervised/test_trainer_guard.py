"""Reward model and policy initialisation stop on numbers that are not finite, and say which rows gave them."""

from __future__ import annotations

import json
import shutil

import pytest

from llava_rlhf import initialize_policy_model, train_reward_model
from llava_rlhf.runs.checkpoints import complete_checkpoints, step_of
from llava_rlhf.runs.stopping import NonFiniteError
from tests.support.broken_models import with_broken_weight
from tests.support.tiers import tiered
from tests.support.tiny_data import policy_command, reward_command
from tests.support.tiny_models import tiny_tokenizer

PROGRAMS = {
    "policy": (initialize_policy_model, policy_command, "dialogues", "lora_policy"),
    "reward": (train_reward_model, reward_command, "preferences", "lora_reward"),
}
WORD = "bird"


def run(program, argv):
    program.run(program.prepare(argv))


@pytest.fixture(scope="module")
def broken_base(tiny_base, tmp_path_factory):
    """A base that can't read one word."""
    (token,) = tiny_tokenizer()(WORD, add_special_tokens=False).input_ids
    folder = tmp_path_factory.mktemp("broken") / "base"
    return with_broken_weight(
        tiny_base, folder, "model.safetensors", "embed_tokens", lambda w: w[token].fill_(float("inf"))
    )


@pytest.mark.parametrize("name", tiered(PROGRAMS, quick=["policy"]))
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_rows(name, tiny_data, broken_base, tmp_path):
    program, command, file, _ = PROGRAMS[name]
    changes = {"facts": False} if name == "reward" else {}  # captions speak of birds too
    with pytest.raises(NonFiniteError, match=r"step \d+: the loss is not finite") as stopped:
        run(program, command(tiny_data, broken_base, tmp_path, max_steps=8, **changes))
    (dump,) = tmp_path.glob("nonfinite-step*-process0.json")
    assert dump.name.startswith(f"nonfinite-step{str(stopped.value).split(':')[0].split()[1]}-")
    rows = json.loads(dump.read_text())
    path = getattr(tiny_data, file)
    records = json.loads(path.read_text())
    assert len(rows) == 4 and {row["file"] for row in rows} == {str(path)}
    for row in rows:
        assert ("nan" in row["model_output"]) == (WORD in json.dumps(records[row["row"]])), row


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_gradient_that_overflows_leaves_the_checkpoint(name, tiny_data, tiny_base, tmp_path):
    """A ∝ 10³⁰ while B is still 0: the outputs are those of the base, the gradient of B is not finite."""
    program, command, _, role = PROGRAMS[name]
    argv = command(tiny_data, tiny_base, tmp_path, max_steps=2, learning_rate=0.0)
    run(program, argv)
    shutil.rmtree(tmp_path / "checkpoint-2")
    (tmp_path / "finished.json").unlink()
    checkpoint = tmp_path / "checkpoint-1"
    adapter = f"{role}/adapter_model.safetensors"
    with_broken_weight(checkpoint, checkpoint, adapter, "lora_A", lambda weight: weight.mul_(1e30))
    before = (checkpoint / adapter).read_bytes()
    with pytest.raises(NonFiniteError, match="step 2: the gradient is not finite"):
        run(program, argv)
    assert [step_of(folder) for folder in complete_checkpoints(tmp_path)] == [1]
    assert (checkpoint / adapter).read_bytes() == before
    rows = json.loads((tmp_path / "nonfinite-step2-process0.json").read_text())
    assert len(rows) == 4 and all("nan" not in row["model_output"] for row in rows)

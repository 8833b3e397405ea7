"""Real photographs, not square, in colour and grey, through all three programs with a small random model.

The photographs are those inside scikit-image's wheel; captions, pairs, dialogues and prompts about them lie in
`tests/references/photographs` in the published formats. Template `v1` and the shipped factual prompt are used as a real
run uses them (the tiny tokenizer knows few of their words).
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from data_utils.schema import AnswerType, read_captions
from llava_rlhf import initialize_policy_model, train_reward_model, train_rl_model
from tests.support.tiny_data import TinyData, policy_command, ppo_command, reward_command

skimage_data = pytest.importorskip("skimage.data", reason="needs scikit-image's photographs")

ROOT = Path(__file__).parents[2]
RECORDS = Path(__file__).parents[1] / "references/photographs"
LENGTHS = {"version": "v1", "query_len": 300, "response_len": 120, "model_max_length": 1000}
SHORT_TRAINING = {**LENGTHS, "per_device_train_batch_size": 2, "max_steps": 3}


@pytest.fixture(scope="module")
def data() -> TinyData:
    files = (
        RECORDS / f"{name}.json" for name in ("preferences", "policy_init", "prompts", "image_to_caption")
    )
    prompts = ROOT / "prompts"
    return TinyData(
        Path(skimage_data.__file__).parent,
        *files,
        prompts / "fact_rlhf_reward_prompt.txt",
        prompts / "reward_prompt.txt",
    )


@pytest.fixture(scope="module")
def policy(data, tiny_base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photographs") / "policy"
    argv = policy_command(data, tiny_base, folder, **SHORT_TRAINING)
    initialize_policy_model.run(initialize_policy_model.prepare(argv))
    return folder


@pytest.fixture(scope="module")
def reward_model(data, tiny_base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photographs") / "reward"
    evaluation = {"eval_size": 2, "eval_strategy": "steps", "eval_steps": 2}
    argv = reward_command(data, tiny_base, folder, **SHORT_TRAINING, **evaluation)
    train_reward_model.run(train_reward_model.prepare(argv))
    return folder


@pytest.fixture(scope="module")
def ppo(data, tiny_base, policy, reward_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photographs") / "ppo"
    argv = ppo_command(data, tiny_base, policy, reward_model, folder, **{**LENGTHS, "response_len": 10})
    train_rl_model.run(train_rl_model.prepare(argv))
    return folder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_photographs_are_what_the_test_is_about(data):
    names = {row["image"] for row in json.loads(data.prompts.read_text())}
    photographs = [Image.open(data.images / name) for name in names]
    assert len(photographs) >= 8
    assert all(photograph.width != photograph.height for photograph in photographs)
    assert {photograph.mode for photograph in photographs} == {"RGB", "L"}


@pytest.mark.parametrize("program", ["policy", "reward_model"])
def test_training_is_finite_and_saved(program, request):
    folder = request.getfixturevalue(program)
    losses = [line["loss"] for line in lines(folder / "metrics.jsonl") if "loss" in line]
    assert len(losses) == 3
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    adapter = "lora_policy" if program == "policy" else "lora_reward"
    for place in (folder, folder / "checkpoint-3"):
        weights = load_file(place / adapter / "adapter_model.safetensors")
        assert all(weight.isfinite().all() for weight in weights.values())
        assert any(weight.any() for name, weight in weights.items() if "lora_B" in name)


def test_the_reward_model_is_evaluated_and_carries_its_prompt(reward_model):
    final = lines(reward_model / "metrics.jsonl")[-1]
    assert final["final_accuracy"] in (0.0, 0.5, 1.0)  # of two pairs
    assert math.isfinite(final["final_average_score"])
    card = json.loads((reward_model / "reward_model.json").read_text())
    assert card["facts"] is True and card["template"] == "v1"
    assert "{factual_prompt}" in card["prompt"] and "grounding the response in the image" in card["prompt"]


@pytest.mark.slow
def test_ppo_metrics_are_finite(ppo):
    metrics = lines(ppo / "metrics.jsonl")
    assert [line["step"] for line in metrics] == [1, 2]
    assert all(math.isfinite(value) for line in metrics for value in line.values())
    assert metrics[0]["objective/kl_sum_seq"] == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 2])
def test_rollouts_are_complete(ppo, data, step):
    rows = lines(ppo / f"rollouts/{step:06d}.jsonl")
    prompts = json.loads(data.prompts.read_text())
    captions, problems = read_captions(data.captions)
    assert not problems
    assert sorted(row["row"] for row in rows) == list(range(8))
    for row in rows:
        prompt = prompts[row["row"]]
        assert row["id"] == prompt["id"] and row["image"] == [prompt["image"]]
        assert prompt["conversations"][0]["value"] == "<image>\n" + row["question"]
        assert row["answer_type"] == AnswerType(prompt["caption_type"]).name
        key = ("aok_" if 2 <= prompt["caption_type"] <= 5 else "") + prompt["image"]
        assert sorted(row["captions"]) == sorted(captions[key])
        assert 1 <= row["length"] <= 10 and isinstance(row["response"], str)
        assert row["length_bonus"] == pytest.approx(
            -10 * row["length"] / 10 * prompt.get("length_bonus", 1.0), abs=1e-5
        )
        terms = ("reward_model", "stop_penalty", "length_bonus", "correct_bonus")
        assert row["score"] == pytest.approx(sum(row[term] for term in terms), abs=1e-4)
        assert math.isfinite(row["kl"]) and (step > 1 or row["kl"] == 0)
        assert (row["stop_penalty"] == 0) == (row["stop_reason"] == "stop token")

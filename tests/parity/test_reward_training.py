"""The original's reward training, replayed step by step on its recorded batches by our Trainer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from llava_rlhf.runs.reward_card import RewardModelCard
from llava_rlhf.runs.role_files import REWARD, REWARD_HEAD
from llava_rlhf.runs.run_folder import read_json_lines
from llava_rlhf.runs.training_arguments import LlavaTrainingArguments
from llava_rlhf.supervised.reward_trainer import PairScorer, RewardTrainer
from llava_rlhf.train_reward_model import load_reward_model, save_reward_model
from models.adapters import AdapterBank, AdapterSpec
from models.heads import ScalarHead
from models.roles import RewardModel
from models.vlm import BaseSettings, load_base
from tests.parity.recordings import pair_batch

STEPS = 8


def load_trainable(base: Path, folder: Path) -> RewardModel:
    """The converted reward model, ready to train."""
    bank = AdapterBank(
        load_base(base, BaseSettings()), {REWARD: AdapterSpec(folder / REWARD, trainable=True)}, False
    )
    head = ScalarHead(bank.vlm.hidden_size)
    head.load(folder / REWARD_HEAD)
    return RewardModel(bank, REWARD, head)


def take_one(items):
    """A recorded batch is one item of the dataset."""
    return items[0]


@pytest.fixture(scope="module")
def replay(recordings, converted_base, converted_rm0, tmp_path_factory):
    """The run folder after 8 steps, the recording, and the scores that were seen on the way."""
    recorded = dict(np.load(recordings / "rm" / "steps.npz"))
    trained = [index for index in range(14) if recorded[f"{index}/train"]]
    folder = tmp_path_factory.mktemp("replay")
    reward_model = load_trainable(converted_base, converted_rm0)
    scorer = PairScorer(reward_model)
    scores: list[Tensor] = []
    scorer.register_forward_hook(lambda module, inputs, output: scores.append(output.detach().clone()))
    card = RewardModelCard(str(converted_base), "unused", False, "v1", "pad", "unused")
    arguments = LlavaTrainingArguments(
        model_name_or_path=str(converted_base),
        output_dir=str(folder),
        learning_rate=2e-3,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=1,
        max_grad_norm=0.3,
        max_steps=STEPS,
        per_device_train_batch_size=1,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_steps=4,
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    trainer = RewardTrainer(
        model=scorer,
        args=arguments,
        train_dataset=[pair_batch(recorded, f"{index}/") for index in trained],
        data_collator=take_one,
        save_role=lambda path: save_reward_model(reward_model, card, path),
        load_role=lambda path: load_reward_model(reward_model, path),
        record={},
    )
    trainer.train()
    return folder, recorded, trained, scores


def test_losses_scores_rates_and_norms_of_every_step(replay):
    folder, recorded, trained, scores = replay
    logged = [line for line in read_json_lines(folder / "metrics.jsonl") if "loss" in line]
    assert len(logged) == len(scores) == STEPS
    for step, (line, index) in enumerate(zip(logged, trained, strict=True)):
        theirs = torch.tensor(recorded[f"{index}/rewards_1_0"])[:, 0].flip(-1)
        assert torch.allclose(scores[step], theirs, rtol=0, atol=1e-5), step
        assert line["loss"] == pytest.approx(float(recorded[f"{index}/loss"]), abs=1e-5)
        assert line["grad_norm"] == pytest.approx(float(recorded["preclip_grad_norms"][step]), rel=1e-4)


def test_the_rates_are_those_that_the_steps_ran_at(replay):
    folder, recorded, trained, _ = replay
    logged = [line for line in read_json_lines(folder / "metrics.jsonl") if "loss" in line]
    rates = [float(recorded[f"{index}/lr"]) for index in trained]
    assert rates[0] == 0.0 and rates[1] == 0.002
    assert [line["learning_rate"] for line in logged] == pytest.approx(rates)


@pytest.mark.parametrize("step", [4, 8])
def test_the_trained_model_scores_the_fixed_sequences_alike(replay, recordings, converted_base, step):
    folder = replay[0] / f"checkpoint-{step}"
    fixed = dict(np.load(recordings / "rm" / "fixed_batch_rewards.npz"))
    batch = pair_batch(fixed)
    batch.pop("choice")
    with torch.no_grad():
        scores = PairScorer(load_trainable(converted_base, folder)).eval()(**batch)
    assert torch.allclose(scores, torch.tensor(fixed[f"checkpoint_{step}_rewards"]), rtol=0, atol=1e-5)


def test_the_final_adapter_and_head(replay, converted_rm0, converted_rm8):
    ours = replay[0] / f"checkpoint-{STEPS}"
    for name in (f"{REWARD}/adapter_model.safetensors", REWARD_HEAD):
        first, last, found = (load_file(folder / name) for folder in (converted_rm0, converted_rm8, ours))
        assert found.keys() == last.keys()
        for key, value in last.items():
            assert torch.allclose(found[key], value, rtol=0, atol=1e-4), key
        moved = max(float((last[key] - first[key]).abs().max()) for key in last)
        assert moved > 1e-3, "the recorded run must have moved the weights by more than the tolerance"

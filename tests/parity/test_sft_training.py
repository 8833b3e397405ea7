"""The original's policy initialisation, replayed on its recorded batches: two micro-batches a step, four steps."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import get_scheduler

from data_utils.batches import NO_LOSS
from llava_rlhf.assembly.roles import unsampled_ids
from llava_rlhf.initialize_policy_model import load_policy, save_policy
from llava_rlhf.runs.role_files import POLICY
from llava_rlhf.runs.run_folder import read_json_lines
from llava_rlhf.runs.training_arguments import LlavaTrainingArguments
from llava_rlhf.supervised.sft_trainer import DialogueLoss, SFTTrainer
from models.adapters import AdapterBank, AdapterSpec
from models.roles import Policy
from models.vlm import BaseSettings, load_base
from tests.parity.recordings import IMAGE_ID, dialogue_batch

STEPS, ACCUMULATION, MAX_NORM = 4, 2, 0.3


class TextSide:
    """What `unsampled_ids` reads of a base: the converted tokenizer has 32001 tokens, the last the image."""

    family = SimpleNamespace(banned_ids=(IMAGE_ID,))
    tokenizer = range(IMAGE_ID + 1)


@pytest.fixture(scope="module")
def recorded(recordings):
    return dict(np.load(recordings / "sft" / "steps.npz"))


@pytest.fixture
def loss_module(converted_base, converted_policy_init) -> DialogueLoss:
    adapters = {POLICY: AdapterSpec(converted_policy_init / POLICY, trainable=True)}
    bank = AdapterBank(load_base(converted_base, BaseSettings()), adapters, False)
    return DialogueLoss(Policy(bank, POLICY), unsampled_ids(TextSide(), bank.vlm.vocab_size))


def tokens(batch):
    return int((batch["labels"][:, 1:] != NO_LOSS).sum())


def test_losses_rates_norms_and_the_final_adapter(recorded, loss_module, converted_policy):
    """The original divides each micro-batch by its own tokens; all else is what `SFTTrainer` does, written out."""
    parameters = list(loss_module.policy.bank.parameters_of(POLICY).values())
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.0)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=1, num_training_steps=STEPS)
    for step in range(STEPS):
        for index in (2 * step, 2 * step + 1):
            batch = dialogue_batch(recorded, f"{index}/")
            loss = loss_module.train()(**batch).sum() / tokens(batch)
            assert float(loss.detach()) == pytest.approx(float(recorded[f"{index}/loss"]), abs=1e-5), index
            assert optimizer.param_groups[0]["lr"] == pytest.approx(float(recorded[f"{index}/lr"]))
            (loss / ACCUMULATION).backward()
        norm = nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        assert float(norm) == pytest.approx(float(recorded["preclip_grad_norms"][step]), rel=1e-4), step
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    weights = load_file(converted_policy / POLICY / "adapter_model.safetensors")
    found = loss_module.policy.bank.state_dict_of(POLICY)
    assert found.keys() == weights.keys()
    for key, value in weights.items():
        assert torch.allclose(found[key], value, rtol=0, atol=1e-4), key


def test_the_program_divides_by_the_tokens_of_the_whole_step(
    recorded, loss_module, converted_base, converted_policy_init, tmp_path
):
    """Our departure, on the recorded first step: Σ/N instead of the mean of the micro-batches' means."""
    arguments = LlavaTrainingArguments(
        model_name_or_path=str(converted_base),
        output_dir=str(tmp_path),
        learning_rate=2e-3,
        max_grad_norm=MAX_NORM,
        max_steps=1,
        gradient_accumulation_steps=ACCUMULATION,
        per_device_train_batch_size=1,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    batches = [dialogue_batch(recorded, f"{index}/") for index in range(ACCUMULATION)]
    trainer = SFTTrainer(
        model=loss_module,
        args=arguments,
        train_dataset=batches,
        data_collator=lambda items: items[0],
        save_role=lambda path: save_policy(loss_module.policy, str(converted_base), path),
        load_role=lambda path: load_policy(loss_module.policy, path),
        record={},
    )
    trainer.train()
    (line,) = (line for line in read_json_lines(tmp_path / "metrics.jsonl") if "loss" in line)
    means = [float(recorded[f"{index}/loss"]) for index in range(ACCUMULATION)]
    counts = [tokens(batch) for batch in batches]
    assert counts[0] != counts[1]
    whole = sum(mean * count for mean, count in zip(means, counts, strict=True)) / sum(counts)
    assert line["loss"] == pytest.approx(whole, abs=1e-5)
    assert abs(whole - sum(means) / ACCUMULATION) > 1e-2, "the two rules must differ here"

"""Policy and reward model on two bases of one family, of two widths: PPO against PPO written out with plain models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from llava_rlhf import train_reward_model
from llava_rlhf.assembly.reward_models import new_reward_model
from llava_rlhf.assembly.roles import load_text_side
from llava_rlhf.runs.arguments import AdapterArguments
from llava_rlhf.runs.reward_card import RewardModelCard
from models.base_fingerprint import base_fingerprint
from models.vlm import BaseSettings
from tests.llava_rlhf.exporting.exports import write_run
from tests.support.literal_ppo import LiteralPPO, Row
from tests.support.ppo_world import largest_difference, metrics_of, record_experience, run_ppo, trained
from tests.support.tiny_data import FACT_PROMPT, ppo_command
from tests.support.tiny_families.qwen import save_tiny_qwen25

SETTINGS = {
    "version": "chat",
    "query_len": 300,
    "model_max_length": 900,
    "response_len": 8,
    "step_batch_size": 8,
    "step_per_device_batch_size": 8,
    "noptepochs": 2,
    "learning_rate": 3e-4,
}
WIDE = 96
LIMITS = {"min_pixels": 4 * 28**2, "max_pixels": 9 * 28**2}  # those of the bases go up to 16


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Both bases, a policy on the narrow one and a reward model on the wide one; all of random weights."""
    folder = tmp_path_factory.mktemp("two")
    base, reward_base = save_tiny_qwen25(folder / "narrow"), save_tiny_qwen25(folder / "wide", WIDE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = new_reward_model(reward_base, BaseSettings(), AdapterArguments(lora_r=4), False)
    (folder / "reward").mkdir()
    card = RewardModelCard(
        str(reward_base),
        FACT_PROMPT,
        True,
        SETTINGS["version"],
        None,
        base_fingerprint(reward_base),
        **LIMITS,
    )
    train_reward_model.save_reward_model(model, card, folder / "reward")
    policy = write_run(base, folder / "policy", version=SETTINGS["version"], **LIMITS)
    return {"base": base, "reward_base": reward_base, "policy": policy, "reward": folder / "reward"}


@pytest.mark.slow
def test_two_steps_on_two_bases_equal_ppo_written_out(folders, tiny_data, tmp_path, monkeypatch):
    recorded = record_experience(monkeypatch)
    argv = ppo_command(
        tiny_data,
        folders["base"],
        folders["policy"],
        folders["reward"],
        tmp_path,
        reward_base_model_name=folders["reward_base"],
        **SETTINGS,
        **LIMITS,
    )
    prepared = run_ppo(argv)
    settings = prepared.settings
    prompts = {item.row: item for item in (prepared.prompts[row] for row in range(len(prepared.prompts)))}
    stops = AutoTokenizer.from_pretrained(folders["base"]).convert_tokens_to_ids(
        ["<|im_end|>", "<|endoftext|>"]
    )
    twin = LiteralPPO(
        folders["base"],
        folders["reward_base"],
        folders["policy"],
        folders["reward"],
        settings.ppo,
        settings.reward,
        settings.data.response_len,
        stops,
    )
    for metrics, experience in zip(metrics_of(tmp_path), recorded, strict=True):
        responses = [
            row[real].tolist()
            for row, real in zip(experience.responses, experience.response_mask, strict=True)
        ]
        items = [prompts[item.row] for item in experience.items]
        assert {len(item.grids) for item in items} == {0, 1, 2}
        rows = [Row(*row) for row in zip(items, responses, experience.texts, strict=True)]
        for name, expected in twin.step(rows).items():
            assert metrics[name] == pytest.approx(expected, rel=1e-4, abs=1e-6), name
    heads = {"head.weight": twin.value.weight.detach(), "head.bias": twin.value.bias.detach()}
    for role, plain in (("lora_policy", twin.policy), ("lora_value", twin.value)):
        heads |= {f"{role}.{name}": value.detach() for name, value in plain.adapter_state().items()}
    assert largest_difference(trained(tmp_path), heads) < 1e-5


def test_limits_of_a_picture_reach_pixels_positions_and_feature_files(folders, tmp_path):
    from data_utils.image_choices import ImageChoices
    from llava_rlhf.assembly.feature_cache import ingredients
    from tests.support.tiny_families.common import picture

    picture(300, 500, seed=0).save(tmp_path / "large.png")
    found = {}
    for name, limits in {
        "own": {},
        "least": LIMITS,
        "named": {"min_pixels": 3136, "max_pixels": 12544},
    }.items():
        text = load_text_side(folders["base"], ImageChoices(**limits), "chat")
        seen = text.pipeline(tmp_path, ["large.png"])
        positions = text.family.positions(text.pipeline.processor, (300, 500))
        assert positions == len(text.family.placeholder(seen.grids[0]))
        found[name] = positions, seen.pixels, str(ingredients(folders["base"], text.pipeline, torch.float32))
    assert found["least"][0] < found["own"][0] == found["named"][0]
    assert torch.equal(found["own"][1], found["named"][1])
    assert found["least"][2] != found["own"][2] == found["named"][2]

"""Two whole PPO steps of the program against PPO written out with plain Hugging Face models."""

from __future__ import annotations

import pytest

from tests.support.literal_ppo import LiteralPPO, Row
from tests.support.ppo_world import largest_difference, metrics_of, record_experience, run_ppo, trained
from tests.support.tiny_data import ppo_command
from tests.support.tiny_models import STOP

# Answers of the tiny policy have 2 to 6 tokens: with 4 allowed, some are cut off before their stop.
ONE_BATCH = {
    "step_batch_size": 8,
    "step_per_device_batch_size": 8,
    "noptepochs": 2,
    "learning_rate": 3e-4,
    "response_len": 4,
}
VARIANTS = {
    "as published": {},
    "everything else": {
        "whiten_rewards": True,
        "kl_estimator": "k3",
        "kl_coef": 0.5,
        "gamma": 0.9,
        "lam": 0.8,
        "temperature": 0.7,
        "cliprange": 0.003,
        "cliprange_value": 0.01,
        "max_grad_norm": 0.05,
        "vf_coef": 0.5,
    },
    "two bases": {},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_steps_equal_ppo_written_out(
    variant,
    tiny_base,
    tiny_reward_base,
    tiny_data,
    policy_run,
    reward_run,
    own_base_reward_run,
    tmp_path,
    monkeypatch,
):
    reward_base, reward = (
        (tiny_reward_base, own_base_reward_run) if variant == "two bases" else (tiny_base, reward_run)
    )
    seen = record_experience(monkeypatch)
    argv = ppo_command(
        tiny_data, tiny_base, policy_run, reward, tmp_path, **{**ONE_BATCH, **VARIANTS[variant]}
    )
    prepared = run_ppo(argv)
    settings = prepared.settings
    prompts = {item.row: item for item in (prepared.prompts[row] for row in range(len(prepared.prompts)))}
    twin = LiteralPPO(
        tiny_base, reward_base, policy_run, reward, settings.ppo, settings.reward, settings.data.response_len
    )
    logged = metrics_of(tmp_path)
    assert len(logged) == 2
    cut_off = []
    for metrics, experience in zip(logged, seen, strict=True):
        responses = [
            row[real].tolist()
            for row, real in zip(experience.responses, experience.response_mask, strict=True)
        ]
        assert len({len(response) for response in responses}) > 1, "rows of one length would not test padding"
        cut_off.append(sum(response[-1] != STOP for response in responses))
        items = [prompts[item.row] for item in experience.items]
        rows = [Row(*row) for row in zip(items, responses, experience.texts, strict=True)]
        for name, expected in twin.step(rows).items():
            assert metrics[name] == pytest.approx(expected, rel=1e-4, abs=1e-6), name
    assert 0 < sum(cut_off) < 16, "the missing-stop penalty must fall on some rows"
    heads = {"head.weight": twin.value.weight.detach(), "head.bias": twin.value.bias.detach()}
    for role, plain in (("lora_policy", twin.policy), ("lora_value", twin.value)):
        heads |= {f"{role}.{name}": value.detach() for name, value in plain.adapter_state().items()}
    assert largest_difference(trained(tmp_path), heads) < 1e-5

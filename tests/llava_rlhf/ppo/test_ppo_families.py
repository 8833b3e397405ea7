"""Two whole PPO steps on other families against PPO written out with plain Hugging Face models; and a first look at them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import AutoTokenizer

from llava_rlhf import answer_prompts, initialize_policy_model, train_reward_model
from llava_rlhf.runs.run_folder import read_json_lines
from tests.llava_rlhf.evaluation.scoring import scored
from tests.support.literal_ppo import LiteralPPO, Row, seen
from tests.support.plain_models import PlainRole
from tests.support.ppo_world import largest_difference, metrics_of, record_experience, run_ppo, trained
from tests.support.tiny_data import TinyData, command_line, policy_command, ppo_command, reward_command
from tests.support.tiny_families import TINY_FAMILIES

LIMITS = {"query_len": 300, "model_max_length": 900}
ONE_BATCH = {
    "step_batch_size": 8,
    "step_per_device_batch_size": 8,
    "noptepochs": 2,
    "learning_rate": 3e-4,
    "response_len": 8,
    **LIMITS,
}
OTHERS = [family for family in TINY_FAMILIES if family.model_type != "llava"]


@dataclass(frozen=True)
class Trained:
    """A base, and a policy and a reward model on it; the template has the name of the family's type."""

    version: str
    base: Path
    policy: Path
    reward: Path

    def command(self, data: TinyData, folder: Path, **changes: object) -> list[str]:
        """PPO on it."""
        return ppo_command(
            data, self.base, self.policy, self.reward, folder, version=self.version, **ONE_BATCH, **changes
        )


@pytest.fixture(scope="module", params=OTHERS, ids=lambda family: family.model_type)
def models(request, tiny_data, tmp_path_factory) -> Trained:
    version, folder = request.param.model_type, tmp_path_factory.mktemp("other")
    base = request.param.save(folder / "base")
    settings = {
        "version": version,
        **LIMITS,
        "response_len": 60,
        "learning_rate": 1e-2,
        "save_strategy": "no",
    }
    # A policy that has learned to stop sometimes.
    for program, make, steps in (
        (initialize_policy_model, policy_command, 24),
        (train_reward_model, reward_command, 2),
    ):
        argv = make(tiny_data, base, folder / program.__name__, **settings, max_steps=steps)
        program.run(program.prepare(argv))
    policy, reward = (folder / program.__name__ for program in (initialize_policy_model, train_reward_model))
    return Trained(version, base, policy, reward)


def test_two_steps_equal_ppo_written_out(models, tiny_data, tmp_path, monkeypatch):
    recorded = record_experience(monkeypatch)
    prepared = run_ppo(models.command(tiny_data, tmp_path))
    settings = prepared.settings
    prompts = {item.row: item for item in (prepared.prompts[row] for row in range(len(prepared.prompts)))}
    stops = AutoTokenizer.from_pretrained(models.base).convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    twin = LiteralPPO(
        models.base,
        models.base,
        models.policy,
        models.reward,
        settings.ppo,
        settings.reward,
        settings.data.response_len,
        stops,
    )
    cut_off = []
    for metrics, experience in zip(metrics_of(tmp_path), recorded, strict=True):
        responses = [
            row[real].tolist()
            for row, real in zip(experience.responses, experience.response_mask, strict=True)
        ]
        assert len({len(response) for response in responses}) > 1, "rows of one length would not test padding"
        cut_off.append(sum(response[-1] not in stops for response in responses))
        items = [prompts[item.row] for item in experience.items]
        assert {len(item.grids) for item in items} == {0, 1, 2}
        rows = [Row(*row) for row in zip(items, responses, experience.texts, strict=True)]
        for name, expected in twin.step(rows).items():
            assert metrics[name] == pytest.approx(expected, rel=1e-4, abs=1e-6), name
    assert 0 < sum(cut_off) < 16, "the missing-stop penalty must fall on some rows"
    heads = {"head.weight": twin.value.weight.detach(), "head.bias": twin.value.bias.detach()}
    for role, plain in (("lora_policy", twin.policy), ("lora_value", twin.value)):
        heads |= {f"{role}.{name}": value.detach() for name, value in plain.adapter_state().items()}
    assert largest_difference(trained(tmp_path), heads) < 1e-5


def test_before_the_first_update_policy_and_reference_say_the_same(models, tiny_data, tmp_path, monkeypatch):
    recorded = record_experience(monkeypatch)
    run_ppo(models.command(tiny_data, tmp_path, max_steps=1))
    (first,) = recorded
    assert torch.equal(first.log_probs, first.ref_log_probs)
    assert metrics_of(tmp_path)[0]["objective/kl_sum_seq"] == 0


@pytest.fixture
def other_precision():
    """Another number format than the tests before and behind."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_feature_cache_changes_nothing(models, tiny_data, tmp_path, other_precision):
    """In bfloat16, which is what it keeps."""
    for name, cache in {"without": None, "with": tmp_path / "cache", "again": tmp_path / "cache"}.items():
        run_ppo(models.command(tiny_data, tmp_path / name, bf16=True, max_steps=1, feature_cache=cache))
    for name in ("with", "again"):
        assert metrics_of(tmp_path / name) == metrics_of(tmp_path / "without")
        assert largest_difference(trained(tmp_path / name), trained(tmp_path / "without")) == 0


@torch.no_grad()
def test_answers_and_scores_are_those_of_plain_models(models, tiny_data, tmp_path):
    asked = {"base_model_name": models.base, "version": models.version, "use_cpu": True, "temperature": 0}
    files = {"image_folder": tiny_data.images, "output_file": tmp_path / "answers.jsonl", **LIMITS}
    argv = command_line(
        **asked, **files, adapter=models.policy, dataset_path=tiny_data.prompts, response_len=10, batch_size=5
    )
    prepared = answer_prompts.prepare(argv)
    answer_prompts.run(prepared)
    policy = PlainRole(models.base, models.policy / "lora_policy")
    tokenizer = AutoTokenizer.from_pretrained(models.base)
    stops, answers = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]), []
    items = [prepared.prompts[index] for index in range(len(prepared.prompts))]
    for item in items:
        ids: list[int] = []
        while len(ids) < 10 and not set(ids) & set(stops):
            logits = policy.run([*item.query_ids, *ids], seen(item)[0])[1][-1]
            ids.append(int(logits.index_fill(0, torch.tensor(policy.banned), -torch.inf).argmax()))
        answers.append(tokenizer.decode(ids, skip_special_tokens=True).strip())
    assert [line["answer"] for line in read_json_lines(tmp_path / "answers.jsonl")] == answers
    assert len(set(answers)) > 5
    lines, _ = scored(
        tiny_data, models.reward, tmp_path / "pairs.jsonl", version=models.version, response_len=60, **LIMITS
    )
    reward = PlainRole(models.base, models.reward / "lora_reward", models.reward / "reward_head.safetensors")
    argv = reward_command(tiny_data, models.base, tmp_path, version=models.version, **LIMITS, response_len=60)
    pairs = train_reward_model.prepare(argv).train_set
    for line, item in zip(lines, (pairs[index] for index in range(len(pairs))), strict=True):
        found = [float(reward.score(ids, (item.images, item.grids))) for ids in item.input_ids]
        assert line["scores"] == pytest.approx(found, rel=1e-4, abs=1e-5)

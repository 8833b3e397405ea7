"""Two whole PPO steps on other families against PPO written out with plain Hugging Face models; and a first look at them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import AutoTokenizer

from llava_rlhf import answer_prompts, initialize_policy_model, train_reward_model
from llava_rlhf.fact_rewards.claims import (
    CONTRADICTED,
    SUPPORTED,
    about_facts,
    about_picture,
    notes,
)
from llava_rlhf.runs.run_folder import read_json_lines
from models.base_files import read_family
from tests.llava_rlhf.evaluation.scoring import scored
from tests.support.literal_claims import plain_chance_of_yes
from tests.support.literal_ppo import LiteralPPO, Row
from tests.support.plain_models import PlainRole, seen
from tests.support.ppo_world import largest_difference, metrics_of, record_experience, run_ppo, trained
from tests.support.tiny_data import (
    TinyData,
    changed,
    command_line,
    policy_command,
    ppo_command,
    reward_command,
)
from tests.support.tiny_families import OTHERS

LIMITS = {"query_len": 300, "model_max_length": 900}
ONE_BATCH = {
    "step_batch_size": 8,
    "step_per_device_batch_size": 8,
    "noptepochs": 2,
    "learning_rate": 3e-4,
    "response_len": 8,
    # Gradients so small that AdamW's epsilon counts beside those near 0: else one whose sign is rounding moves a weight.
    "max_grad_norm": 0.01,
    **LIMITS,
}
ONE_UPDATE = {"max_steps": 1, "noptepochs": 1, "rollout_per_device_batch_size": 8}


@dataclass(frozen=True)
class Trained:
    """A base, and a policy and a reward model on it."""

    version: str
    base: Path
    policy: Path
    reward: Path

    def command(self, data: TinyData, folder: Path, **changes: object) -> list[str]:
        """PPO on it."""
        flags = {**self.rows, **ONE_BATCH, **changes}
        return ppo_command(data, self.base, self.policy, self.reward, folder, **flags)

    @property
    def rows(self) -> dict[str, object]:
        """Flags that say how rows are read, and which."""
        alone = not read_family(self.base).several_pictures
        return {"version": self.version, "skip_invalid": alone, **LIMITS}


def with_many_stops(base: Path) -> Path:
    """A base of which every twelfth token ends an answer, so that about half of all answers of eight tokens are cut off.

    A random model draws from all tokens alike. One that was trained until it stops by itself may do so on one machine and
    never on another, as training makes rounding larger.
    """
    file = base / "generation_config.json"
    settings, tokens = json.loads(file.read_text()), len(AutoTokenizer.from_pretrained(base))
    told = settings.get("eos_token_id") or []
    told = told if isinstance(told, list) else [told]
    settings["eos_token_id"] = [*told, *(index for index in range(11, tokens, 12) if index not in told)]
    file.write_text(json.dumps(settings))
    return base


@pytest.fixture(scope="module", params=OTHERS)
def models(request, tiny_data, tmp_path_factory) -> Trained:
    version, folder = "chat", tmp_path_factory.mktemp("other")
    base = with_many_stops(request.param.save(folder / "base"))
    settings = {
        "version": version,
        "skip_invalid": not read_family(base).several_pictures,
        **LIMITS,
        "response_len": 60,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "max_steps": 2,
    }
    for program, make in ((initialize_policy_model, policy_command), (train_reward_model, reward_command)):
        argv = make(tiny_data, base, folder / program.__name__, **settings)
        program.run(program.prepare(argv))
    policy, reward = (folder / program.__name__ for program in (initialize_policy_model, train_reward_model))
    return Trained(version, base, policy, reward)


@pytest.mark.slow
def test_claims_are_judged_as_the_plain_base_judges(models, tiny_data, tmp_path):
    """Questions of text alone and, where there are no facts, about pictures, which differ in size."""
    few = changed(tiny_data.captions, "few.json", lambda known: dict(list(known.items())[:4]))
    facts = {"image_to_caption_file": few, "missing_captions": "no_fact"}
    claims = {"fact_reward": "claims", "unmentioned": "ask_picture", "temperature": 3.0}
    prepared = run_ppo(models.command(tiny_data, tmp_path, **ONE_UPDATE, **claims, **facts))
    plain = PlainRole(models.base, models.policy / "lora_policy")
    items = {item.row: item for item in map(prepared.prompts.__getitem__, range(len(prepared.prompts)))}
    asked = {"facts": 0, "picture": 0}
    for row in read_json_lines(tmp_path / "rollouts/000001.jsonl"):
        item = items[row["row"]]
        known = notes(item.facts)
        for one in (one for one in row["mentions"] if "supported" in one):
            expected = [
                plain_chance_of_yes(
                    prepared.text, plain, about_facts(template, known, item.question, one["name"])
                )
                for template in (SUPPORTED, CONTRADICTED)
                if known
            ] or [0.0, 0.0]
            total = max(1.0, sum(expected))
            found = [one["supported"] * total, one["contradicted"] * total]
            assert found == pytest.approx(expected, abs=1e-4)
            asked["facts"] += bool(known)
            if "probability" in one:
                chance = plain_chance_of_yes(
                    prepared.text, plain, about_picture(item.question, one["name"]), item
                )
                assert one["probability"] == pytest.approx(chance, abs=1e-4)
                asked["picture"] += 1
    assert min(asked.values()) > 0, asked


@pytest.mark.slow
def test_two_steps_equal_ppo_written_out(models, tiny_data, tmp_path, monkeypatch):
    recorded = record_experience(monkeypatch)
    prepared = run_ppo(models.command(tiny_data, tmp_path))
    settings = prepared.settings
    prompts = {item.row: item for item in (prepared.prompts[row] for row in range(len(prepared.prompts)))}
    stops = prepared.text.stop_ids
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
    lengths, cut_off = [], []
    for metrics, experience in zip(metrics_of(tmp_path), recorded, strict=True):
        responses = [
            row[real].tolist()
            for row, real in zip(experience.responses, experience.response_mask, strict=True)
        ]
        lengths.append({len(response) for response in responses})
        cut_off.append(sum(response[-1] not in stops for response in responses))
        items = [prompts[item.row] for item in experience.items]
        assert {len(item.grids) for item in items} == (
            {0, 1, 2} if read_family(models.base).several_pictures else {0, 1}
        )
        rows = [Row(*row) for row in zip(items, responses, experience.texts, strict=True)]
        for name, expected in twin.step(rows).items():
            assert metrics[name] == pytest.approx(expected, rel=1e-4, abs=1e-6), name
    assert max(map(len, lengths)) > 1, "rows of one length would not test padding"
    assert 0 < sum(cut_off) < 16, "the missing-stop penalty must fall on some rows"
    heads = {"head.weight": twin.value.weight.detach(), "head.bias": twin.value.bias.detach()}
    for role, plain in (("lora_policy", twin.policy), ("lora_value", twin.value)):
        heads |= {f"{role}.{name}": value.detach() for name, value in plain.adapter_state().items()}
    assert largest_difference(trained(tmp_path), heads) < 1e-5


def test_before_the_first_update_policy_and_reference_say_the_same(models, tiny_data, tmp_path, monkeypatch):
    recorded = record_experience(monkeypatch)
    run_ppo(models.command(tiny_data, tmp_path, **ONE_UPDATE))
    (first,) = recorded
    assert torch.equal(first.log_probs, first.ref_log_probs)
    (metrics,) = metrics_of(tmp_path)
    assert metrics["objective/kl_sum_seq"] == 0
    # Mean of (log of the ratio)² / 2 in the first update: each ratio is 1.
    assert metrics["ppo/policy/approxkl"] == metrics["ppo/policy/clipfrac"] == 0


@pytest.fixture
def other_precision():
    """Another number format than the tests before and behind."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.slow
def test_a_feature_cache_changes_nothing(models, tiny_data, tmp_path, other_precision):
    """In bfloat16, which is what it keeps."""
    for name, cache in {"without": None, "with": tmp_path / "cache", "again": tmp_path / "cache"}.items():
        run_ppo(models.command(tiny_data, tmp_path / name, bf16=True, max_steps=1, feature_cache=cache))
    for name in ("with", "again"):
        assert metrics_of(tmp_path / name) == metrics_of(tmp_path / "without")
        assert largest_difference(trained(tmp_path / name), trained(tmp_path / "without")) == 0


@torch.no_grad()
def test_answers_and_scores_are_those_of_plain_models(models, tiny_data, tmp_path):
    asked = {"base_model_name": models.base, **models.rows, "use_cpu": True, "temperature": 0}
    files = {"image_folder": tiny_data.images, "output_file": tmp_path / "answers.jsonl"}
    argv = command_line(
        **asked, **files, adapter=models.policy, dataset_path=tiny_data.prompts, response_len=10, batch_size=5
    )
    prepared = answer_prompts.prepare(argv)
    answer_prompts.run(prepared)
    policy = PlainRole(models.base, models.policy / "lora_policy")
    tokenizer = AutoTokenizer.from_pretrained(models.base)
    stops, answers = prepared.text.stop_ids, []
    items = [prepared.prompts[index] for index in range(len(prepared.prompts))]
    for item in items:
        ids: list[int] = []
        while len(ids) < 10 and not set(ids) & set(stops):
            logits = policy.run([*item.query_ids, *ids], seen(item)[0])[1][-1]
            ids.append(int(logits.index_fill(0, torch.tensor(policy.banned), -torch.inf).argmax()))
        answers.append(tokenizer.decode(ids, skip_special_tokens=True).strip())
    assert [line["answer"] for line in read_json_lines(tmp_path / "answers.jsonl")] == answers
    assert len(set(answers)) > 5
    lines, _ = scored(tiny_data, models.reward, tmp_path / "pairs.jsonl", **models.rows, response_len=60)
    reward = PlainRole(models.base, models.reward / "lora_reward", models.reward / "reward_head.safetensors")
    argv = reward_command(tiny_data, models.base, tmp_path, **models.rows, response_len=60)
    pairs = train_reward_model.prepare(argv).train_set
    for line, item in zip(lines, (pairs[index] for index in range(len(pairs))), strict=True):
        found = [float(reward.score(ids, (item.images, item.grids))) for ids in item.input_ids]
        assert line["scores"] == pytest.approx(found, rel=1e-4, abs=1e-5)

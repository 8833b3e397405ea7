"""PPO on the tiny base that a real server serves, put together in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from data_utils.batches import collate_prompts
from llava_rlhf import initialize_policy_model, train_reward_model
from llava_rlhf.engines.policy_engine import PolicyEngine
from llava_rlhf.engines.vllm_engine import VLLMEngine
from llava_rlhf.runs.run_folder import read_json_lines
from models.generation import Sample, SamplingSettings
from tests.support.ppo_world import Assembled, assemble, metrics_of, random_numbers, trained
from tests.support.tiny_data import TinyData, policy_command, ppo_command, reward_command, write_tiny_data
from tests.support.vllm_server import VLLMServer

ROWS = 96
SIZES = {"rollout_batch_size": 8, "query_len": 80, "response_len": 24, "model_max_length": 300}


@dataclass(frozen=True)
class ServedWorld:
    """Data, a policy and a reward model on one base, all trained for some steps; `version`: of the template."""

    folder: Path
    base: Path
    data: TinyData
    version: str = "tiny"

    def command(self, output_dir: Path, *urls: str, **changes) -> list[str]:
        """Command line of PPO whose prompts are answered by the servers `urls`; none: by the policy."""
        engine = {"rollout_engine": "vllm", "vllm_servers": list(urls)} if urls else {}
        policy, reward = self.folder / "policy", self.folder / "reward"
        settings = {**SIZES, **engine, "version": self.version, **changes}
        return ppo_command(self.data, self.base, policy, reward, output_dir, **settings)


def make_world(folder: Path, base: Path, version: str = "tiny") -> ServedWorld:
    """Train the policy's start and the reward model: a few steps each, so that adapters matter."""
    data = write_tiny_data(folder / "data", ROWS)
    few = {
        "max_steps": 6,
        "learning_rate": 1e-2,
        "save_steps": 6,
        "version": version,
        "query_len": 120,
        "model_max_length": 400,
    }
    for program, command, name in (
        (initialize_policy_model, policy_command, "policy"),
        (train_reward_model, reward_command, "reward"),
    ):
        program.run(program.prepare(command(data, base, folder / name, **few)))
    return ServedWorld(folder, base, data, version)


@dataclass(frozen=True)
class Pair:
    """Both engines with one policy."""

    parts: Assembled

    @property
    def served(self) -> VLLMEngine:
        return self.parts.trainer.collector.engine

    @property
    def local(self) -> PolicyEngine:
        return PolicyEngine(self.parts.roles.policy, self.served.settings)

    def with_settings(self, **changes) -> tuple[VLLMEngine, PolicyEngine]:
        """Both, answering in another way."""
        settings: SamplingSettings = replace(self.served.settings, **changes)
        one = self.served
        served = VLLMEngine(one.pool, one.writer, settings, one.vocab_size, one.adapter, one.step_timeout)
        return served, PolicyEngine(self.parts.roles.policy, settings)

    def answers(self, engine: VLLMEngine | PolicyEngine, rows: list[int]) -> Sample:
        """Of these rows of the prompts, with random numbers that belong to the row."""
        batch = collate_prompts([self.parts.prepared.prompts[row] for row in rows])
        images, vlm = batch.images, self.parts.roles.policy.bank.vlm
        features = vlm.encode_images(images.pixel_values, images.image_index, images.image_grids)
        return engine.start(batch, random_numbers(rows), features)()

    def move(self, spread: float, seed: int) -> None:
        """Change every weight of the policy's adapter, as training does."""
        policy, generator = self.parts.roles.policy, torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in policy.bank.parameters_of(policy.adapter).values():
                weight += spread * torch.randn(weight.shape, generator=generator)


@contextmanager
def pair(command: list[str], spread: float = 0.0) -> Iterator[Pair]:
    """Both engines of a run; the servers have nothing of it left afterwards."""
    both = Pair(assemble(command, spread))
    try:
        yield both
    finally:
        both.served.end()
        both.served.pool.close()


def rows_of(sample: Sample) -> list[list[int]]:
    """The tokens of each answer."""
    return [ids[real].tolist() for ids, real in zip(sample.ids, sample.mask, strict=True)]


def largest_log_prob_difference(experience) -> float:
    """In nats, between what the engine had and what the model that trains says, of drawn tokens."""
    difference: Tensor = (experience.engine_log_probs - experience.log_probs).abs()
    return float((difference * experience.counted).max())


def assert_whole(folder: Path, whole: Path) -> None:
    """Metrics, rollouts and weights of the run that nothing disturbed, bit for bit."""
    assert metrics_of(folder) == metrics_of(whole)
    for file in sorted((whole / "rollouts").glob("*.jsonl")):
        assert read_json_lines(folder / "rollouts" / file.name) == read_json_lines(file)
    first, second = trained(folder), trained(whole)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def left_on(server: VLLMServer) -> list[str]:
    """Adapters of runs and of looks that a server still has."""
    names = [card["id"] for card in server.call("/v1/models")[1]["data"]]
    return [name for name in names if name.startswith(("policy", "trial"))]

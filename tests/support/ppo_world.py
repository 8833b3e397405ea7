"""PPO in-process: run it, put its parts together without running, look at what happened inside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from data_utils.batches import PromptBatch, collate_prompts
from llava_rlhf import train_rl_model
from llava_rlhf.assembly.roles import PPORoles
from llava_rlhf.ppo.assembly import make_accelerator
from llava_rlhf.ppo.experience import Experience
from llava_rlhf.ppo.preparation import PPORun
from llava_rlhf.ppo.rollout import RolloutCollector
from llava_rlhf.ppo.trainer import PPOTrainer
from llava_rlhf.runs.run_folder import read_json_lines

ROLES = ("lora_policy", "lora_value")


def run_ppo(argv: list[str]) -> PPORun:
    """The program, as a shell would run it."""
    prepared = train_rl_model.prepare(argv)
    train_rl_model.run(prepared)
    return prepared


def metrics_of(folder: Path) -> list[dict[str, float]]:
    """`metrics.jsonl` without the times."""
    return [
        {name: value for name, value in line.items() if not name.startswith("time/")}
        for line in read_json_lines(folder / "metrics.jsonl")
    ]


def trained(folder: Path) -> dict[str, Tensor]:
    """All trained weights of a run folder or checkpoint."""
    weights, head = {}, folder / "value_head.safetensors"
    if head.is_file():  # there is a critic
        weights = {f"head.{name}": value for name, value in load_file(head).items()}
    for role in ROLES if weights else ROLES[:1]:
        adapter = load_file(folder / role / "adapter_model.safetensors")
        weights |= {f"{role}.{name}": value for name, value in adapter.items()}
    return weights


def differences(first: dict[str, Tensor], second: dict[str, Tensor]) -> Tensor:
    """The absolute differences of all weights, one after another; names must agree."""
    assert first.keys() == second.keys()
    return torch.cat([(first[name] - second[name]).abs().flatten() for name in sorted(first)])


def largest_difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """The largest absolute difference of any weight; names must agree."""
    return float(differences(first, second).max())


def record_experience(monkeypatch) -> list[Experience]:
    """A list that every later rollout batch of this process is put into."""
    seen: list[Experience] = []
    collect = RolloutCollector.collect

    def recording(self, *arguments):
        seen.append(collect(self, *arguments))
        return seen[-1]

    monkeypatch.setattr(RolloutCollector, "collect", recording)
    return seen


@dataclass(frozen=True)
class Assembled:
    """The parts of a PPO run, before its first step."""

    prepared: PPORun
    roles: PPORoles
    trainer: PPOTrainer

    def batch(self, rows: list[int]) -> PromptBatch:
        """These rows of the prompts."""
        return collate_prompts([self.prepared.prompts[row] for row in rows])

    def collect(self, rows: list[int], size: int | None = None) -> Experience:
        """Roll out these rows, `size` at once; a row's random numbers depend on the row alone."""
        size = size or len(rows)
        batches = [self.batch(rows[start : start + size]) for start in range(0, len(rows), size)]
        return self.trainer.collector.collect(batches, random_numbers(rows))


def random_numbers(rows: list[int]) -> Tensor:
    """float[R, 32] sampling numbers that belong to the row."""
    return torch.stack([torch.rand(32, generator=torch.Generator().manual_seed(row)) for row in rows])


def assemble(argv: list[str], spread: float = 0.0) -> Assembled:
    """The parts of a run; `spread` > 0 moves every adapter and the value head randomly, each differently."""
    prepared = train_rl_model.prepare(argv)
    accelerator = make_accelerator(prepared.settings.ppo, prepared.plan)
    roles = train_rl_model.roles_of(prepared, accelerator)
    if spread:
        generator = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for role in (roles.policy, roles.reference, roles.value, roles.reward):
                for weight in role.bank.parameters_of(role.adapter).values():
                    weight += spread * torch.randn(weight.shape, generator=generator)
            roles.value.head.linear.weight.normal_(std=0.1, generator=generator)
    return Assembled(prepared, roles, train_rl_model.trainer_of(prepared, accelerator, roles))

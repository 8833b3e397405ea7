"""Which prompts belong to which PPO step, on which process, and which rollouts to which optimizer step.

Everything here is a function of (seed, step), and the global batches do not depend on the number of processes: a run
can be continued at any step, and 1, 2 or 4 processes see the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PromptStream:
    """The order of prompts.

    Attributes:
        n_prompts: rows of the dataset.
        rollout_batch_size: rollouts of one PPO step over all processes; a last incomplete batch of an epoch is left out.
        rank, world_size: this process.
        seed: of the order (a new one each epoch).
        lengths: tokens of each prompt; those of a step are then sampled in order of length, so that little is padded.
        samples_per_prompt: rollouts of one prompt, at neighbouring global positions.
    """

    n_prompts: int
    rollout_batch_size: int
    rank: int
    world_size: int
    seed: int
    lengths: Sequence[int] | None = None
    samples_per_prompt: int = 1

    @property
    def prompts_per_step(self) -> int:
        """Different prompts of a PPO step over all processes."""
        return self.rollout_batch_size // self.samples_per_prompt

    @property
    def steps_per_epoch(self) -> int:
        """PPO steps of a pass over the prompts."""
        return self.n_prompts // self.prompts_per_step

    def rows(self, step: int) -> list[int]:
        """Dataset rows of this process in PPO step `step` (from 0). Global position g belongs to rank g mod world."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = _permutation(self.n_prompts, self.seed, 0, epoch)
        start = position * self.prompts_per_step
        prompts = order[start : start + self.prompts_per_step].repeat_interleave(self.samples_per_prompt)
        return prompts[self.rank :: self.world_size].tolist()

    def positions(self) -> list[int]:
        """Global positions in the rollout batch of this process's rows, in the order of `rows`."""
        return list(range(self.rank, self.rollout_batch_size, self.world_size))

    def sampling_order(self, step: int) -> list[int]:
        """In which order this process samples its rollouts: indices into `rows(step)`."""
        rows = self.rows(step)
        key = None if self.lengths is None else (lambda index: self.lengths[rows[index]])
        return sorted(range(len(rows)), key=key)

    def micro_batches(self, first_step: int, n_steps: int, size: int) -> Iterator[list[int]]:
        """Rows of all sampling passes of steps `first_step` … `n_steps` − 1, `size` rows each, in sampling order."""
        for step in range(first_step, n_steps):
            rows = self.rows(step)
            rows = [rows[index] for index in self.sampling_order(step)]
            for start in range(0, len(rows), size):
                yield rows[start : start + size]

    def optimizer_batches(self, step: int, epoch: int, step_batch_size: int) -> list[list[int]]:
        """Split this process's rollouts into the batches of one pass over them.

        The batches are shuffled so that they are the same for any number of processes that divides `step_batch_size`:
        the rollout positions form `step_batch_size` classes (position mod step_batch_size), and each batch takes one
        row of each class, drawn without replacement.

        Args:
            step: PPO step, from 0.
            epoch: pass over the rollouts, from 0.
            step_batch_size: rollouts per optimizer step, all processes together.

        Returns:
            For each optimizer step the local row numbers (indices into `rows(step)`).
        """
        n_batches = self.rollout_batch_size // step_batch_size
        batches: list[list[int]] = [[] for _ in range(n_batches)]
        for residue in range(self.rank, step_batch_size, self.world_size):
            order = _permutation(n_batches, self.seed, 1, step, epoch, residue)
            for batch, index in zip(batches, order.tolist(), strict=True):
                position = residue + index * step_batch_size
                batch.append((position - self.rank) // self.world_size)
        return batches

    def uniforms(self, step: int, columns: int) -> Tensor:
        """float32[rows, columns] in [0, 1) for sampling: each row's numbers depend on seed, step and position only."""
        return torch.stack(
            [
                torch.rand(columns, generator=_generator(self.seed, 2, step, position))
                for position in self.positions()
            ]
        )


def _permutation(n: int, *key: int) -> Tensor:
    return torch.randperm(n, generator=_generator(*key))


def _generator(*key: int) -> torch.Generator:
    # A 64-bit mix of the key (the finaliser of splitmix64), so that neighbouring keys give unrelated streams.
    state = 0
    for number in key:
        state = (state ^ number) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ state >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return torch.Generator().manual_seed(state & 0x7FFFFFFFFFFFFFFF)

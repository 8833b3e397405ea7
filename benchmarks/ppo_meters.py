"""What a PPO step computes: tokens through the language model, images through the tower, seconds of each part, FLOP."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from llava_rlhf.ppo.trainer import PPOTrainer
from models.roles import Policy, RewardModel, ValueModel


def peak_mib() -> float:
    """Peak resident memory of this process (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def matrix_product_rate(size: int = 2048, repeats: int = 3) -> float:
    """GFLOP per CPU second of a float32 matrix product on one thread: how fast this machine is."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    left @ right
    started = time.process_time()
    for _ in range(repeats):
        left @ right
    return 2 * size**3 * repeats / (time.process_time() - started) / 1e9


class StepMeter:
    """Seconds of the parts of a PPO step, and how much goes through the models.

    Attributes:
        seconds: part → CPU seconds, on a GPU wall seconds; `sampling`, `scoring <role>`, `rollout`, `update`, and `prefill`,
            which is a part of sampling.
        counts: LM tokens (padding included), of which sampled ones, tokens projected on the vocabulary, tower calls and
            images; decoding steps, and the columns of the key/value cache that they read, all rows together.
    """

    def __init__(self, trainer: PPOTrainer):
        self.trainer = trainer
        self.seconds: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)
        roles = trainer.collector.roles
        for owner, name, part in (
            (roles.policy, "sample", "sampling"),
            (roles.policy, "response_states", "scoring policy"),
            (roles.reference, "response_states", "scoring reference"),
            (roles.value, "forward", "scoring value"),
            (roles.reward, "forward", "scoring reward"),
            (trainer.collector, "collect", "rollout"),
            (trainer.updater, "update", "update"),
        ):
            if owner is not None:
                self._time(owner, name, part)
        vlm = roles.policy.bank.vlm
        self.device = vlm.device
        self._sampling = False
        self._time(vlm, "read_prompts", "prefill")
        model = vlm.model.model
        model.language_model.register_forward_pre_hook(self._count_tokens, with_kwargs=True)
        roles.policy.bank.vlm.model.lm_head.register_forward_pre_hook(self._count_projected)
        model.vision_tower.register_forward_pre_hook(self._count_images, with_kwargs=True)

    def _time(self, owner: Policy | ValueModel | RewardModel | Any, name: str, part: str) -> None:
        method = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            # The update calls the same methods with a graph: they belong to it.
            counts = not torch.is_grad_enabled() or part in ("rollout", "update")
            if not counts or (part == "prefill" and not self._sampling):
                return method(*args, **kwargs)
            self._sampling |= part == "sampling"
            started = self._now()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds[part] += self._now() - started
                self._sampling &= part != "sampling"

        setattr(owner, name, timed)

    def _now(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _count_tokens(self, module: Any, args: tuple, kwargs: dict) -> None:
        rows, columns = kwargs["inputs_embeds"].shape[:2]
        self.counts["LM tokens"] += rows * columns
        self.counts["trained LM tokens"] += rows * columns * torch.is_grad_enabled()
        self.counts["sampled LM tokens"] += rows * columns * self._sampling
        if self._sampling and columns == 1:
            self.counts["decoding steps"] += 1
            self.counts["cache columns"] += rows * kwargs["past_key_values"].get_seq_length()

    def _count_images(self, module: Any, args: tuple, kwargs: dict) -> None:
        pixels = kwargs.get("pixel_values", args[0] if args else None)
        self.counts["tower calls"] += 1
        self.counts["images"] += len(pixels)

    def _count_projected(self, module: Any, args: tuple) -> None:
        tokens = args[0].numel() // args[0].shape[-1]
        self.counts["projected"] += tokens
        self.counts["projected with gradient"] += tokens * torch.is_grad_enabled()
        self.counts["projected in sampling"] += tokens * self._sampling

    def gflop(self) -> dict[str, float]:
        """Matrix products with weights, attention left out, of the counts so far: `sampling`, `scoring`, `update`.

        Trained tokens: forward, recomputed (gradient checkpointing), and backward to the activations. Trained projections:
        forward and backward.
        """
        vlm = self.trainer.collector.roles.policy.bank.vlm
        config = vlm.model.config.get_text_config()
        layer = 4 * config.hidden_size**2 + 3 * config.hidden_size * config.intermediate_size
        counts = self.counts
        trained, sampled = counts["trained LM tokens"], counts["sampled LM tokens"]
        learned, drawn = counts["projected with gradient"], counts["projected in sampling"]
        work = {
            "sampling": (sampled, drawn),
            "scoring": (counts["LM tokens"] - trained - sampled, counts["projected"] - learned - drawn),
            "update": (3 * trained, 2 * learned),
        }
        return {
            part: 2
            * (tokens * layer * config.num_hidden_layers + projected * config.hidden_size * vlm.vocab_size)
            / 1e9
            for part, (tokens, projected) in work.items()
        }

    @contextmanager
    def step(self) -> Iterator[dict[str, float]]:
        """Measure one step; the dictionary is filled at the end."""
        self.seconds.clear()
        self.counts.clear()
        found: dict[str, float] = {}
        wall, cpu = time.perf_counter(), time.process_time()
        yield found
        found |= {"wall s": time.perf_counter() - wall, "cpu s": time.process_time() - cpu}
        found |= {f"{part} cpu s": seconds for part, seconds in self.seconds.items()}
        found |= self.counts | {"GFLOP": sum(self.gflop().values())}
        found |= {f"{part} GFLOP": work for part, work in self.gflop().items()}

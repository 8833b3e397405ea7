"""The plan of PPO: four roles on one base or on two, phase by phase as `ppo.PPOTrainer` runs them."""

from __future__ import annotations

import json
from pathlib import Path

from llava_rlhf.memory_planning.bases import BaseSpec
from llava_rlhf.memory_planning.passes import (
    Bank,
    Head,
    Pass,
    decoding,
    image_encoding,
    prefill,
    scoring,
    training,
)
from llava_rlhf.memory_planning.plan import GIB, MemoryPlan, Part, Phase
from llava_rlhf.memory_planning.request import Request
from llava_rlhf.memory_planning.settings import base_of, local_folder, stored_lora, zero_of
from llava_rlhf.memory_planning.weights import FLOAT, Trained, adapter_numbers, base_parts, merged_bytes
from llava_rlhf.ppo.numerics import Numerics
from llava_rlhf.runs.role_files import REWARD_CARD

SAMPLED, SCORED, STEPPED = (
    "rollout_per_device_batch_size",
    "reward_model_per_device_batch_size",
    "step_per_device_batch_size",
)
BUDGET = "tokens_per_micro_batch"
MERGE = "merge_adapter_for_sampling"
# Of each response token: its id, two masks, and float32: log-probability and entropy of policy and reference, value,
# reward, advantage, return, and the number it was drawn with.
COLUMN = 8 + 2 + 9 * FLOAT
DRAWING_TABLES = 3  # float32 [rows, V] at once: logits, probabilities, their cumulated sums


def plan_ppo(request: Request) -> MemoryPlan:
    """Memory of `train_rl_model`."""
    return _PPOPlan(request).plan()


def longest_row(request: Request) -> int:
    """Positions of the longest row that any role reads."""
    plan = _PPOPlan(request)
    return max(plan._longest, plan._scored)


def bases_of(request: Request) -> tuple[BaseSpec, BaseSpec]:
    """The base of the policy and that of the reward model."""
    plan = _PPOPlan(request)
    return plan.policy_base, plan.reward_base


def shares_base(request: Request) -> bool:
    """Whether policy and reward model stand on one base, which is loaded once."""
    return _PPOPlan(request).shared


class _PPOPlan:
    def __init__(self, request: Request):
        flags = request.flags
        self.request, self.flags, self.lengths = request, flags, request.lengths
        self.policy_base = base_of(flags, flags["base_model_name"], request.shape)
        reward_path = reward_base_path(flags)
        base_path = local_folder(flags["base_model_name"])
        same = reward_path is None or Path(local_folder(reward_path)).resolve() == Path(base_path).resolve()
        reward_shape = request.reward_shape or (request.shape if same else None)
        self.reward_base = (
            self.policy_base if same and not reward_shape else base_of(flags, reward_path, reward_shape)
        )
        self.shared = same and self.reward_base == self.policy_base
        policy_lora = stored_lora(flags.get("policy_model_name_or_path"))
        reward_lora = stored_lora(flags.get("reward_model_name_or_path"))
        value_lora = reward_lora if flags["init_value_with_reward"] else policy_lora
        checkpointing = flags["gradient_checkpointing"]
        self.policy = Bank(self.policy_base, policy_lora, checkpointing)
        self.value = Bank(self.reward_base, value_lora, checkpointing)
        self.reward = Bank(self.reward_base, reward_lora, checkpointing)
        policy = adapter_numbers(self.policy_base, policy_lora)
        value = (*adapter_numbers(self.reward_base, value_lora), self.reward_base.hidden, 1)
        self.zero = zero_of(flags)
        self.trained = Trained(
            groups=(policy, value),
            optim=flags["optim"],
            dtype=self.policy_base.dtype,
            processes=request.processes,
            zero=self.zero,
            gpu=request.on_gpu,
        )

    def plan(self) -> MemoryPlan:
        """Everything put together."""
        names = (
            self.policy_base.name
            if self.shared
            else f"{self.policy_base.name}, reward model {self.reward_base.name}"
        )
        request = self.request
        phases = (*self._sampling(), *self._scoring(), *self._update())
        notes = (*request.notes(self.trained), self._sampling_note())
        return MemoryPlan(f"{request.program}, {names}", self._held(), phases, request.context, notes)

    def _held(self) -> tuple[Part, ...]:
        weight = FLOAT if self.zero is None else self.policy_base.dtype.itemsize
        reference = sum(adapter_numbers(self.policy_base, self.policy.lora))
        reward = sum(adapter_numbers(self.reward_base, self.reward.lora)) + self.reward_base.hidden + 1
        policy, value = map(sum, self.trained.groups)
        rollouts = self.flags["rollout_batch_size"] // self.request.processes
        images = self._features(self.policy_base, rollouts)
        images += 0 if self.shared else self._features(self.reward_base, rollouts)
        pixels = [Part("pixels of the prompts at hand", self._pixels(self.flags[SAMPLED]))]
        return (
            *base_parts(self.policy_base),
            *(() if self.shared else base_parts(self.reward_base)),
            Part("adapters and heads of policy and value", (policy + value) * weight),
            Part("adapters and head of reference and reward", (reference + reward) * weight),
            *self.trained.held(),
            Part(f"image features of {rollouts} rollouts", images),
            Part(
                f"tokens and numbers of {rollouts} rollouts", rollouts * self.flags["response_len"] * COLUMN
            ),
            *([] if self.request.on_gpu else pixels),
        )

    def _sampling(self) -> list[Phase]:
        """The passes over prompts: their images, and answers to them."""
        rows, policy = self.flags[SAMPLED], self.policy_base
        bases = {"image encoding": policy}
        if not self.shared:
            bases |= {"image encoding, reward model": self.reward_base}
        phases = []
        for name, base in bases.items():
            size = image_encoding(base, rows * self.lengths.images) - self._features(base, rows)  # in `_held`
            phases.append(Phase(name, size + (0 if self.request.on_gpu else self._pixels(rows))))
        prompt, response = self._length(policy) - self.flags["response_len"], self.flags["response_len"]
        tables = DRAWING_TABLES * FLOAT + (policy.dtype.itemsize if policy.dtype.itemsize < FLOAT else 0)
        merge = self._merges
        drawing = rows * policy.vocabulary * tables
        selected = self._features(policy, rows)
        first = prefill(self.policy, rows, prompt, merge)
        last = decoding(self.policy, rows, prompt, response, merge) + drawing
        return [
            *phases,
            Phase(f"sampling, policy: {rows} prompts of {prompt} positions", selected + first),
            Phase(f"sampling, policy: up to {response} tokens", selected + last),
        ]

    @property
    def _merges(self) -> bool:
        return self.flags[MERGE] and not self.policy_base.quantised

    def _sampling_note(self) -> str:
        rows, base = self.flags[SAMPLED], self.policy_base
        cache = rows * self._length(base) * base.layers * base.cache_width * base.dtype.itemsize
        note = f"sampling holds keys and values of {cache / GIB:.2f} GiB"
        if self._merges:
            note += f" and a second copy of the linear layers, {merged_bytes(base, self.policy.lora) / GIB:.2f} GiB"
        return note

    def _scoring(self) -> list[Phase]:
        """What the roles say of the answers."""
        rows = self._rows(SAMPLED, self._longest)
        scored = self._scored
        reward_rows = self._rows(SCORED, scored)
        language = self._work(self.policy_base, rows, language=True)
        values = self._work(self.reward_base, rows, language=False)
        looks = [
            ("policy and reference", self.policy, language),
            ("value", self.value, values),
            ("reward", self.reward, Pass(reward_rows, scored, Head(reward_rows))),
        ]
        return [
            Phase(
                f"scoring, {name}: {work.rows} rows of {work.length} positions",
                scoring(bank, work) + self._features(bank.base, work.rows),
            )
            for name, bank, work in looks
        ]

    def _update(self) -> list[Phase]:
        rows = self._rows(STEPPED, self._longest)
        trained, policy_base, reward_base = self.trained, self.policy_base, self.reward_base
        policy = training(self.policy, self._work(policy_base, rows, language=True))
        value = training(self.value, self._work(reward_base, rows, language=False))
        several = self.flags["step_batch_size"] // self.request.processes > rows
        # Gradients of earlier micro-batches, and what both roles look at.
        before = trained.gradients if several or self.zero is not None else 0
        before += self._features(policy_base, rows) + self._features(reward_base, rows)
        if self.zero is not None:  # one forward and one backward of both
            both = before + max(policy.saved + value.peak, policy.peak) + trained.buckets
            sizes = {"policy and value": both}
        else:
            policy_numbers, value_numbers = (FLOAT * sum(group) for group in trained.groups)
            sizes = {
                "policy": before + policy.with_gradients(policy_numbers),
                "value": before + policy_numbers + value.with_gradients(value_numbers),
            }
        what = f"{rows} rows of up to {self._longest} positions"
        return [
            *(Phase(f"update, {role}: {what}", size) for role, size in sizes.items()),
            Phase("update: optimizer step", trained.step()),
        ]

    def _rows(self, flag: str, longest: int) -> int:
        """Rows that go through a base together when all are this long."""
        rows, budget = self.flags[flag], self.flags[BUDGET]
        return min(rows, max(1, budget // longest)) if budget else rows

    def _length(self, base: BaseSpec) -> int:
        """Positions of the longest prompt with its response."""
        text = self.lengths.query - self.lengths.images
        return text + self.lengths.images * base.positions + self.flags["response_len"]

    @property
    def _longest(self) -> int:
        return max(self._length(self.policy_base), self._length(self.reward_base))

    @property
    def _scored(self) -> int:
        """Positions of the longest row that the reward model scores."""
        return self.lengths.total - self.lengths.images + self.lengths.images * self.reward_base.positions

    def _work(self, base: BaseSpec, rows: int, language: bool) -> Pass:
        tokens = rows * self.flags["response_len"]
        chunk, entropy = self.flags["logits_chunk_size"], self.flags["log_entropy"]
        masked = Numerics(self.flags["numerics"]).counts_padding
        return Pass(
            rows, self._length(base), Head(tokens, chunk, entropy) if language else Head(tokens), masked
        )

    def _features(self, base: BaseSpec, rows: int) -> int:
        return rows * self.lengths.images * base.positions * base.hidden * base.dtype.itemsize

    def _pixels(self, rows: int) -> int:
        images = rows * self.lengths.images * FLOAT
        return images * (self.policy_base.pixels + (0 if self.shared else self.reward_base.pixels))


def reward_base_path(flags: dict) -> str | None:
    """Where the reward model's base lies: as the flag or, if it can be read, the reward model says; None: nobody says."""
    if flags.get("reward_base_model_name"):
        return flags["reward_base_model_name"]
    card = Path(local_folder(flags.get("reward_model_name_or_path")) or "") / REWARD_CARD
    return json.loads(card.read_text(encoding="utf-8"))["base_model"] if card.is_file() else None

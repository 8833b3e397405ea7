"""The plan of PPO: its roles on one base or on two, phase by phase as `ppo.PPOTrainer` runs them."""

from __future__ import annotations

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
from llava_rlhf.memory_planning.settings import (
    local_folder,
    reward_base_path,
    samples_here,
    stored_head,
    stored_lora,
    zero_of,
)
from llava_rlhf.memory_planning.weights import (
    FLOAT,
    Trained,
    adapter_numbers,
    base_parts,
    gathered_parts,
    head_numbers,
    merged_bytes,
    shares_of,
)
from llava_rlhf.ppo.estimator_arguments import WITH_CRITIC
from llava_rlhf.ppo.numerics import Numerics
from models.heads import LINEAR

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
CRITICS_COLUMN = 2 * FLOAT  # of it, value and return
ENGINES_COLUMN = FLOAT  # besides: what an engine beside the model that trains says of its tokens
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
        self.policy_base = request.base(flags["base_model_name"], request.shape)
        reward_path = reward_base_path(flags)
        base_path = local_folder(flags["base_model_name"])
        same = reward_path is None or Path(local_folder(reward_path)).resolve() == Path(base_path).resolve()
        reward_shape = request.reward_shape or (request.shape if same else None)
        self.reward_base = (
            self.policy_base if same and not reward_shape else request.base(reward_path, reward_shape)
        )
        self.shared = same and self.reward_base == self.policy_base
        policy_lora = stored_lora(flags.get("policy_model_name_or_path"))
        folders = (flags.get("reward_model_name_or_path"), *flags["more_reward_models"])
        value_lora = stored_lora(folders[0]) if flags["init_value_with_reward"] else policy_lora
        checkpointing = flags["gradient_checkpointing"]
        self.policy = Bank(self.policy_base, policy_lora, checkpointing)
        self.value = Bank(self.reward_base, value_lora, checkpointing)
        self.rewards = [
            Bank(self.reward_base, stored_lora(folder), checkpointing, stored_head(folder))
            for folder in folders
        ]
        policy = adapter_numbers(self.policy_base, policy_lora)
        value = (*adapter_numbers(self.reward_base, value_lora), *head_numbers(LINEAR, self.reward_base))
        self.critic = flags["advantage_estimator"] == WITH_CRITIC
        self.zero = zero_of(flags)
        self.trained = Trained(
            groups=(policy, value) if self.critic else (policy,),
            optim=flags["optim"],
            dtype=self.policy_base.dtype,
            processes=request.processes,
            zero=self.zero,
            gpu=request.on_gpu,
        )
        self.shares = shares_of(self.zero, request.processes)
        self.samples_here = samples_here(flags)

    def plan(self) -> MemoryPlan:
        """Everything put together."""
        names = (
            self.policy_base.name
            if self.shared
            else f"{self.policy_base.name}, reward model {self.reward_base.name}"
        )
        request = self.request
        phases = (*self._encoding(), *self._sampling(), *self._scoring(), *self._update())
        notes = (*request.notes(self.policy_base, self.trained), self._sampling_note())
        return MemoryPlan(f"{request.program}, {names}", self._held(), phases, request.context, notes)

    def _held(self) -> tuple[Part, ...]:
        weight = FLOAT if self.zero is None else self.policy_base.dtype.itemsize
        reference = sum(adapter_numbers(self.policy_base, self.policy.lora))
        reward = sum(
            sum(adapter_numbers(bank.base, bank.lora)) + sum(head_numbers(bank.head, bank.base))
            for bank in self.rewards
        )
        trained = sum(map(sum, self.trained.groups))
        bases = [self.policy_base, *(() if self.shared else (self.reward_base,))]
        column = COLUMN - CRITICS_COLUMN * (not self.critic) + ENGINES_COLUMN * (not self.samples_here)
        rollouts = self.flags["rollout_batch_size"] // self.request.processes
        images = sum(self._features(base, rollouts) for base in bases)
        pixels = [Part("pixels of the prompts at hand", self._pixels(self.flags[SAMPLED]))]
        # Of two roles that read a base before the backward pass DeepSpeed takes note of one.
        kept = self.shared and self.critic and not self.flags["gradient_checkpointing"]
        return (
            *(part for base in bases for part in base_parts(base, self.shares)),
            *gathered_parts(bases, self.zero, kept),
            Part(
                "adapters and heads of policy and value" if self.critic else "adapter of the policy",
                trained * weight // self.shares,
            ),
            Part("adapters and head of reference and reward", (reference + reward) * weight // self.shares),
            *self.trained.held(),
            Part(f"image features of {rollouts} rollouts", images),
            Part(
                f"tokens and numbers of {rollouts} rollouts", rollouts * self.flags["response_len"] * column
            ),
            *([] if self.request.on_gpu else pixels),
        )

    def _encoding(self) -> list[Phase]:
        """The images of a pass over prompts."""
        rows = self.flags[SAMPLED]
        bases = {"image encoding": self.policy_base}
        if not self.shared:
            bases |= {"image encoding, reward model": self.reward_base}
        phases = []
        for name, base in bases.items():
            size = image_encoding(base, rows * self.lengths.images) - self._features(base, rows)  # in `_held`
            phases.append(Phase(name, size + (0 if self.request.on_gpu else self._pixels(rows))))
        return phases

    def _sampling(self) -> list[Phase]:
        """Answers to the prompts of a pass."""
        if not self.samples_here:
            return []
        rows, policy = self.flags[SAMPLED], self.policy_base
        prompt, response = self._length(policy) - self.flags["response_len"], self.flags["response_len"]
        tables = DRAWING_TABLES * FLOAT + (policy.dtype.itemsize if policy.dtype.itemsize < FLOAT else 0)
        merge = self._merges
        drawing = rows * policy.vocabulary * tables
        selected = self._features(policy, rows)
        first = prefill(self.policy, rows, prompt, merge)
        last = decoding(self.policy, rows, prompt, response, merge) + drawing
        return [
            Phase(f"sampling, policy: {rows} prompts of {prompt} positions", selected + first),
            Phase(f"sampling, policy: up to {response} tokens", selected + last),
        ]

    @property
    def _merges(self) -> bool:
        return self.flags[MERGE] and not self.policy_base.quantised

    def _sampling_note(self) -> str:
        if not self.samples_here:
            return "answers come from another engine, which has its own memory"
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
        language, values = self._policy_work(rows), self._value_work(rows)
        looks = [
            ("policy and reference", self.policy, language),
            *([("value", self.value, values)] if self.critic else []),
            *(
                (_numbered("reward", number), bank, Pass(reward_rows, scored, Head(reward_rows)))
                for number, bank in enumerate(self.rewards)
            ),
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
        policy = training(self.policy, self._policy_work(rows))
        value = training(self.value, self._value_work(rows))
        several = self.flags["step_batch_size"] // self.request.processes > rows
        # Gradients of earlier micro-batches, and what both roles look at.
        before = trained.gradients if several or self.zero is not None else 0
        before += self._features(policy_base, rows)
        before += self._features(reward_base, rows) if self.critic else 0
        if not self.critic:
            fresh = FLOAT * sum(trained.groups[0])
            alone = policy.with_gradients(fresh) if self.zero is None else policy.peak + trained.buckets
            sizes = {"policy": before + alone}
        elif self.zero is not None:  # one forward and one backward of both
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
        return self.request.length(base, self.lengths.query + self.flags["response_len"])

    @property
    def _longest(self) -> int:
        return max(self._length(self.policy_base), self._length(self.reward_base), self._valued)

    @property
    def _valued(self) -> int:
        """Positions of the longest row that the critic reads."""
        return self._scored if self.flags["value_sees_facts"] else self._length(self.reward_base)

    @property
    def _scored(self) -> int:
        """Positions of the longest row that the reward model scores."""
        return self.request.longest(self.reward_base)

    def _policy_work(self, rows: int) -> Pass:
        chunk, entropy = self.flags["logits_chunk_size"], self.flags["log_entropy"]
        head = Head(rows * self.flags["response_len"], chunk, entropy)
        return Pass(rows, self._length(self.policy_base), head, self._reads_padding)

    def _value_work(self, rows: int) -> Pass:
        head = Head(rows * self.flags["response_len"])
        return Pass(rows, self._valued, head, self._reads_padding)

    @property
    def _reads_padding(self) -> bool:
        return Numerics(self.flags["numerics"]).counts_padding

    def _features(self, base: BaseSpec, rows: int) -> int:
        return rows * self.lengths.images * base.feature_bytes

    def _pixels(self, rows: int) -> int:
        images = rows * self.lengths.images * FLOAT
        return images * (self.policy_base.pixels + (0 if self.shared else self.reward_base.pixels))


def _numbered(name: str, number: int) -> str:
    """As the adapters of several reward models are called: the first without a number."""
    return f"{name} {number}" if number else name

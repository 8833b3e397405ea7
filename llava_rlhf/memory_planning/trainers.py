"""The plan of reward model and policy init: one adapter on one base, trained by `transformers.Trainer`."""

from __future__ import annotations

from llava_rlhf.memory_planning.names import REWARD_MODEL
from llava_rlhf.memory_planning.passes import Bank, Head, Pass, image_encoding, scoring, training
from llava_rlhf.memory_planning.plan import MemoryPlan, Part, Phase
from llava_rlhf.memory_planning.request import Request
from llava_rlhf.memory_planning.settings import checkpoints_activations, new_lora, zero_of
from llava_rlhf.memory_planning.weights import (
    FLOAT,
    Trained,
    adapter_numbers,
    base_parts,
    gathered_parts,
    head_numbers,
    shares_of,
)
from llava_rlhf.supervised.labelled_log_probs import CHUNK_SIZE
from llava_rlhf.supervised.objective_arguments import DPO
from models.heads import LINEAR

TRAIN_ROWS, EVAL_ROWS = "per_device_train_batch_size", "per_device_eval_batch_size"


def plan_trainer(request: Request) -> MemoryPlan:
    """Memory of `train_reward_model` or `initialize_policy_model`."""
    return _TrainerPlan(request).plan()


class _TrainerPlan:
    """`items` are pairs of two rows, or dialogues of one; a reward model has a head instead of log-probabilities."""

    def __init__(self, request: Request):
        flags = request.flags
        self.request, self.flags, self.lengths = request, flags, request.lengths
        self.headed = request.program == REWARD_MODEL
        self.compares = flags.get("objective") == DPO
        self.pairs = self.headed or self.compares
        self.base = request.base(flags["model_name_or_path"], request.shape)
        head = flags["reward_head"] if self.headed else LINEAR
        self.bank = Bank(self.base, new_lora(flags), checkpoints_activations(flags), head)
        self.zero = zero_of(flags)
        numbers = adapter_numbers(self.base, self.bank.lora)
        self.trained = Trained(
            groups=(numbers + (head_numbers(head, self.base) if self.headed else ()),),
            optim=str(getattr(flags["optim"], "value", flags["optim"])),
            dtype=self.base.dtype,
            processes=request.processes,
            zero=self.zero,
            ddp=True,
            gpu=request.on_gpu,
        )

    def plan(self) -> MemoryPlan:
        """Everything put together."""
        title = f"{self.request.program}, {self.base.name}"
        request = self.request
        return MemoryPlan(
            title, self._held(), self._phases(), request.context, request.notes(self.base, self.trained)
        )

    def _held(self) -> tuple[Part, ...]:
        weight = FLOAT if self.zero is None else self.base.dtype.itemsize
        shares = shares_of(self.zero, self.request.processes)
        name = "adapter and head" if self.headed else "adapter"
        adapter = self.trained.numbers * weight // shares
        parts = [
            *base_parts(self.base, shares),
            *gathered_parts([self.base], self.zero),
            Part(name, adapter),
            *self.trained.held(),
        ]
        if self.compares and self.flags.get("policy_model_name_or_path"):
            parts.append(Part("adapter of the reference", adapter))
        return tuple(parts)

    def _phases(self) -> tuple[Phase, ...]:
        items, accumulation = self.flags[TRAIN_ROWS], self.flags["gradient_accumulation_steps"]
        # The Trainer fetches all micro-batches of an optimizer step at once.
        pixels = accumulation * self._pixels(items)
        trained, work = self.trained, self._work(items)
        passes = training(self.bank, work)
        if accumulation > 1 or self.zero is not None:  # they are there and are added to
            update = trained.gradients + passes.peak
        else:
            update = passes.with_gradients(trained.fresh_gradients)
        what = f"{items} {'pairs' if self.pairs else 'rows'} of {work.length} positions"
        phases = [
            Phase("image encoding", pixels + self._encoding(items)),
            *self._reference(pixels + self._features(items), work),
            Phase(f"update: {what}", pixels + update + trained.buckets),
            Phase("update: optimizer step", pixels + trained.step()),
        ]
        if self.flags["eval_size"] > 0:
            items = self.flags[EVAL_ROWS]
            size = self._features(items) + scoring(self.bank, self._work(items))
            phases.append(Phase("evaluation", self._pixels(items) + size))
        return tuple(phases)

    def _reference(self, around: int, work: Pass) -> tuple[Phase, ...]:
        """What the reference says of the answers, before the policy does; in evaluation both do, one behind the other."""
        return (Phase("reference", around + scoring(self.bank, work)),) if self.compares else ()

    def _work(self, items: int) -> Pass:
        length = self.request.longest(self.base)
        text = max(0, length - self.lengths.images * self.base.positions)
        rows = 2 * items if self.pairs else items
        tokens = rows * min(text, self.lengths.supervised)
        head = Head(rows) if self.headed else Head(tokens, CHUNK_SIZE)
        return Pass(rows, length, head, masked=True, autocast=True)

    def _pixels(self, items: int) -> int:
        return items * self.lengths.images * self.base.pixels * FLOAT

    def _features(self, items: int) -> int:
        """Of every image slot: those of a pair stand in two rows."""
        slots = items * self.lengths.images * (2 if self.pairs else 1)
        return slots * self.base.feature_bytes

    def _encoding(self, items: int) -> int:
        return image_encoding(self.base, items * self.lengths.images) + self._features(items)

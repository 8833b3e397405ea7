"""Estimate the memory of PPO on one device, all roles on one base, from shapes alone (nothing is loaded).

An estimate by counting tensors, not a measurement: allocator slack, kernels' workspaces and CUDA's context (about
1–2 GiB) come on top.
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
from collections.abc import Sequence
from dataclasses import dataclass, field

from llava_rlhf.parsing import StrictParser, run_program

GIB = 2**30
TRAINED_BYTES = 16  # float32 weight + gradient + two Adam moments
FROZEN_ADAPTER_BYTES = 4  # PEFT keeps adapters in float32


@dataclass(frozen=True)
class Shape:
    """Sizes of a LLaVA base: language model, image positions, vision tower parameters."""

    hidden: int
    layers: int
    intermediate: int
    vocabulary: int
    image_positions: int
    vision_parameters: int = 304_000_000  # CLIP ViT-L/14

    @property
    def linear_parameters(self) -> int:
        """Weights of the language model's linear layers, which quantisation and LoRA act on."""
        return self.layers * (4 * self.hidden**2 + 3 * self.hidden * self.intermediate)

    @property
    def other_parameters(self) -> int:
        """Embeddings, vocabulary projection, vision tower and projector, kept in 16 bits."""
        return 2 * self.vocabulary * self.hidden + self.vision_parameters + 1024 * self.hidden

    def lora_parameters(self, rank: int) -> int:
        """Weights of one adapter on all seven linear layers."""
        per_layer = 4 * 2 * self.hidden + 3 * (self.hidden + self.intermediate)
        return self.layers * rank * per_layer


SHAPES = {
    "7b-v1.5-224": Shape(4096, 32, 11008, 32000, 256),
    "13b-v1.5-336": Shape(5120, 40, 13824, 32000, 576),
}


@dataclass
class PlanArguments:
    """What to estimate."""

    _argument_group_name = "plan"

    shape: str = field(default="13b-v1.5-336", metadata={"help": "Base.", "choices": sorted(SHAPES)})
    bits: int = field(default=4, metadata={"help": "Of the base in PPO.", "choices": [4, 8, 16]})
    lora_r: int = field(default=64, metadata={"help": "Rank of the adapters."})
    rollout_rows: int = field(default=32, metadata={"help": "Rows sampled at once on one device."})
    step_rows: int = field(default=16, metadata={"help": "Rows per backward pass on one device."})
    text_tokens: int = field(default=1024, metadata={"help": "Longest query + response in text tokens."})
    logits_chunk_size: int = field(
        default=1024, metadata={"help": "Response tokens per vocabulary projection."}
    )


def prepare(argv: Sequence[str]) -> PlanArguments:
    """Parse the command line."""
    return StrictParser((PlanArguments,), description=__doc__).parse(argv)[0]


def run(arguments: PlanArguments) -> None:
    """Print the estimate, GiB per device, line by line."""
    parts = plan_ppo(SHAPES[arguments.shape], arguments)
    print(f"PPO, {arguments.shape}, one shared base at {arguments.bits} bits — estimated, GiB per device")
    for name, size in parts.items():
        print(f"  {name:<48}{size / GIB:8.1f}")
    held = sum(size for name, size in parts.items() if name.startswith("held:"))
    peak = max(size for name, size in parts.items() if not name.startswith("held:"))
    print(f"  {'peak':<48}{(held + peak) / GIB:8.1f}")


def plan_ppo(shape: Shape, arguments: PlanArguments) -> dict[str, float]:
    """Bytes of what PPO holds all the time (`held:`) and of each phase's own peak.

    Activations count 16-bit numbers: with checkpointing one hidden state a layer, and one layer recomputed.
    """
    per_weight = {4: 0.5 + 0.016, 8: 1.0, 16: 2.0}[
        arguments.bits
    ]  # 0.127 bit a weight for double quantisation
    adapter = shape.lora_parameters(arguments.lora_r)
    positions = arguments.text_tokens + shape.image_positions
    logits = 3 * 4 * arguments.logits_chunk_size * shape.vocabulary
    layer = 2 * positions * (8 * shape.hidden + 3 * shape.intermediate)
    return {
        "held: base": per_weight * shape.linear_parameters + 2 * shape.other_parameters,
        "held: policy and value adapters with Adam": 2 * TRAINED_BYTES * adapter,
        "held: reference and reward adapters": 2 * FROZEN_ADAPTER_BYTES * adapter,
        "sampling (key/value cache, logits)": arguments.rollout_rows
        * (2 * 2 * shape.layers * positions * shape.hidden + 2 * 4 * shape.vocabulary),
        "scoring (one layer's activations, logits)": arguments.rollout_rows * layer + logits,
        "update (policy and value activations, logits)": arguments.step_rows
        * 2
        * (2 * shape.layers * positions * shape.hidden + layer)
        + logits,
    }


if __name__ == "__main__":
    run_program(prepare, run)

"""The tiny worlds by the family of their base."""

from __future__ import annotations

from llava_rlhf.tiny_world.drawn_qwen import DrawnQwen
from llava_rlhf.tiny_world.kind import TinyKind
from llava_rlhf.tiny_world.noisy_llava import NoisyLlava

KINDS: dict[str, TinyKind] = {"llava": NoisyLlava(), "qwen2_5_vl": DrawnQwen()}

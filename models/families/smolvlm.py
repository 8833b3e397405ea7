"""SmolVLM2: what Idefics3 is, under another name; the first SmolVLM is an Idefics3 by its `config.json`."""

from __future__ import annotations

from models.families.idefics3 import Idefics3


class SmolVLM(Idefics3):
    """`SmolVLMForConditionalGeneration`."""

    model_type = "smolvlm"
    title = "SmolVLM"
    architecture = "SmolVLMForConditionalGeneration"

"""The two roles of preference optimisation on one base: the policy, and the frozen reference that it starts from."""

from __future__ import annotations

from pathlib import Path

from llava_rlhf.assembly.reward_models import load_frozen
from llava_rlhf.assembly.roles import new_policy
from llava_rlhf.runs.arguments import AdapterArguments
from llava_rlhf.runs.role_files import POLICY, REFERENCE
from models.adapter_files import check_adapter_fits, read_adapter_config
from models.adapters import AdapterBank, AdapterSpec
from models.roles import BasePolicy, Policy
from models.settings import LANGUAGE_MODEL_LINEAR_LAYERS
from models.vlm import BaseSettings


def check_start(adapter: Path, base: str | Path, arguments: AdapterArguments) -> None:
    """Raise ValueError where an adapter that a policy starts from does not fit the base, or has another shape than asked for."""
    check_adapter_fits(adapter, base)
    config = read_adapter_config(adapter)
    layers = [name for name in LANGUAGE_MODEL_LINEAR_LAYERS if name in str(config.target_modules)]
    asked = {
        "lora_r": (arguments.lora_r, config.r),
        "lora_alpha": (arguments.lora_alpha, float(config.lora_alpha)),
        "lora_dropout": (arguments.lora_dropout, 0.0),
        "lora_modules": (sorted(arguments.lora_modules), sorted(layers)),
    }
    for name, (value, known) in asked.items():
        if value != known:
            shown = " ".join(known) if isinstance(known, list) else f"{known:g}"
            raise ValueError(
                f"--{name} {value}, but the policy goes on from the adapter {adapter}, as it is and without dropout: "
                f"use --{name} {shown}"
            )


def policy_and_reference(
    base: str | Path,
    settings: BaseSettings,
    arguments: AdapterArguments,
    gradient_checkpointing: bool,
    adapter: Path | None,
) -> tuple[Policy, Policy]:
    """A trainable policy and its frozen reference, which answer alike.

    Args:
        base: base directory, loaded once.
        settings: how to load it.
        arguments: shape of a new adapter.
        gradient_checkpointing: recompute activations while training.
        adapter: PEFT folder that both start from. None: the reference is the base, the policy a new adapter on it.

    Raises:
        ValueError: the adapter does not fit the base.
    """
    if adapter is None:
        policy = new_policy(base, settings, arguments, gradient_checkpointing)
        return policy, BasePolicy(policy.bank)
    adapters = {
        POLICY: AdapterSpec(adapter, trainable=True),
        REFERENCE: AdapterSpec(adapter, trainable=False),
    }
    bank = AdapterBank(load_frozen(base, settings), adapters, gradient_checkpointing)
    return Policy(bank, POLICY), Policy(bank, REFERENCE)

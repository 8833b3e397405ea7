"""Names of an adapter's tensors: those of other ages renamed to today's, and what a name says that is adapted.

Transformers before 4.52 called `language_model.model.layers` what is `model.language_model.layers` today; PEFT wrote the
first into adapters, which mean the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from models.adapter_shapes import module_name
from models.families.base import Family
from models.families.llava_files import present_name  # adapters of other ages are all of LLaVAs
from models.families.registry import FAMILIES

if TYPE_CHECKING:
    from peft import LoraConfig

HF_MODEL = "base_model.model."  # how PEFT begins the names of all tensors
# How the names of our tensors begin, in all families but those with another `language_part`.
HF_LAYERS = f"{HF_MODEL}model.{Family.language_part}.layers."
OLD_LAYERS = "language_model.model.layers."
ALL_LINEAR = "all-linear"
# What may be adapted besides the language model → the modules of that name, in any family.
_TOWERS = {
    what: tuple(dict.fromkeys(other.towers[what] for other in FAMILIES.values() if what in other.towers))
    for family in FAMILIES.values()
    for what in family.towers
}
_PARTS = (
    "language_model.",
    *(f"{module.removeprefix('model.')}." for modules in _TOWERS.values() for module in modules),
)
# Linear layers outside the language model's, by which one sees that a list of names reaches further.
_ELSEWHERE = (*(name for family in FAMILIES.values() for name in family.linear_elsewhere), "lm_head")
# Settings of PEFT that make more than B·A·x · alpha / r of an adapter, and what they are called.
_BEYOND_LORA = {
    "use_dora": "is DoRA",
    "trainable_token_indices": "also trained rows of the embeddings",
    "target_parameters": "adapts parameters that are no linear layers",
    "layer_replication": "repeats layers",
    "alora_invocation_tokens": "is activated LoRA (aLoRA)",
    "use_qalora": "is QALoRA",
    "use_bdlora": "is block-diagonal LoRA",
    "lora_bias": "also trained a bias of its own",
    "arrow_config": "routes between adapters (Arrow)",
    "kasa_config": "is KaSA",
    "monteclora_config": "is MonteCLoRA",
    "velora_config": "is VeLoRA",
}
REMEDY = (
    "only LoRA on linear layers of the language model can be used here: merge it into its base with PEFT first "
    "(merge_and_unload, save_pretrained), and name the result as the base"
)


def present_tensor_name(name: str) -> str:
    """The name that a tensor of a LLaVA adapter has today; any other name as it is."""
    inner = name.removeprefix(HF_MODEL)
    # A state that was saved without PEFT's help names the adapter too: lora_A.default.weight.
    inner = re.sub(r"\.(lora_[AB]|lora_embedding_[AB])\.\w+\.weight$", r".\1.weight", inner)
    present = present_name(inner)
    if name.startswith(HF_MODEL) and present.startswith("lm_head."):
        return HF_MODEL + present
    return f"{HF_MODEL}model.{present}" if name.startswith(HF_MODEL) and present.startswith(_PARTS) else name


def beyond_language_lora(config: LoraConfig, names: Collection[str]) -> str | None:
    """What an adapter is or trains besides LoRA on linear layers of the language model, as a sentence; None: nothing.

    Args:
        config: its settings.
        names: of its tensors, as they are today.
    """
    for setting, what in _BEYOND_LORA.items():
        if value := getattr(config, setting, None):
            return f"{what} ({setting} {value!r}); {REMEDY}"
    if config.modules_to_save:
        return f"also trained whole modules (modules_to_save: {', '.join(config.modules_to_save)}); {REMEDY}"
    if config.bias not in (None, "none"):
        return f"also trained biases (bias {config.bias!r}); {REMEDY}"
    return unfit_tensors(names)


def unfit_tensors(names: Collection[str]) -> str | None:
    """As `beyond_language_lora`, told by the names of the tensors alone."""
    lora = {name for name in names if ".lora_" in name}
    kinds: Mapping[str, list[str]] = {
        "is DoRA": [name for name in lora if name.endswith(".lora_magnitude_vector")],
        **{
            f"adapts the {what}": [name for name in lora if any(f".{module}." in name for module in modules)]
            for what, modules in _TOWERS.items()
        },
        "adapts lm_head": [name for name in lora if ".lm_head." in name],
        "adapts the embeddings": [name for name in lora if ".lora_embedding_" in name],
        "also trained biases": [name for name in names if name.endswith(".bias")],
        "also holds whole weights": [
            name for name in names if ".lora_" not in name and not name.endswith(".bias")
        ],
    }
    parts = [
        f"{what} ({len(found)} of its tensors, such as {min(found)})"
        for what, found in kinds.items()
        if found
    ]
    return f"{' and '.join(parts)}; {REMEDY}" if parts else None


def adapted_layers(
    config: LoraConfig, layers: int, names: Iterable[str], family: Family | type[Family] = Family
) -> list[str]:
    """Full names of those linear layers of a language model that an adapter's settings mean, under whatever age of names.

    Args:
        config: the settings.
        layers: transformer layers of the language model.
        names: of the linear layers of one of them.
        family: of the model.
    """
    names, start = tuple(names), f"model.{family.language_part}.layers."
    places = [module_name(layer, name) for layer in range(layers) for name in names]
    return [
        start + place
        for place in places
        if _means(config, start + place) or _means(config, OLD_LAYERS + place)
    ]


def on_language_model(
    config: LoraConfig, layers: int, names: Iterable[str], family: Family | type[Family] = Family
) -> LoraConfig:
    """The settings in today's names and for the language model alone, in place: PEFT finds the same layers by them.

    A list such as `q_proj` would also match the attention of the CLIP tower, and names from before 4.52 match nothing.
    """
    names = tuple(names)
    wanted = adapted_layers(config, layers, names, family)
    elsewhere = any(_means(config, name) for name in _ELSEWHERE)
    if wanted and (elsewhere or not all(_means(config, name) for name in wanted)):
        kinds = [name for name in names if any(full.endswith(f".{name}") for full in wanted)]
        whole = len(wanted) == layers * len(kinds)
        config.target_modules = family.lora_pattern(kinds) if whole else set(wanted)
        config.layers_to_transform = config.layers_pattern = config.exclude_modules = None
    for patterns in (config.rank_pattern, config.alpha_pattern):
        for key in [key for key in patterns if OLD_LAYERS in key]:
            patterns[key.replace(OLD_LAYERS, f"model.{family.language_part}.layers.")] = patterns.pop(key)
    return config


def _means(config: LoraConfig, name: str) -> bool:
    from peft.tuners.tuners_utils import check_target_module_exists  # brings torch

    if isinstance(config.target_modules, str) and config.target_modules.lower() == ALL_LINEAR:
        return name != "lm_head"
    return config.target_modules is not None and bool(check_target_module_exists(config, name))

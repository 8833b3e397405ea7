"""Several named LoRA adapters over one frozen base, at most one active.

Adapters are the dangerous object: switching one between a forward and its backward, or letting gradient checkpointing
recompute under another one, gives wrong gradients without any error. The rules kept here, each with a test:

* which adapters train is declared once, at construction; switching never changes `requires_grad`;
* outside `use(...)` the language model refuses to run, and `use` does not nest;
* a recomputed forward runs under the adapter of the original forward, and puts the active one back;
* the bytes of frozen adapters and of the base never change.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

from models.adapter_files import read_adapter_config, read_adapter_tensors, save_adapter
from models.adapter_names import on_language_model
from models.divided_weights import check_whole, whole
from models.sampling_layers import lora_places, stand_ins
from models.settings import LANGUAGE_MODEL_LINEAR_LAYERS, NO_ADAPTER, LoraSettings
from models.vlm import VisionLanguageModel


@dataclass(frozen=True)
class AdapterSpec:
    """One adapter of a bank.

    Attributes:
        source: `LoraSettings` for a new one (initial output change exactly 0), or a directory with
            `adapter_config.json` and `adapter_model.safetensors`.
        trainable: whether its weights receive gradients; fixed for the life of the bank.
    """

    source: LoraSettings | Path
    trainable: bool


class AdapterBank(nn.Module):
    """One frozen base and its named adapters.

    Args:
        vlm: the base; its language model is wrapped in place.
        adapters: name → `AdapterSpec`; at least one.
        gradient_checkpointing: recompute layer activations in backward (non-reentrant).
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        adapters: Mapping[str, AdapterSpec],
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        if not adapters:
            raise ValueError("an adapter bank needs at least one adapter")
        configs = {name: _lora_config(spec, vlm) for name, spec in adapters.items()}
        first, *others = configs
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # PEFT reads an attribute that transformers has renamed
            self.peft_model = PeftModel(vlm.model, configs[first], adapter_name=first)
        for name in others:
            self.peft_model.add_adapter(name, configs[name])
        self.vlm = vlm
        self.trainable = frozenset(name for name, spec in adapters.items() if spec.trainable)
        self._lora_places = lora_places(vlm.model)
        self._active: str | None = None
        self.autocast_dtype = None if vlm.compute_dtype == torch.float32 else vlm.compute_dtype
        self._declare_trainable()
        for name, spec in adapters.items():
            if isinstance(spec.source, Path):
                self.load(name, spec.source)
        vlm.language_model.register_forward_pre_hook(self._refuse_outside_context)
        if gradient_checkpointing:
            # Renamed in transformers 5.2x; the old name is the only one in 5.17.
            enable = getattr(vlm.model, "activation_checkpointing_enable", None)
            enable = enable or vlm.model.gradient_checkpointing_enable
            enable({"use_reentrant": False, "context_fn": self._checkpoint_contexts})

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all adapters, in the order of their declaration."""
        return tuple(self.peft_model.peft_config)

    @property
    def active(self) -> str | None:
        """The adapter of the surrounding `use`, or None outside."""
        return self._active

    @contextmanager
    def use(self, name: str, training: bool) -> Iterator[VisionLanguageModel]:
        """Run the base under adapter `name`.

        Args:
            name: one of `names`.
            training: train mode (gradient checkpointing, dropout) or eval mode (key/value cache allowed).

        Raises:
            KeyError: unknown name. RuntimeError: another `use` is open.
        """
        if name not in self.peft_model.peft_config:
            raise KeyError(f"no adapter {name!r} in this bank; it has {', '.join(self.names)}")
        with self._entered(name, training) as vlm:
            yield vlm

    def use_base(self) -> AbstractContextManager[VisionLanguageModel]:
        """Run the base under no adapter, in eval mode. Raises RuntimeError while another `use` is open."""
        return self._entered(NO_ADAPTER, training=False)

    @contextmanager
    def _entered(self, name: str, training: bool) -> Iterator[VisionLanguageModel]:
        if self._active is not None:
            raise RuntimeError(f"adapter {self._active!r} is in use; leave it before {name!r} is entered")
        self._switch(name)
        self._set_mode(training)
        autocast = (
            torch.autocast(self.vlm.device.type, dtype=self.autocast_dtype)
            if self.autocast_dtype is not None
            else nullcontext()
        )
        try:
            with autocast:
                yield self.vlm
        finally:
            self._active = None

    @contextmanager
    def use_for_sampling(self, name: str, merge: bool = True) -> Iterator[VisionLanguageModel]:
        """As `use(name, training=False)` without gradients, with LoRA layers that are faster on few tokens.

        Args:
            name: one of `names`.
            merge: work with a copy of the base's weights that holds the adapter, unless they are quantised: faster, for
                the memory of that copy.

        Raises:
            KeyError: unknown name. RuntimeError: another `use` is open.
        """
        with (
            self.use(name, training=False) as vlm,
            torch.no_grad(),
            stand_ins(self._lora_places, name, merge, vlm.compute_dtype),
        ):
            yield vlm

    def parameters_of(self, name: str) -> dict[str, nn.Parameter]:
        """The weights of one adapter, by their full parameter name."""
        return {
            key: value
            for key, value in self.vlm.model.named_parameters()
            if f".lora_A.{name}." in key or f".lora_B.{name}." in key
        }

    def copy(self, source: str, target: str) -> None:
        """Overwrite the weights of adapter `target` by those of `source`.

        Raises:
            ValueError: they differ in rank, scale or layers, so that a copy would not answer alike.
        """
        weights, targets = self.state_dict_of(source), self.state_dict_of(target)
        configs = self.peft_model.peft_config
        reason = _mismatch((weights, configs[source]), (targets, configs[target]), (source, target))
        if reason:
            raise ValueError(f"adapters {source!r} and {target!r} differ: {reason}")
        with torch.no_grad():
            for key, tensor in targets.items():
                tensor.copy_(weights[key])

    @contextmanager
    def whole(self, name: str) -> Iterator[None]:
        """Have one adapter whole, to `save` it: where weights are divided (ZeRO-3) every process must enter; else nothing happens."""
        with whole(self.parameters_of(name).values()):
            yield

    def save(self, name: str, directory: str | Path, base_model: str | None = None) -> None:
        """Write one adapter as a plain PEFT folder; inside `whole` where its weights may be divided.

        Args:
            name: the adapter.
            directory: created if needed; receives `adapter_config.json` and `adapter_model.safetensors`.
            base_model: recorded as `base_model_name_or_path`, for whoever opens the folder with PEFT alone.

        Raises:
            RuntimeError: as `state_dict_of`.
        """
        save_adapter(self.state_dict_of(name), self.peft_model.peft_config[name], directory, base_model)

    def state_dict_of(self, name: str) -> dict[str, Tensor]:
        """One adapter's tensors under the key names of PEFT's files.

        Raises RuntimeError where they are divided and nobody has made them `whole`.
        """
        check_whole(self.parameters_of(name).values())
        return get_peft_model_state_dict(self.peft_model, adapter_name=name, save_embedding_layers=False)

    def load(self, name: str, directory: str | Path) -> None:
        """Fill adapter `name` from a PEFT folder. Raises ValueError unless every key finds its place, at equal scale."""
        config = read_adapter_config(directory)
        state = read_adapter_tensors(directory)
        model = (self.state_dict_of(name), self.peft_model.peft_config[name])
        reason = _mismatch((state, config), model, ("file", "model"))
        if reason:
            raise ValueError(f"{directory} does not fit adapter {name!r}: {reason}")
        set_peft_model_state_dict(self.peft_model, state, adapter_name=name)

    def _declare_trainable(self) -> None:
        for name in self.names:
            for parameter in self.parameters_of(name).values():
                parameter.requires_grad_(name in self.trainable)

    def _switch(self, name: str) -> None:
        # PEFT's own `set_adapter` freezes every other adapter and walks the whole model (35 ms at 32 layers).
        self._active = name
        self._point_layers_at(name)

    def _point_layers_at(self, name: str) -> None:
        for place in self._lora_places:
            place.layer._active_adapter = [name]

    def _refuse_outside_context(self, module: nn.Module, inputs: tuple) -> None:
        if self._active is None:
            raise RuntimeError("no adapter is in use: run the base inside `AdapterBank.use(name)`")

    def _checkpoint_contexts(self) -> tuple:
        """Contexts for `torch.utils.checkpoint`: the first for the forward, the second for its recomputation."""
        return nullcontext(), _RecomputeUnder(self, self._active, self.vlm.model.training)

    def _set_mode(self, training: bool) -> None:
        if self.vlm.model.training != training:
            self.vlm.model.train(training)


class _RecomputeUnder:
    """Recompute under the adapter and the mode (dropout) of the forward; a class, so that it can be entered again."""

    def __init__(self, bank: AdapterBank, name: str | None, training: bool):
        self.bank, self.name, self.training = bank, name, training

    def __enter__(self) -> None:
        self.training_before = self.bank.vlm.model.training
        self.bank._point_layers_at(self.name)
        self.bank._set_mode(self.training)

    def __exit__(self, *exception: object) -> None:
        self.bank._set_mode(self.training_before)
        if self.bank.active is not None:
            self.bank._point_layers_at(self.bank.active)


def _lora_config(spec: AdapterSpec, vlm: VisionLanguageModel) -> LoraConfig:
    if isinstance(spec.source, LoraSettings):
        lora = spec.source
        return LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=vlm.family.lora_pattern(lora.layers),
        )
    layers = vlm.model.config.get_text_config().num_hidden_layers
    config = on_language_model(
        read_adapter_config(spec.source), layers, LANGUAGE_MODEL_LINEAR_LAYERS, vlm.family
    )
    config.inference_mode = False  # PEFT would freeze it; `AdapterBank` declares what trains
    config.lora_dropout = (
        0.0  # what is loaded is sampled from too: an update must see the policy that answered
    )
    return config


def _mismatch(
    one: tuple[Mapping[str, Tensor], LoraConfig],
    other: tuple[Mapping[str, Tensor], LoraConfig],
    names: tuple[str, str],
) -> str | None:
    """Why the weights of one adapter would not mean the same in another, or None. `names` says who is who."""
    first, second = ({key: tuple(tensor.shape) for key, tensor in state.items()} for state, _ in (one, other))
    differing = sorted(key for key in first.keys() | second.keys() if first.get(key) != second.get(key))
    if differing:
        key = differing[0]
        return (
            f"{len(differing)} keys missing, unexpected or of another shape, first {key}: "
            f"{names[0]} {first.get(key)}, {names[1]} {second.get(key)}"
        )
    scales = [
        config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r) for _, config in (one, other)
    ]
    if scales[0] != scales[1]:
        return f"scale (alpha / r) is {scales[0]} in {names[0]}, {scales[1]} in {names[1]}"
    return None

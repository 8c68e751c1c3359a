"""A frozen base model with named LoRA adapters: one PEFT adapter per version and part.

Owns what PEFT does to a model and every place where we work around it. Knows nothing of acts, requests or versions on
disk. Not thread-safe: whoever owns a part calls it from one thread.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from bot.errors import AdapterError, ModelError

BASE = "__base__"
"""PEFT's name for rows that use no adapter in a mixed batch."""


def lora_config(rank: int = 16, alpha: int = 32, dropout: float = 0.0, invocation: Sequence[int] = ()) -> LoraConfig:
    """LoRA on all linear layers (arXiv 2106.09685); targets are resolved by PEFT per architecture.

    `invocation`: tokens from whose last occurrence on the adapter acts (activated LoRA, arXiv 2504.12397).
    """
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules="all-linear",
        alora_invocation_tokens=list(invocation) or None,
        task_type="CAUSAL_LM" if invocation else None,
    )


def pick_device() -> torch.device:
    """CUDA where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


HEAD_DOWN, HEAD_UP = ".head.lora_A.", ".head.lora_B."
"""In PEFT's names. The way in is chosen once (`whitening`), the way out learns: what is learned is linear in it."""


@dataclass(frozen=True, slots=True)
class Head:
    """head(x) = x + up @ down @ x."""

    down: nn.Parameter
    up: nn.Parameter


class AdaptedModel:
    """A frozen base model with named LoRA adapters."""

    def __init__(self, base: nn.Module) -> None:
        self._base = base.eval().requires_grad_(False)
        self._peft: PeftModel | None = None
        self._selected = ""
        self._lora_layers: list[LoraLayer] = []
        self._invocations: dict[str, tuple[int, ...]] = {}
        self._num_loads: Counter[str] = Counter()
        self._linear = {name for name, module in base.named_modules() if isinstance(module, nn.Linear)}

    @property
    def names(self) -> set[str]:
        """Adapters that are loaded."""
        return set(self._peft.peft_config) if self._peft is not None else set()

    def create(self, name: str, config: LoraConfig, *, trainable: bool = False) -> None:
        """Add an adapter that changes nothing yet (LoRA B is zero)."""
        self._invocations[name] = tuple(config.alora_invocation_tokens or ())
        # Where an activated adapter begins is the caller's doing: PEFT's own forward for it is slower than a plain one.
        # Weights come from us: some ways of beginning (pissa, olora) would change the base model's for good.
        config = replace(config, alora_invocation_tokens=None, task_type=None, init_lora_weights=True)
        # PEFT resolves "all-linear" for models of transformers only.
        if config.target_modules == "all-linear" and not hasattr(self._base, "get_output_embeddings"):
            config.target_modules = sorted(self._linear)
        with self._keeping_gradients():
            if self._peft is None:
                self._peft = get_peft_model(self._base, config, adapter_name=name)
            else:
                self._peft.add_adapter(name, config)
                self._peft.set_adapter(name)
        self._peft.eval()
        self._selected = ""
        self._lora_layers = [module for module in self._peft.modules() if isinstance(module, LoraLayer)]
        for key, parameter in self.parameters(name).items():
            parameter.requires_grad_(trainable and HEAD_DOWN not in key)

    def load(self, name: str, config: LoraConfig, tensors: dict[str, Tensor], *, trainable: bool = False) -> None:
        """Add an adapter with weights. Raises AdapterError when names or shapes do not fit this base model."""
        self.create(name, config, trainable=trainable)
        try:
            self.set_weights(name, tensors)
        except AdapterError:
            self.delete(name)
            raise

    def set_weights(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Overwrite an adapter's weights; every tensor must be there, with its shape, and none besides."""
        expected = {key: value.shape for key, value in self.weights(name).items()}
        got = {key: value.shape for key, value in tensors.items()}
        if expected != got:
            odd = min(set(expected.items()) ^ set(got.items()), key=str)
            raise AdapterError(f"adapter {name}: expected {len(expected)} tensors of this base model, odd one: {odd}")
        self._num_loads[name] += 1
        with torch.no_grad():
            set_peft_model_state_dict(self._need(), tensors, adapter_name=name)

    def weights(self, name: str) -> dict[str, Tensor]:
        """A copy of the adapter's weights under PEFT's own file names."""
        # "auto" would ask a hub whether the vocabulary grew; we never train embeddings.
        state = get_peft_model_state_dict(self._need(), adapter_name=name, save_embedding_layers=False)
        return {key: value.detach().clone() for key, value in state.items()}

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """The live parameters of one adapter."""
        return {key: p for key, p in self._need().named_parameters() if f".{name}." in key or key.endswith(f".{name}")}

    def trainable(self, name: str) -> list[nn.Parameter]:
        """Those of an adapter's parameters that learn."""
        return [parameter for parameter in self.parameters(name).values() if parameter.requires_grad]

    def head(self, name: str) -> Head | None:
        """The two factors of what an adapter adds to an Embedder's head; None where it does not."""
        found = {part: p for key, p in self.parameters(name).items() for part in (HEAD_DOWN, HEAD_UP) if part in key}
        return Head(found[HEAD_DOWN], found[HEAD_UP]) if len(found) == 2 else None

    def num_loads(self, name: str) -> int:
        """How often weights were put under this name. Steps of an optimizer are not counted: what is being trained has no
        state worth a name."""
        return self._num_loads[name]

    @property
    def device(self) -> torch.device:
        """Where the base model is."""
        return next(self._base.parameters()).device

    @property
    def base(self) -> nn.Module:
        """The base model; PEFT's layers are in it."""
        return self._base

    def config(self, name: str) -> LoraConfig:
        """The adapter's config with its targets resolved to this architecture's modules."""
        config = self._need().peft_config[name]
        assert isinstance(config, LoraConfig)
        invocation = list(self._invocations[name])
        return replace(config, alora_invocation_tokens=invocation, task_type="CAUSAL_LM") if invocation else config

    def invocation(self, name: str) -> tuple[int, ...]:
        """The tokens at whose last occurrence the adapter begins to act; empty: it acts on every token."""
        return self._invocations[name]

    def delete(self, name: str) -> None:
        """Free an adapter."""
        peft = self._need()
        others = [other for other in peft.peft_config if other != name]
        with self._keeping_gradients():
            if others:  # PEFT cannot run a mixed batch while its active adapter is a deleted one.
                peft.set_adapter(others[0])
            peft.delete_adapter(name)
        self._selected = ""

    def __call__(self, adapters: Sequence[str], **inputs: Any) -> Any:
        """Forward pass; `adapters` names one adapter per row (BASE: none)."""
        distinct = set(adapters)
        if self._peft is None or distinct == {BASE}:
            return self.untouched(self._base, **inputs)
        if len(distinct) == 1:
            self._select(adapters[0])
            return self._peft(**inputs)
        return self._peft(**inputs, adapter_names=list(adapters))

    def untouched(self, call: Callable[..., Any], **inputs: Any) -> Any:
        """Call the base model, or a method of it, without any adapter."""
        with self._without_adapters():
            return call(**inputs)

    def _select(self, name: str) -> None:
        if self._selected != name:
            with self._keeping_gradients():
                self._need().set_adapter(name)
            self._selected = name

    @contextmanager
    def _keeping_gradients(self) -> Iterator[None]:
        """PEFT turns requires_grad on and off as adapters come, go and take turns; which ones train is ours to say."""
        flags = {id(p): p.requires_grad for p in self._base.parameters()}
        yield
        for parameter in self._base.parameters():
            parameter.requires_grad_(flags.get(id(parameter), parameter.requires_grad))

    @contextmanager
    def _without_adapters(self) -> Iterator[None]:
        """Not PEFT's `disable_adapter`: that changes requires_grad, and fails once the active adapter was deleted."""
        for layer in self._lora_layers:
            layer._disable_adapters = True  # noqa: SLF001
        try:
            yield
        finally:
            for layer in self._lora_layers:
                layer._disable_adapters = False  # noqa: SLF001

    def _need(self) -> PeftModel:
        if self._peft is None:
            raise ModelError("expected an adapter, none is loaded")
        return self._peft


def hush_loading() -> None:
    """No progress bars for weights that load in a blink: they fill logs with control characters."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def fingerprint(folder: Path) -> str:
    """Short hash of a model folder: config and the weights' safetensors header and size (not every byte)."""
    hasher = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            hasher.update(stream.read(65536))
            stream.seek(-65536, 2) if path.stat().st_size > 65536 else stream.seek(0)
            hasher.update(stream.read())
        hasher.update(str(path.stat().st_size).encode())
    return hasher.hexdigest()[:16]

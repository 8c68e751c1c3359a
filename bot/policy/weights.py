"""A version's files as tensors: read after verification, written as plain PEFT folders. Safetensors only."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from bot.errors import AdapterError
from bot.policy.adapters import AdapterStore
from bot.policy.cases import Cases, load_cases
from bot.policy.manifest import Manifest


@dataclass(frozen=True, slots=True)
class VersionFiles:
    """A verified version, read into memory but not yet in the model."""

    manifest: Manifest
    encoder: dict[str, Tensor]
    encoder_config: LoraConfig
    causal: dict[str, Tensor] | None
    causal_config: LoraConfig | None
    value: dict[str, Tensor] | None
    cases: Cases | None


def read_version(adapters: AdapterStore, version: str) -> VersionFiles:
    """Verify and read a version; refuses weights that are not finite. Raises AdapterError, NotFound."""
    manifest = adapters.verify(version)
    folder = adapters.folder(version)
    encoder = _finite(load_file(folder / "encoder" / "adapter_model.safetensors"), version)
    has_causal, has_value = (folder / "causal").is_dir(), (folder / "value.safetensors").exists()
    return VersionFiles(
        manifest,
        encoder,
        read_lora_config(folder / "encoder"),
        _finite(load_file(folder / "causal" / "adapter_model.safetensors"), version) if has_causal else None,
        read_lora_config(folder / "causal") if has_causal else None,
        _finite(load_file(folder / "value.safetensors"), version) if has_value else None,
        load_cases(folder / "cases.safetensors") if (folder / "cases.safetensors").exists() else None,
    )


def read_lora_config(folder: Path) -> LoraConfig:
    """A LoRA config from its own file; never from a hub."""
    config = LoraConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig):
        raise AdapterError(f"{folder}: expected a LoRA adapter, got {type(config).__name__}")
    config.inference_mode = True
    return config


def _finite(tensors: dict[str, Tensor], version: str) -> dict[str, Tensor]:
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise AdapterError(f"{version}: expected finite weights, got otherwise in {name}")
    return tensors


def write_part(folder: Path, weights: dict[str, Tensor], config: LoraConfig, base_model: str) -> None:
    """Write one part's adapter so that any PEFT user can load it."""
    folder.mkdir()
    plain = copy.copy(config)
    plain.base_model_name_or_path, plain.inference_mode = base_model, True
    plain.save_pretrained(str(folder))
    save_file({key: value.contiguous().cpu() for key, value in weights.items()}, folder / "adapter_model.safetensors")

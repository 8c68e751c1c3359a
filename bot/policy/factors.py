"""What a LoRA adds to each linear map, out of PEFT's files alone: no module is built for it.

Shapes: O and I a map's outputs and inputs, R the adapter's rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor

from bot.errors import AdapterError

PREFIX = "base_model.model."
"""Of every tensor's name in PEFT's files, before the base model's own."""
HALVES = {".lora_A.weight": "down", ".lora_B.weight": "up"}


@dataclass(frozen=True, slots=True)
class Factors:
    """scale * up @ down is added to a map's weight [O, I]."""

    down: Tensor
    """[R, I], fp32."""
    up: Tensor
    """[O, R], fp32."""
    scale: float


def read_factors(
    config: LoraConfig, tensors: Mapping[str, Tensor], maps: Mapping[str, tuple[int, int]]
) -> dict[str, Factors]:
    """By the base model's module names; `maps`: those that can be adapted, and their outputs and inputs. Raises AdapterError
    where an adapter is more than such a product, or not of just the maps that its config names."""
    if config.use_dora or any("magnitude" in name for name in tensors):
        raise AdapterError("expected plain LoRA for words, got DoRA")
    if config.rank_pattern or config.alpha_pattern:
        raise AdapterError("expected one rank and one alpha for all layers, got a pattern of them")
    scale = config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        module, half = _place(name)
        halves.setdefault(module, {})[half] = tensor.detach().float()
    if odd := sorted(set(halves) ^ {module for module in maps if _is_target(config, module)}):
        raise AdapterError(
            f"expected an adapter of the maps that its config names, {odd[0]} is one too few or too many"
        )
    for module, found in halves.items():
        (outputs, inputs), shapes = maps[module], {half: tuple(tensor.shape) for half, tensor in found.items()}
        if shapes != {"down": (config.r, inputs), "up": (outputs, config.r)}:
            raise AdapterError(
                f"{module}: expected down [{config.r}, {inputs}] and up [{outputs}, {config.r}], got {shapes}"
            )
    return {module: Factors(found["down"], found["up"], scale) for module, found in halves.items()}


def _is_target(config: LoraConfig, module: str) -> bool:
    return config.target_modules == "all-linear" or bool(check_target_module_exists(config, module))


def _place(name: str) -> tuple[str, str]:
    """The module and which half, of a tensor's name."""
    for ending, half in HALVES.items():
        if name.startswith(PREFIX) and name.endswith(ending):
            return name[len(PREFIX) : -len(ending)], half
    raise AdapterError(f"expected LoRA's halves of linear maps, got {name}")

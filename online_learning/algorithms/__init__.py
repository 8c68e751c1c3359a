"""Learning algorithms by name: one file each, `(LossInputs, config) -> LossOutputs`, pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from online_learning.algorithms.ppo import ppo
from online_learning.algorithms.types import LossInputs, LossOutputs

Algorithm = Callable[[LossInputs, Any], LossOutputs]
"""The second argument is the algorithm's own frozen config, so its type differs from file to file."""

ALGORITHMS: Mapping[str, Algorithm] = {"ppo": ppo}

__all__ = ["ALGORITHMS", "Algorithm", "LossInputs", "LossOutputs", "ppo"]

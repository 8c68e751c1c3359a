"""Learning algorithms by name: one file each, `(LossInputs, config) -> LossOutputs`, pure.

Most are losses that the learner's optimiser follows. One that moves the parameters itself has a step in `STEPS` as well
(`trpo` says how the learner calls it). All are over acts; generated text is learned by `ppo` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from online_learning.algorithms.a2c import a2c
from online_learning.algorithms.ilql import ilql
from online_learning.algorithms.imitation import imitation
from online_learning.algorithms.kto import kto
from online_learning.algorithms.likelihood import estimate_noise, likelihood
from online_learning.algorithms.ppo import ppo
from online_learning.algorithms.reinforce import reinforce
from online_learning.algorithms.trpo import InputsFn, trpo, trpo_step
from online_learning.algorithms.types import LossInputs, LossOutputs

Algorithm = Callable[[LossInputs, Any], LossOutputs]
"""The second argument is the algorithm's own frozen config, so its type differs from file to file."""
Step = Callable[[InputsFn, Sequence[Tensor], Any], dict[str, Tensor]]
"""(rows at the present weights, the policy's parameters, config) -> metrics; moves the parameters in place."""

ALGORITHMS: Mapping[str, Algorithm] = {
    "ppo": ppo,
    "a2c": a2c,
    "reinforce": reinforce,
    "trpo": trpo,
    "ilql": ilql,
    "imitation": imitation,
    "kto": kto,
    "likelihood": likelihood,
}
STEPS: Mapping[str, Step] = {"trpo": trpo_step}

__all__ = ["ALGORITHMS", "STEPS", "Algorithm", "InputsFn", "LossInputs", "LossOutputs", "Step", "estimate_noise", "ppo"]

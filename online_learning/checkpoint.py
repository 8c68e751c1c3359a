"""The learner's own state on disk: optimizer moments, heads, rows it refused. Safetensors and JSON, never pickle.

A checkpoint is an immutable folder, written aside and renamed. Which one counts is said by the newest row of `updates`
in the store, committed after the folder is durable, so a crash at any point resumes from a matching pair.
Adapter weights are not repeated here: they are the champion's files.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from online_learning.update import Learner


@dataclass(frozen=True, slots=True)
class LearnerState:
    """What a checkpoint says beside tensors."""

    version: str
    """The version whose weights the optimizer state belongs to."""
    refused: tuple[str, ...]
    """Decisions that did not re-score: they never teach."""


def save_checkpoint(root: Path, name: str, learner: Learner, state: LearnerState, keep: int) -> None:
    """Write `root/name` durably; older folders beyond `keep` go."""
    root.mkdir(parents=True, exist_ok=True)
    for torn in root.glob(".checkpoint-*"):  # left by a process that was killed here
        shutil.rmtree(torn)
    aside = root / f".{name}.{os.getpid()}"
    aside.mkdir()
    save_file(_tensors(learner), aside / "state.safetensors")
    (aside / "state.json").write_text(json.dumps({"version": state.version, "refused": list(state.refused)}))
    for path in (*aside.iterdir(), aside):
        _fsync(path)
    shutil.rmtree(root / name, ignore_errors=True)
    aside.rename(root / name)
    _fsync(root)
    for old in sorted(root.glob("checkpoint-*"))[:-keep]:
        shutil.rmtree(old)


def load_checkpoint(root: Path, name: str, learner: Learner, version: str) -> LearnerState | None:
    """Restore optimizer and heads when they belong to `version`; None when there is nothing that fits."""
    folder = root / name
    if not name or not (folder / "state.json").exists():
        return None
    record = json.loads((folder / "state.json").read_text())
    state = LearnerState(record["version"], tuple(record["refused"]))
    if state.version == version:
        _restore(learner, load_file(folder / "state.safetensors"))
    return state


def _tensors(learner: Learner) -> dict[str, Tensor]:
    found = {
        f"{name}.{key}": tensor.contiguous()
        for name, head in learner.heads.items()
        for key, tensor in head.state_dict().items()
    }
    for name, optimizer in learner.optimizers.items():
        for index, entry in optimizer.state_dict()["state"].items():
            found |= {f"{name}.{index}.{key}": torch.as_tensor(value).contiguous() for key, value in entry.items()}
    return found


def _restore(learner: Learner, tensors: dict[str, Tensor]) -> None:
    for name, head in learner.heads.items():
        found = {key.partition(".")[2]: tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}
        if found:  # Another algorithm's checkpoint has no Q heads.
            head.load_state_dict(found)
    for name, optimizer in learner.optimizers.items():
        state: dict[int, dict[str, Any]] = {}
        for key, tensor in tensors.items():
            owner, _, rest = key.partition(".")
            if owner == name:
                index, _, moment = rest.partition(".")
                state.setdefault(int(index), {})[moment] = tensor
        if state and _belongs(state, optimizer):
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _belongs(state: Mapping[int, Mapping[str, Tensor]], optimizer: torch.optim.Optimizer) -> bool:
    """Whether the moments are of these parameters: after a change of `learn.layers` they are of others."""
    shapes = [parameter.shape for group in optimizer.param_groups for parameter in group["params"]]
    fits = (index < len(shapes) and moments["exp_avg"].shape == shapes[index] for index, moments in state.items())
    return all(fits)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

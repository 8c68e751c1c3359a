"""What the tests on a CUDA device share: the same tiny models on two devices, and a watch for waits."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from bot.policy.adapted import lora_config
from bot.policy.causal import CausalPart
from bot.policy.encoder import EncoderPart
from bot.policy.model import PolicyModel
from tests.tiny_models import random_adapter

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CLOSE = 1e-3
"""Nats, and logits of the tiny models: what another order of sums changes in float32 (seen on an H100: below 1e-4)."""
ACTIVATED, PLAIN = "activated", "plain"


def causal_on(device: torch.device, folder: Path) -> CausalPart:
    """With an adapter that begins at the assistant's header and one that acts from the first token on."""
    part = CausalPart(folder, device=device)
    for name, invocation, seed in ((ACTIVATED, part.vocabulary.header_ids, 1), (PLAIN, (), 2)):
        part.model.load(name, lora_config(4, 8, invocation=invocation), random_adapter(part.model, seed))
    return part


def policy_on(device: torch.device, folder: Path) -> PolicyModel:
    """The encoder part alone."""
    return PolicyModel(EncoderPart(folder, device=device))


@contextmanager
def counted_waits() -> Iterator[list[str]]:
    """Where Python waited for the device, as file:line."""
    waits = list[str]()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True, action="always") as seen:
        try:
            torch.cuda.set_sync_debug_mode("warn")
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits += [f"{one.filename}:{one.lineno}" for one in seen if "called a synchronizing" in str(one.message)]

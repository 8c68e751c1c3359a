"""The part of an engine that chooses among acts: one policy model, the versions hung into it, and choices with them.

Everything here runs in the engine's encoder thread. `bot.policy.voice` is its counterpart for words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bot.conversation import BASE_VERSION, LegalAct
from bot.errors import AdapterError
from bot.policy.adapted import BASE
from bot.policy.manifest import CanaryProbe
from bot.policy.model import ActRow, PolicyModel, draw
from bot.policy.types import ActRequest, Choice
from bot.policy.voice import compare
from bot.policy.weights import VersionFiles


class Chooser:
    """Choices of many requests, each under its own version."""

    def __init__(self, model: PolicyModel, temperature: float) -> None:
        self._model = model
        self._temperature = temperature
        self._values: dict[str, tuple[Tensor, Tensor]] = {}
        """Version -> weight [D] and bias of its value head."""

    # --- choices --------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def choose(self, items: Sequence[tuple[ActRequest, str]]) -> list[Choice]:
        """One act for each request and version, in one pass."""
        encoder = self._model.encoder
        rows = [
            ActRow(encoder.tokenize(request.query), request.legal, self._temperature, request.prompt)
            for request, _ in items
        ]
        adapters = [BASE if version == BASE_VERSION else version for _, version in items]
        scored = self._model.score(rows, adapters)
        logprobs_B_A, choices = scored.logprobs_B_A.double().cpu(), []
        for i, (request, version) in enumerate(items):
            logprobs_A = logprobs_B_A[i, : len(request.legal)]
            choices.append(
                Choice(
                    chosen=draw(logprobs_A, request.seed),
                    mode=int(logprobs_A.argmax()),
                    logprobs=tuple(logprobs_A.tolist()),
                    value=self._value(version, scored.states_B_D[i]),
                    query_ids=rows[i].query_ids,
                    temperature=self._temperature,
                    parts=self._model.parts,
                )
            )
        return choices

    def _value(self, version: str, state_D: Tensor) -> float:
        if version not in self._values:
            return 0.0
        weight_D, bias = self._values[version]
        return float(state_D @ weight_D + bias)

    def embed(self, texts: Sequence[str]) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        """Unit vectors [D] of texts without any adapter."""
        encoder = self._model.encoder
        return list(encoder.pool([encoder.tokenize(text) for text in texts]).cpu().numpy())

    # --- versions -------------------------------------------------------------------------------------------------
    def hang_in(self, version: str, files: VersionFiles) -> None:
        """Load and probe. What does not hold may be left behind: `drop_version` follows. Raises AdapterError."""
        expected, got = self._model.encoder.name, files.manifest.base_models.get("encoder")
        if expected.partition(":")[2] != str(got).partition(":")[2]:
            raise AdapterError(f"{version}: expected an adapter of encoder {expected}, got one of {got}")
        self.drop_version(
            version
        )  # Whoever waited for an earlier load may have been cancelled and left its layers behind.
        self._model.encoder.model.load(version, files.encoder_config, files.encoder)
        if files.cases is not None:
            self._model.cases[version] = files.cases.to(self._model.encoder.device)
        self._probe(version, files.manifest.probes)
        if files.value is not None:
            self._values[version] = self._value_head(files.value)

    def drop_version(self, version: str) -> None:
        """Free a version."""
        self._values.pop(version, None)
        self._model.cases.pop(version, None)
        if version in self._model.encoder.model.names:
            self._model.encoder.model.delete(version)

    def _value_head(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        weight_D, bias = tensors["linear.weight"][0], tensors["linear.bias"][0]
        if weight_D.shape != (self._model.encoder.width,):
            raise AdapterError(f"value head: expected {self._model.encoder.width} weights, got {len(weight_D)}")
        return weight_D.to(self._model.encoder.device), bias.to(self._model.encoder.device)

    @torch.no_grad()
    def _probe(self, version: str, probes: Sequence[CanaryProbe]) -> None:
        """Invariant 3: what was loaded is what was trained."""
        if not probes:
            raise AdapterError(f"{version}: expected canary probes in the manifest, got none")
        for probe in probes:
            legal = tuple(LegalAct(f"probe:{i}", texts) for i, texts in enumerate(probe.acts))
            row = ActRow(self._model.encoder.tokenize(probe.query), legal, probe.temperature, probe.prompt)
            got_A = self._model.score([row], [version]).logprobs_B_A[0].cpu()
            compare(got_A, torch.tensor(probe.logprobs), f"{version}: canary log-probabilities")

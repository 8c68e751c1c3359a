"""What a version's causal adapter is on a vLLM server: its name and path there, whether it may be loaded, its probe.

Names hold the home, the version and the weights' digest, so a name or a path never means two adapters: vLLM keys what it
has read of a prompt by both, and reloading one in place would serve what the old weights had read. No HTTP, no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot.conversation import BASE_VERSION, digest
from bot.errors import AdapterError
from bot.policy.adapters import AdapterStore
from bot.policy.grounding import amounts
from bot.policy.manifest import Manifest, TextProbe
from bot.policy.vllm_server import VllmServer, Words

WEIGHTS, CONFIG = "causal/adapter_model.safetensors", "causal/adapter_config.json"
NEVER = -20.0
"""Below this, words are not told apart: the mask may have made them impossible."""
FELT = 0.05
"""Root mean square change of a token's log-probability, nats, from which an adapter's effect stands out of bf16's noise."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A version as a server knows it."""

    version: str
    name: str
    path: str
    probes: tuple[TextProbe, ...]


class RemoteAdapters:
    """Names, paths and probes of one home's versions. `seen_as`: where the server sees the folder of versions."""

    def __init__(self, adapters: AdapterStore, base_name: str, seen_as: str = "") -> None:
        self._adapters = adapters
        self._base_name = base_name
        self._seen_as = seen_as or str(adapters.root.resolve())
        self.prefix = f"rejoinder-{digest(str(adapters.root.resolve()))[:8]}-"
        """Of the names of this home's adapters."""

    def of(self, version: str) -> Remote | None:
        """A version verified and fit for vLLM; None when it has no causal adapter. Raises AdapterError, NotFound."""
        if version == BASE_VERSION:
            return None
        manifest = self._adapters.verify(version)
        if WEIGHTS not in manifest.files:
            return None
        self._check_base(manifest)
        check_plain(version, self._adapters.folder(version))
        if not manifest.text_probes:
            raise AdapterError(f"{version}: expected text probes of its causal adapter in the manifest, got none")
        name = f"{self.prefix}{version}-{manifest.files[WEIGHTS][:8]}"
        return Remote(version, name, f"{self._seen_as}/{version}/causal", manifest.text_probes)

    def _check_base(self, manifest: Manifest) -> None:
        got = str(manifest.base_models.get("causal"))
        if got.partition(":")[2] != self._base_name.partition(":")[2]:
            raise AdapterError(
                f"{manifest.version}: expected a causal adapter of {self._base_name}, got one of {got or 'none'}"
            )


def check_plain(version: str, folder: Path) -> None:
    """vLLM knows plain LoRA only. Raises AdapterError, in one line that names the setting."""
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    if config.get("alora_invocation_tokens"):
        raise AdapterError(
            f"{version}: expected a plain LoRA adapter, got an activated one (it begins at the assistant's header), which "
            "vLLM does not know: set learn.text_adapts_prompt to true for versions to come"
        )
    odd = sorted(key for key in ("use_dora", "lora_bias", "modules_to_save") if config.get(key))
    if odd:
        raise AdapterError(f"{version}: expected a plain LoRA adapter, got one with {odd[0]}, which vLLM does not load")


async def probe(server: VllmServer, base: str, remote: Remote, tolerance: float) -> None:
    """Invariant 3, at a distance: the server scores the manifest's replies as the learner did, to within `tolerance` nats a
    token. Raises AdapterError."""
    for told in remote.probes:
        reply = told.reply
        words = Words(reply.prompt_ids, reply.temperature, tuple(sorted(amounts(" ".join(reply.sources)))))
        got = await server.score(remote.name, words, reply.token_ids)
        got_base = await server.score(base, words, reply.token_ids)
        fault = probe_fault(got, got_base, reply.logprobs, told.base_logprobs, tolerance)
        if fault:
            raise AdapterError(f"{remote.version} on vLLM: {fault}")


def probe_fault(
    got: Sequence[float],
    got_base: Sequence[float],
    expected: Sequence[float],
    expected_base: Sequence[float],
    tolerance: float,
) -> str:
    """What is wrong with scored words [T], nats; empty when nothing is.

    Both must be near what the learner had. And since bf16 hides a small adapter, the *change* it makes is compared too: the
    share of it that arrived is 1 for the right adapter, near 0 for one that never reached the requests.
    """
    (a, b), (x, y) = (_floored(got), _floored(got_base)), (_floored(expected), _floored(expected_base))
    for what, ours, theirs in (("adapter's", a, x), ("base model's", b, y)):
        off = max(abs(i - j) for i, j in zip(ours, theirs, strict=True))
        if not off <= tolerance:
            return f"log-probabilities of the {what} canary words are off by {off:.2g} (allowed {tolerance:g})"
    made, wanted = [i - j for i, j in zip(a, b, strict=True)], [i - j for i, j in zip(x, y, strict=True)]
    size = sum(i * i for i in wanted)
    if math.sqrt(size / len(wanted)) < FELT:
        return ""
    arrived = sum(i * j for i, j in zip(made, wanted, strict=True)) / size
    return "" if 0.5 <= arrived <= 1.5 else f"of the adapter's effect {arrived:.0%} arrived (expected 50 to 150 %)"


def _floored(logprobs: Sequence[float]) -> list[float]:
    return [max(value, NEVER) for value in logprobs]

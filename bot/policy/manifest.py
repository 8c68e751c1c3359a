"""What a version says about itself: the signed manifest and the probes in it. No torch, no disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bot.conversation import Generated


@dataclass(frozen=True, slots=True)
class CanaryProbe:
    """A choice whose log-probabilities the loaded version must reproduce (DESIGN invariant 3)."""

    query: str
    acts: tuple[tuple[str, ...], ...]
    """Texts of each legal act."""
    temperature: float
    prompt: str
    logprobs: tuple[float, ...]
    """By the learner's weights."""
    base_logprobs: tuple[float, ...]
    """By the base model: tells a loaded adapter from one that never reached the requests."""


@dataclass(frozen=True, slots=True)
class TextProbe:
    """A reply whose tokens' log-probabilities the loaded causal adapter must reproduce; nobody wrote or sampled it."""

    reply: Generated
    """Its `logprobs` are by the learner's weights."""
    base_logprobs: tuple[float, ...]
    """By the base model, which an adapter beside it must not change."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a version is and where it comes from."""

    version: str
    parent: str
    created_at: float
    base_models: Mapping[str, str]
    """Part -> base model fingerprint."""
    rules_hash: str
    lineage: Mapping[str, Any]
    """Which decisions taught it: `num_decisions`, `decision_ids` of this update, reward `cursor`."""
    gate: Mapping[str, Any]
    """The gate's report."""
    probes: tuple[CanaryProbe, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    """Relative path -> SHA-256."""
    text_probes: tuple[TextProbe, ...] = ()
    """Of the causal part; empty in versions without one."""


def manifest_of(body: Mapping[str, Any]) -> Manifest:
    """From its JSON. Raises KeyError, TypeError for what no release wrote."""
    probes = tuple(
        CanaryProbe(**_tuples(probe) | {"acts": tuple(tuple(texts) for texts in probe["acts"])})
        for probe in body["probes"]
    )
    text_probes = tuple(
        TextProbe(Generated(**_tuples(probe["reply"])), tuple(probe["base_logprobs"]))
        for probe in body.get("text_probes", ())
    )
    return Manifest(**{**body, "probes": probes, "text_probes": text_probes})


def _tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}

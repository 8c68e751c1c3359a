"""Signed versions of made-up bytes, for tests of what lies on disk. No torch: a child process must start fast."""

from __future__ import annotations

from typing import Any

from bot.conversation import BASE_VERSION
from bot.policy.adapters import AdapterStore
from bot.policy.manifest import Manifest

SECRET = b"s" * 32
FILES = ("encoder/adapter_model.safetensors", "encoder/adapter_config.json", "value.safetensors")


def make_manifest(**overrides: Any) -> Manifest:
    """The manifest of a version v000001 that nobody could load: no base models and no probes."""
    fields: dict[str, Any] = {
        "version": "v000001",
        "parent": BASE_VERSION,
        "created_at": 1000.0,
        "base_models": {},
        "rules_hash": "r1",
        "lineage": {"num_decisions": 32, "decision_ids": ["d1"], "cursor": 40},
        "gate": {"passed": True},
        "probes": (),
    }
    return Manifest(**fields | overrides)


def publish_bytes(store: AdapterStore, version: str = "", num_bytes: int = 64, **overrides: Any) -> str:
    """Publish a version whose files are of the right names and of this size; `overrides` are of its manifest."""
    staged = store.stage()
    (staged / "encoder").mkdir()
    for name in FILES:
        (staged / name).write_bytes(b"x" * num_bytes)
    return store.publish(staged, make_manifest(version=version or store.next_version(), **overrides))

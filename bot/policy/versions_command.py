"""`rejoinder versions list|rollback|promote|canary|withdraw|freeze|unfreeze`: the folder of versions, from a shell."""

from __future__ import annotations

import argparse
import json
import time

from bot.conversation import BASE_VERSION
from bot.identity import home_secret
from bot.policy.adapters import AdapterStore
from bot.settings import Settings


def command(settings: Settings, args: argparse.Namespace) -> int:
    """The act named by `versions_command`."""
    store = AdapterStore(settings.adapters, home_secret(settings.home))
    act, version, reason = args.versions_command, getattr(args, "version", "") or "", getattr(args, "reason", "") or ""
    if act == "rollback":
        store.rollback(version, reason, "shell")
    elif act == "promote":
        store.promote(version, reason, "shell")
    elif act == "canary":
        store.set_canary(version, args.share or settings.rollout.canary_share, reason or "canary by hand", "shell")
    elif act == "withdraw":
        store.withdraw(reason, "shell")
    elif act in ("freeze", "unfreeze"):
        getattr(store, act)(reason, "shell")
    _print(store, as_json=bool(getattr(args, "json", False)))
    return 0


def _print(store: AdapterStore, *, as_json: bool) -> None:
    champion, canary, frozen = store.champion(), store.canary(), store.frozen
    if as_json:
        said = {"champion": champion.version, "canary": canary.version if canary else None, "frozen": frozen}
        print(json.dumps(said | {"versions": store.versions()}))
        return
    for version in [BASE_VERSION, *store.versions()]:
        mark = f"  <- serving since {_when(champion.since)}: {champion.reason}" if version == champion.version else ""
        if canary is not None and version == canary.version:
            mark = f"  <- canary for {canary.share:.0%} of conversations since {_when(canary.since)}: {canary.reason}"
        is_pruned = version != BASE_VERSION and store.is_pruned(version)
        print(f"{version}{'  (weights removed)' if is_pruned else ''}{mark}")
    print("learning is frozen" if frozen else "learning is on")


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if at else "the beginning"

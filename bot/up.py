"""`rejoinder up`: the whole product with one command. Checks, models, then server and learner under one supervisor.

Nothing is started before everything is known to fit: one clear line and exit 1 otherwise.
"""

from __future__ import annotations

import argparse
import fcntl
import http.client
import os
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bot.doctor import START_CHECKS, Unwell, examine
from bot.errors import ModelError
from bot.policy.download import find_or_fetch
from bot.policy.transfer import StderrProgress
from bot.settings import Settings, with_flags
from bot.supervisor import Child, Supervisor, signals_seen

READY_POLL_S = 0.2


def main(settings: Settings, args: argparse.Namespace) -> int:
    """Run until stopped: 0 after SIGTERM, 130 after Ctrl-C, 1 when the server cannot be kept running."""
    settings = with_flags(settings, port=settings.port or _free_port(settings.host))
    for finding in examine(settings, START_CHECKS):
        if not finding.ok:
            raise Unwell(finding.detail)
    with _only_one(settings):
        _fetch_models(settings)
        return run(settings, children(settings, args.passed_on, learn=not args.no_learn), open_browser=args.open)


def children(settings: Settings, passed_on: Sequence[str], *, learn: bool) -> list[Child]:
    """The processes of a running product; `passed_on` are the global options they get as well."""
    options = (*passed_on, "--port", str(settings.port), "--set", f"host={settings.host}")
    rejoinder = (sys.executable, "-m", "bot.cli")
    found = [Child("serve", (*rejoinder, "serve", *options))]
    if learn:
        found.append(Child("learn", (*rejoinder, "learn", *options), essential=False))
    return found


def run(settings: Settings, wanted: Sequence[Child], *, open_browser: bool = False) -> int:
    """Supervise the children and announce the address once the server is ready."""
    supervisor = Supervisor(wanted, settings.home / "logs", say)
    with signals_seen() as seen:
        announcer = threading.Thread(target=_announce, args=(settings, supervisor, open_browser), daemon=True)
        announcer.start()
        kept = supervisor.run(seen)
    if not kept:
        return 1
    return 130 if seen[:1] == [signal.SIGINT] else 0


def say(line: str) -> None:
    """A line for the terminal."""
    print(line, flush=True)


def address(settings: Settings) -> str:
    """Where a browser on this machine finds the chat page."""
    return f"{settings.local_url}/"


def is_ready(settings: Settings) -> bool:
    """Whether the server answers that it is ready."""
    connection = http.client.HTTPConnection(settings.local_host, settings.port, timeout=READY_POLL_S * 5)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _announce(settings: Settings, supervisor: Supervisor, open_browser: bool) -> None:
    while not is_ready(settings):
        if supervisor.stopping.wait(READY_POLL_S):
            return
    where = address(settings)
    say(f"Rejoinder is ready: {where} (operators: {where}operator, studio: {where}studio)")
    say(f"The operator key is in {settings.home / 'keys' / 'operator.key'}; Ctrl-C stops everything")
    if open_browser and _has_screen():
        webbrowser.open(where)


def _has_screen() -> bool:
    """A text browser would take over this terminal, so only a graphical one will do."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _fetch_models(settings: Settings) -> None:
    """The encoder must be there; without the causal LM only generated replies are missing."""
    progress = StderrProgress()
    find_or_fetch("encoder", settings, progress)
    try:
        find_or_fetch("causal", settings, progress)
    except ModelError as error:
        if "causal" in settings.policy.parts:
            raise
        say(f"Generated replies are off: {error}")


@contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    """Hold the home's lock; the kernel frees it when we die. Raises Unwell when another `up` holds it."""
    with (settings.home / "up.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unwell(f"another `rejoinder up` is running in {settings.home}") from None
        yield


def _free_port(host: str) -> int:
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as server:
        return int(server.getsockname()[1])

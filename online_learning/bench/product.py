"""The product as a benchmark runs it: real processes under the real supervisor, in a home that is thrown away."""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from bot.domain import Domain, load_domain
from bot.errors import RejoinderError
from bot.settings import PROFILES, Settings
from bot.supervisor import Patience, Supervisor
from bot.up import children, is_ready
from online_learning.bench.tiny import texts_of, tiny_causal, tiny_encoder
from online_learning.evaluate import Question, load_questions
from online_learning.simulate.processes import START_TIMEOUT_S, free_port

TIRELESS = Patience(first_delay_s=0.05, max_delay_s=0.2, give_up_after=1_000_000)
"""Restarts at once and for ever: what is measured is the product, not the pause before the next start."""
UNLIMITED = {
    f"limits.{name}_per_min": "1000000" for name in ("messages", "address_messages", "feedback", "conversations")
} | {"limits.address_sockets": "4000"}


@contextmanager
def throw_away(settings: Settings, *, tiny: bool) -> Iterator[Settings]:
    """The settings in an empty home of a demo; with `tiny`, models of random weights."""
    with tempfile.TemporaryDirectory(prefix="rejoinder-bench-") as folder:
        home = Path(folder) / "home"
        learn = settings.learn if settings.profile == "demo" else replace(settings.learn, **PROFILES["demo"]["learn"])
        settings = replace(settings, home=home, profile="demo", learn=learn, port=free_port(), host="127.0.0.1")
        if tiny:
            texts = texts_of(load_domain(settings.domain))
            encoder, causal = tiny_encoder(home / "tiny-encoder", texts), tiny_causal(home / "tiny-causal", texts)
            settings = replace(settings, model=str(encoder), causal_model=str(causal))
        yield settings


@contextmanager
def supervised(
    settings: Settings, options: Mapping[str, str], *, learn: bool = True, patience: Patience = TIRELESS
) -> Iterator[Supervisor]:
    """Server (ready when this begins) and learner on `settings.home`; stopped at the end."""
    models = {"model": settings.model, "causal_model": settings.causal_model, "model_cache": str(settings.model_cache)}
    given = ["--home", str(settings.home), "--domain", settings.domain, "--profile", "demo"]
    given += [
        part for key, value in (models | UNLIMITED | dict(options)).items() for part in ("--set", f"{key}={value}")
    ]
    supervisor = Supervisor(children(settings, given, learn=learn), settings.home / "logs", lambda _: None, patience)
    asked: list[int] = []
    thread = threading.Thread(target=supervisor.run, args=(asked,), name="supervisor")
    thread.start()
    try:
        wait_until_ready(settings)
        yield supervisor
    finally:
        asked.append(15)
        thread.join()


def wait_until_ready(settings: Settings, timeout_s: float = START_TIMEOUT_S) -> None:
    """Raises RejoinderError when the server does not get ready."""
    deadline = time.monotonic() + timeout_s
    while not is_ready(settings):
        if time.monotonic() > deadline:
            raise RejoinderError(f"expected a ready server within {timeout_s:.0f} s; see {settings.home / 'logs'}")
        time.sleep(0.05)


def options_of(args: argparse.Namespace) -> dict[str, str]:
    """The settings given by `--set`, for the child processes."""
    return dict(pair.split("=", 1) for pair in args.set or [])


def questions_of(args: argparse.Namespace, domain: Domain) -> list[Question]:
    """Of `--dataset`, or the domain's own example questions."""
    if args.dataset is not None:
        return load_questions(args.dataset, list(domain.articles))
    return [Question(text, article.id) for article in domain.articles.values() for text in article.questions]


def percentiles(
    values: Sequence[float], scale: float = 1.0, shares: Sequence[int] = (50, 95)
) -> dict[str, float | None]:
    """`{"p50": ..., "p95": ...}` times `scale`; None without values."""
    found = np.percentile(values, shares) * scale if values else [None] * len(shares)
    return {
        f"p{share}": None if value is None else round(float(value), 2)
        for share, value in zip(shares, found, strict=True)
    }


def median_percentiles(rounds: Sequence[Sequence[float]]) -> dict[str, float | None]:
    """Of seconds, in ms: the median over the rounds of each one's `p50` and `p95`. Rounds without any do not count."""
    each = [percentiles(values, 1000) for values in rounds if values]
    return {
        name: round(float(np.median([found[name] or 0.0 for found in each])), 2) if each else None
        for name in ("p50", "p95")
    }

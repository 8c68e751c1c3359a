"""`rejoinder rules check|backtest|apply|log|schema`: the same functions that the studio page uses, for the shell."""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from tqdm import tqdm

from bot.domain import Domain, load_domain
from bot.errors import ConfigError
from bot.feedback.backtest import backtest, read_history
from bot.feedback.backtest_report import Exposure, Report, Shift, Summary
from bot.feedback.rules import Rules, json_schema, load_rules, parse_rules, read_rules
from bot.feedback.rules_checks import unknown_words
from bot.feedback.scorers import Scorers
from bot.feedback.settle import apply_rules, only_settler, put_in_force, rules_in_force
from bot.feedback.store import Past, Store
from bot.settings import Settings


def main(settings: Settings, args: argparse.Namespace) -> int:
    """The exit code of the command. Raises ConfigError, RulesError, StoreError."""
    commands = {"check": check, "backtest": try_on_history, "apply": apply, "log": show_log, "schema": show_schema}
    return commands[args.rules_command](settings, args)


def check(settings: Settings, args: argparse.Namespace) -> int:
    """The file's first mistake; or its hash, and what it names that is not there: articles, slots, scorers."""
    domain = load_domain(settings.domain)
    path, rules = _given(domain, args)
    with Scorers(rules) as scorers:
        warnings = [*unknown_words(rules, domain.articles, domain.slots), *scorers.try_out()]
    if args.json:
        found = {"ok": True, "file": str(path), "version": rules.version, "rules_hash": rules.rules_hash}
        print(json.dumps(found | {"warnings": warnings}))
        return 0
    print(f"{path}: version {rules.version}, hash {rules.rules_hash}: all well")
    for warning in warnings:
        print(f"{path}: {warning}", file=sys.stderr)
    return 0


def show_schema(_settings: Settings, _args: argparse.Namespace) -> int:
    """The JSON Schema, for editors."""
    print(json_schema(), end="")
    return 0


def try_on_history(settings: Settings, args: argparse.Namespace) -> int:
    """What the file would have given, beside what is in force. Ctrl-C ends it early, with the report so far."""
    domain = load_domain(settings.domain)
    (path, rules), file_rules = _given(domain, args), load_rules(domain.rewards_path)
    started = time.perf_counter()
    with (
        Store(_database(settings), readonly=True) as store,
        _interruptible() as interrupted,
        tqdm(total=store.counts()["decisions"], unit="decision", file=sys.stderr, disable=None) as bar,
    ):
        seen = _until(interrupted, read_history(store), bar)
        report = backtest(seen, rules, rules_in_force(store, file_rules))
    seconds, is_complete = time.perf_counter() - started, not interrupted.is_set()
    if args.json:
        print(json.dumps({"file": str(path), "complete": is_complete, "seconds": round(seconds, 3)} | report.as_json()))
    else:
        print("\n".join(lines_of(report)))
        print(f"{'' if is_complete else 'interrupted; the report is of what was read: '}{seconds:.1f} s")
    return 0 if is_complete else 130


def apply(settings: Settings, args: argparse.Namespace) -> int:
    """Put the file in force: a new rules version, and every reward computed anew."""
    if not args.file or not (args.author or "").strip() or not (args.reason or "").strip():
        raise ConfigError("rules apply: expected FILE, --author and --reason")
    file_rules, text = _file_rules(settings), read_rules(Path(args.file))
    parse_rules(text, args.file)
    with Store(_database(settings)) as store, only_settler(store) as is_ours:
        now = time.time()
        if is_ours:
            print("computing the rewards anew", file=sys.stderr)
        version = put_in_force(store, text, file_rules, author=args.author, reason=args.reason, now=now)
        revisions = apply_rules(store, file_rules, now, settings.learn.settle_s) if is_ours else None
    if args.json:
        said = {"version": version.number, "rules_hash": version.rules_hash, "revisions": revisions}
        print(json.dumps(said))
    else:
        became = (
            "the learner, at work on them now, computes the rewards anew"
            if revisions is None
            else f"{revisions} rewards changed"
        )
        print(f"rules version {version.number}, hash {version.rules_hash}: in force; {became}")
    return 0


def show_log(settings: Settings, args: argparse.Namespace) -> int:
    """The versions that were applied, and which rules are in force."""
    with Store(_database(settings), readonly=True) as store:
        versions, used = store.rules_versions(), rules_in_force(store, _file_rules(settings))
    if args.json:
        fields = ("number", "at", "author", "reason", "rules_hash")
        rows = [{name: getattr(version, name) for name in fields} for version in versions]
        print(json.dumps({"in_force": used.rules_hash, "versions": rows}))
        return 0
    for version in versions:
        at = datetime.fromtimestamp(version.at).astimezone().isoformat(" ", "seconds")
        print(f"{version.number}  {at}  {version.author}: {version.reason}  hash {version.rules_hash}")
    print(f"in force: hash {used.rules_hash}")
    return 0


# --- where things are -------------------------------------------------------------------------------------------------
def _given(domain: Domain, args: argparse.Namespace) -> tuple[Path, Rules]:
    """The file and its rules. Scorers are looked for in the domain, wherever the file lies: it may be a draft."""
    path = Path(args.file) if args.file else domain.rewards_path
    return path, parse_rules(read_rules(path), str(path), domain.folder)


def _file_rules(settings: Settings) -> Rules:
    return load_rules(load_domain(settings.domain).rewards_path)


def _database(settings: Settings) -> Path:
    if not settings.database.is_file():
        raise ConfigError(f"--home: expected a home that has been used, got {settings.home} without a database")
    return settings.database


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, in place of an exception in the middle of a conversation."""
    interrupted = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _until(interrupted: threading.Event, pasts: Iterable[Past], bar: tqdm[None]) -> Iterator[Past]:
    for past in pasts:
        if interrupted.is_set():
            return
        yield past
        bar.update(len(past.steps))


# --- in words ---------------------------------------------------------------------------------------------------------
def lines_of(report: Report) -> list[str]:
    """The report for a terminal, new rules beside those in force."""
    after, before, diff = report.after, report.before, report.diff
    counted = f"{report.num_decisions} decisions in {report.num_conversations} conversations"
    changes = {
        "raised": diff.num_raised,
        "lowered": diff.num_lowered,
        "newly rated": diff.num_newly_rated,
        "no longer rated": diff.num_no_longer_rated,
        "sign flipped": diff.num_sign_flipped,
    }
    return [
        f"{counted}; rules {report.rules_hash}, in force {report.before_hash}",
        f"{'':34}{'new':>18}{'in force':>18}",
        *(_row(name, new, old) for (name, new), (_, old) in zip(_rows(after), _rows(before), strict=True)),
        f"changed {diff.num_changed}: " + ", ".join(f"{name} {count}" for name, count in changes.items()),
        *_shifts("gains most", report.gained),
        *_shifts("loses most", report.lost),
        *(_row(f"{s.name} ({s.num_decisions})", _shown(s.mean_after), _shown(s.mean_before)) for s in report.segments),
        *(f"{name:34}{sums['terms']:>9.0f} terms, mean {sums['mean']:+.3f}" for name, sums in after.rules.items()),
        *(f"gave nothing {count} times: {failure}" for failure, count in report.failures.items()),
    ]


def _row(name: str, new: str, old: str) -> str:
    return f"{name:34}{new:>18}{old:>18}"


def _rows(summary: Summary) -> list[tuple[str, str]]:
    spread = summary.distribution
    low, high = summary.auc_ci
    return [
        ("rated decisions", f"{summary.num_rated} ({summary.coverage:.1%})"),
        ("mean reward (sd)", f"{_shown(spread.mean)} ({_shown(spread.std)})"),
        ("quartiles", " ".join(_shown(spread.quantiles[name]) for name in ("p25", "p50", "p75"))),
        ("clipped", f"{summary.clipped:.1%}"),
        (f"AUC with success (n {summary.auc_n})", f"{_shown(summary.auc)} [{_shown(low)} {_shown(high)}]"),
        ("rank correlation with length", _shown(summary.length_correlation)),
        *(row for act, exposure in summary.acts.items() for row in _exposed(act, exposure)),
    ]


def _exposed(act: str, exposure: Exposure) -> list[tuple[str, str]]:
    return [
        (f"{act}: share, among the best", f"{exposure.rate:.1%}, {exposure.rate_among_best:.1%}"),
        (f"{act}: mean reward, others'", f"{_shown(exposure.mean_reward)}, {_shown(exposure.mean_reward_others)}"),
    ]


def _shifts(what: str, shifts: Sequence[Shift]) -> list[str]:
    return [f"{what}: {shift.conversation_id} {shift.before:+.2f} -> {shift.after:+.2f}" for shift in shifts[:3]]


def _shown(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"

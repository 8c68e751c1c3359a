"""`rejoinder bench ladder`: every algorithm and every peer on the same streams under the same gate; who wins where.

    rejoinder bench ladder --kb K --online F --eval E --noise mild --rate 1 --thumbs 1000 --seeds 3 --json

Finished seeds are shared with `bench learn`, so a ladder that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from bot.settings import Settings
from online_learning.bench.learn import measure
from online_learning.config import RECIPES

_UNTRAINED = ("retriever", "cases", "bandit", "probe")


def main(settings: Settings, args: argparse.Namespace) -> int:
    """Measure one recipe after another; prints the rungs, best accuracy first."""
    reports = {}
    for name in RECIPES:
        args.algorithm = name
        reports[name] = measure(settings, args)
        print(f"{name}: {reports[name]['accuracy']:.1%}", file=sys.stderr)
    rungs = sorted((*_trained(reports), *_peers(next(iter(reports.values())))), key=lambda rung: -rung["accuracy"])
    report = {"setting": next(iter(reports.values()))["setting"], "rungs": rungs, "winner": _winner(rungs)}
    print(json.dumps(report) if args.json else _table(report))
    return 0


def _trained(reports: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    kept = ("accuracy", "accuracy_served", "ci", "by_seed", "refused_by_gate", "updates", "thumbs_per_second")
    return [{"name": name} | {key: report[key] for key in kept} for name, report in reports.items()]


def _peers(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    known = {name: report["peers"][name] for name in _UNTRAINED}
    return [{"name": name, "accuracy": value} for name, value in known.items() if value is not None]


def _winner(rungs: Sequence[Mapping[str, Any]]) -> str:
    """The best that hears thumbs only; the probe is told labels."""
    return next(str(rung["name"]) for rung in rungs if rung["name"] != "probe")


def _table(report: Mapping[str, Any]) -> str:
    lines = [report["setting"]]
    for rung in report["rungs"]:
        served = f", served {rung['accuracy_served']:.1%}" if "accuracy_served" in rung else ""
        lines.append(f"{rung['name']:>11}  {rung['accuracy']:.1%}{served}")
    return "\n".join(lines)

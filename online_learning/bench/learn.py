"""`rejoinder bench learn`: how much is learned from how many thumbs, beside peers on the same stream.

    rejoinder bench learn --kb K --online F --eval E --noise mild --rate 1 --thumbs 2000 --seeds 3 --json

The real policy, store, rules, learner and gate; no HTTP. Who asks what is a setting (`scenario`). A seed that is finished
is kept under HOME/bench-learn and not run again. Writes curve.csv and curve.png there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bot.domain import load_domain
from bot.errors import ConfigError
from bot.feedback.rules import load_rules
from bot.feedback.store import Store
from bot.settings import Settings
from online_learning.bench import drift, scope, second, verdicts, wording
from online_learning.bench.cells import Cell, checkpoints, interval, mean, peer_mean
from online_learning.bench.curve import write_curve
from online_learning.bench.peers import Bandit, Cases, Peer, PeerOutcome, Retriever, judge, probe, run_peer
from online_learning.bench.scenario import (
    Marks,
    Material,
    Plan,
    Scenario,
    label,
    plain,
    rated_alone,
    warm_started,
)
from online_learning.bench.stream import Outcome, Point, Stream, bench_settings
from online_learning.config import LearnerConfig
from online_learning.evaluate import load_questions, with_knowledge
from online_learning.process import config_of

CHECKPOINTS = (250, 500, 1000, 1500, 2000, 3000, 4000, 5000, 7500, 10000)
"""Thumbs (turns, where the plan ends by turns) after which the policy is evaluated."""
CELL_FORMAT = 3
"""Of what is kept of a finished seed; cells of another are not read."""
LAST_TURNS = 500
"""`satisfaction`: share of right replies among the last so many that were served."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A setting: how its scenario is made, and what it reports of the finished cells."""

    scenario: Callable[[Material, Plan], Scenario]
    figures: Callable[[Sequence[Cell]], dict[str, Any]] = lambda _: {}


KINDS: Mapping[str, Kind] = {
    "plain": Kind(plain),
    "drift": Kind(drift.scenario, drift.figures),
    "scope": Kind(scope.scenario, scope.figures),
    "second": Kind(second.scenario, second.figures),
    "wording": Kind(wording.scenario, wording.figures),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything that decides a cell's result, beside the seed."""

    kind: str
    material: Material
    noise: str
    rate: float
    num_turns: int
    num_thumbs: int
    asked: float
    config: LearnerConfig
    served: str
    """The settings of policy and learning, as text."""

    def plan(self, seed: int) -> Plan:
        """The stream of one seed."""
        return Plan(self.noise, self.rate, self.num_turns, self.num_thumbs, seed, self.asked)

    def scenario(self, plan: Plan) -> Scenario:
        """Who asks what. Raises ConfigError when there are too few rows."""
        return warm_started(KINDS[self.kind].scenario(self.material, plan), self.material.warm)

    @property
    def name(self) -> str:
        """As people read it."""
        warm = f", {len(self.material.warm)} labels" if self.material.warm else ""
        asked = f", asked {self.asked:g}" if self.asked else ""
        kind = f", {self.kind}" if self.kind != "plain" else ""
        return f"{self.noise}, rate {self.rate:g}{asked}{kind}{warm}"

    @property
    def digest(self) -> str:
        """Names the cell: the same files, rules, recipe and stream give the same name."""
        files = self.material
        plan = [self.kind, self.noise, self.rate, self.num_turns, self.num_thumbs, self.asked]
        articles = files.domain.articles.values()
        texts = [[article.id, *article.texts] for article in articles] + [repr(files.domain.triggers)]
        rows = [[[q.text, q.answer] for q in group] for group in (files.questions, files.judged, files.warm)]
        rules_hash = load_rules(files.domain.rewards_path).rules_hash
        said = [CELL_FORMAT, repr(asdict(self.config)), self.served, rules_hash, plan, texts, rows, list(files.outside)]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def main(settings: Settings, args: argparse.Namespace) -> int:
    """Run every seed that is not finished; prints one JSON object."""
    report = measure(settings, args)
    print(json.dumps(report) if args.json else _summary(report))
    return 0


def measure(settings: Settings, args: argparse.Namespace) -> dict[str, Any]:
    """The report over all seeds of one recipe; writes its curve."""
    setting = _setting(settings, args)
    root = settings.home / "bench-learn" / setting.digest
    first = settings.seed or 0
    cells = [_cell(settings, setting, seed, root) for seed in range(first, first + args.seeds)]
    write_curve(root, cells)
    return _report(setting, cells) | {"curve": str(root / "curve.csv")}


def _setting(settings: Settings, args: argparse.Namespace) -> Setting:
    if not args.rate and not (args.asked and settings.learn.ask_share):
        raise ConfigError("bench learn: expected --rate above 0, or --asked R, got --rate 0 and nobody who is asked")
    material = _material(settings, args)
    num_turns, num_thumbs = _length(args, len(material.questions))
    config = config_of(replace(settings, learn=replace(settings.learn, algorithm=args.algorithm)))
    served = repr((settings.policy, settings.learn))
    return Setting(args.setting, material, args.noise, args.rate, num_turns, num_thumbs, args.asked, config, served)


def _material(settings: Settings, args: argparse.Namespace) -> Material:
    online = args.online or args.dataset
    if online is None or args.eval is None:
        raise ConfigError("bench learn: expected --online F.jsonl and --eval F.jsonl, got one of them or none")
    if (args.setting == "scope") is not bool(args.oos):
        raise ConfigError(f"bench learn: expected --oos F with --setting scope only, got --setting {args.setting}")
    domain = with_knowledge(load_domain(settings.domain), args.kb)
    asked, judged, warm = (
        load_questions(path, list(domain.articles)) if path else [] for path in (online, args.eval, args.warmstart)
    )
    return Material(domain, asked, judged, warm, scope.load_outside(args.oos))


def _length(args: argparse.Namespace, num_rows: int) -> tuple[int, int]:
    """(turns, thumbs) at most. Raises ConfigError when there are too few rows: none is asked twice."""
    needed = args.turns or (args.thumbs if args.rate == 1 else 0) or num_rows
    if needed > num_rows:
        raise ConfigError(f"{args.online or args.dataset}: expected {needed} rows or more, got {num_rows}")
    return needed, args.thumbs or needed


# --- one seed ---------------------------------------------------------------------------------------------------------
def _cell(settings: Settings, setting: Setting, seed: int, root: Path) -> dict[str, Any]:
    """The finished record of a seed, from disk when there is one."""
    kept = root / f"seed-{seed}.json"
    if kept.is_file():
        record: dict[str, Any] = json.loads(kept.read_text())
        return record
    home = root / f"home-{seed}"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    record = _run(bench_settings(settings, home, seed), setting, seed)
    kept.with_suffix(".part").write_text(json.dumps(record))
    kept.with_suffix(".part").rename(kept)
    shutil.rmtree(home)
    return record


def _run(settings: Settings, setting: Setting, seed: int) -> dict[str, Any]:
    """Play the scenario, and its control in a home of its own."""
    plan = setting.plan(seed)
    scenario = setting.scenario(plan)
    record, stream = _played(settings, setting, scenario, plan)
    if scenario.control is not None:
        aside = replace(settings, home=settings.home / "control")
        aside.home.mkdir()
        record["control"], _ = _played(aside, setting, scenario.control, plan)
    groups = {"groups": list(scenario.groups), "seed": seed}
    # Who is asked depends on what the policy believes: then peers hear thumbs on the same questions.
    heard = rated_alone(scenario, record["rated"]) if plan.asked else scenario
    return record | groups | _kept_peers(stream, setting, heard, plan, settings.home.parent.parent)


def _played(settings: Settings, setting: Setting, scenario: Scenario, plan: Plan) -> tuple[dict[str, Any], Stream]:
    with (
        Store(settings.database) as store,
        tqdm(total=plan.num_turns, desc=f"seed {plan.seed}", unit="turn", file=sys.stderr, disable=None) as bar,
    ):

        def progress(num_turns: int, num_thumbs: int) -> None:
            bar.update(num_turns - bar.n)
            bar.set_postfix(thumbs=num_thumbs)

        stream = Stream(settings, store, scenario, plan, setting.config)
        return _record(scenario, stream.run(CHECKPOINTS, progress)), stream


def _record(scenario: Scenario, outcome: Outcome) -> dict[str, Any]:
    last = [point for point in outcome.points if point.phase == len(scenario.phases) - 1]
    heard = [point for point in outcome.points if not scenario.phases[point.phase].told]
    first = next(point for point in heard if scenario.phases[point.phase].domain is scenario.domain)
    warm = [point for point in outcome.points if scenario.phases[0].told and point.phase == 1]
    return {
        "curve": [_on_curve(point) for point in heard],
        "start": float(outcome.points[0].marks["right"].mean()),
        "warm": float(warm[0].marks["right"].mean()) if warm else None,
        "right_start": first.marks["right"].tolist(),
        "marks": {"before": _listed(last[0].marks), "after": _listed(last[-1].marks)},
        "turns": len(outcome.rights),
        "thumbs": outcome.num_thumbs,
        "rated": sorted(outcome.rated),
        "satisfaction": float(np.mean(outcome.rights[-LAST_TURNS:])),
        "besides": dict(outcome.num_besides),
        "updates": len(outcome.updates),
        "refused": outcome.updates.count("refused"),
        "verdicts": [verdicts.recorded(judged) for judged in outcome.verdicts],
        "learner_s": outcome.learner_s,
        "total_s": outcome.total_s,
    }


def _on_curve(point: Point) -> dict[str, float]:
    means = {name: float(point.marks[mark].mean()) for name, mark in _ON_CURVE.items()}
    return {"turns": point.num_turns, "thumbs": point.num_thumbs, **means}


_ON_CURVE = {"accuracy": "right", "accuracy_served": "served"}


def _listed(marks: Marks) -> dict[str, list[float]]:
    return {name: values.round(6).tolist() for name, values in marks.items()}


def _kept_peers(stream: Stream, setting: Setting, scenario: Scenario, plan: Plan, root: Path) -> dict[str, Any]:
    """Peers know no recipe: what they reached on a stream is kept for all recipes, unless the recipe decides what is
    rated."""
    owner = setting if plan.asked else replace(setting, config=LearnerConfig())
    kept = root / f"peers-{owner.digest}-{plan.seed}.json"
    if not kept.is_file():
        kept.write_text(json.dumps(_peers(stream, scenario, plan)))
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def _peers(stream: Stream, scenario: Scenario, plan: Plan) -> dict[str, Any]:
    seen = stream.embeddings
    pairs = zip(seen.views, scenario.phases, strict=True)
    labelled = [(views[question.text], label(question)) for views, phase in pairs for question in phase.questions]
    last = len(scenario.phases) - 1
    start = judge(Retriever(), seen, scenario, last)
    peers: dict[str, Peer] = {"cases": Cases()}
    try:
        peers["bandit"] = Bandit(len(seen.acts))
    except ImportError:
        print("bench learn: no bandit without mabwiser: pip install 'rejoinder[bench]'", file=sys.stderr)
    found = {"retriever": PeerOutcome(start, start)}
    found |= {name: run_peer(peer, seen, scenario, plan) for name, peer in peers.items()}
    found["probe"] = PeerOutcome(start, judge(probe(labelled, seen), seen, scenario, last))
    marks = {name: {"before": _listed(o.before), "after": _listed(o.after)} for name, o in found.items()}
    accuracies: dict[str, float | None] = {"bandit": None}
    return {"peers": accuracies | {name: o.accuracy for name, o in found.items()}, "peer_marks": marks}


# --- all seeds --------------------------------------------------------------------------------------------------------
def _report(setting: Setting, cells: Sequence[Cell]) -> dict[str, Any]:
    ends = [cell["curve"][-1] for cell in cells]
    names = cells[0]["peers"]
    report = {
        "setting": setting.name,
        "algorithm": setting.config.algorithm,
        "layers": setting.config.layers,
        "thumbs": round(float(np.mean([cell["thumbs"] for cell in cells]))),
        "turns": round(float(np.mean([cell["turns"] for cell in cells]))),
        "start": mean([cell["start"] for cell in cells]),
        "accuracy": mean([end["accuracy"] for end in ends]),
        "accuracy_served": mean([end["accuracy_served"] for end in ends]),
        "ci": interval([end["accuracy"] for end in ends], cells[0]["marks"]["after"]["right"]),
        "satisfaction": mean([cell["satisfaction"] for cell in cells]),
        "seeds": len(cells),
        "by_seed": [round(end["accuracy"], 4) for end in ends],
        "updates": sum(cell["updates"] for cell in cells),
        "refused_by_gate": sum(cell["refused"] for cell in cells),
        **verdicts.figures(cells),
        "peers": {name: peer_mean([cell["peers"][name] for cell in cells]) for name in names},
        "thumbs_per_second": round(sum(c["thumbs"] for c in cells) / sum(c["learner_s"] for c in cells), 1),
        "checkpoints": checkpoints([cell["curve"] for cell in cells]),
    }
    if cells[0]["warm"] is not None:
        report |= {"warm": mean([cell["warm"] for cell in cells]), "warm_labels": len(setting.material.warm)}
    return report | KINDS[setting.kind].figures(cells)


def _summary(report: Mapping[str, Any]) -> str:
    peers = ", ".join(f"{name} {value:.1%}" for name, value in report["peers"].items() if value is not None)
    low, high = report["ci"]
    return (
        f"{report['setting']}: {report['thumbs']} thumbs; {report['start']:.1%} -> {report['accuracy']:.1%} "
        f"[{low:.1%}, {high:.1%}], served {report['accuracy_served']:.1%}; {peers}; curve in {report['curve']}"
    )

"""`rejoinder bench learn`: how much is learned from how many thumbs, beside peers on the same stream.

    rejoinder bench learn --kb K --online F --eval E --noise mild --rate 1 --thumbs 2000 --seeds 3 --json

The real policy, store, rules, learner and gate; no HTTP. Legal acts are answers to the top candidates. A seed that is
finished is kept under HOME/bench-learn and not run again. Writes curve.csv and curve.png there.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bot.domain import Domain, load_domain
from bot.errors import ConfigError
from bot.feedback.store import Store
from bot.settings import Settings
from online_learning.bench.peers import Bandit, Cases, Retriever, accuracy, probe_accuracy, run_peer
from online_learning.bench.stream import Outcome, Plan, Stream, bench_settings
from online_learning.config import DEEP, RECIPES, LearnerConfig
from online_learning.evaluate import Question, load_questions, with_knowledge
from online_learning.simulate.users import turns
from online_learning.statistics import mean_interval, seeded

CHECKPOINTS = (250, 500, 1000, 1500, 2000, 3000, 4000, 5000, 7500, 10000)
"""Thumbs after which the policy is evaluated."""
LAST_TURNS = 500
"""`satisfaction`: share of right replies among the last so many that were served."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything that decides a cell's result, beside the seed."""

    domain: Domain
    questions: Sequence[Question]
    judged: Sequence[Question]
    noise: str
    rate: float
    num_turns: int
    num_thumbs: int
    config: LearnerConfig
    served: str
    """The settings of policy and learning, as text."""

    def plan(self, seed: int) -> Plan:
        """The stream of one seed."""
        return Plan(self.noise, self.rate, self.num_turns, self.num_thumbs, seed)

    @property
    def digest(self) -> str:
        """Names the cell: the same files, recipe and stream give the same name."""
        said = [repr(asdict(self.config)), self.served, self.noise, self.rate, self.num_turns, self.num_thumbs]
        texts = [[article.id, *article.texts] for article in self.domain.articles.values()]
        rows = [[q.text, q.answer] for q in (*self.questions, *self.judged)]
        return hashlib.sha256(json.dumps([said, texts, rows]).encode()).hexdigest()[:16]


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
    _write_curve(root, cells)
    return _report(setting, cells) | {"curve": str(root / "curve.csv")}


def _setting(settings: Settings, args: argparse.Namespace) -> Setting:
    online = args.online or args.dataset
    if online is None or args.eval is None:
        raise ConfigError("bench learn: expected --online F.jsonl and --eval F.jsonl, got one of them or none")
    domain = with_knowledge(load_domain(settings.domain), args.kb)
    questions = load_questions(online, list(domain.articles))
    num_turns = args.turns or len(questions)
    num_thumbs = args.thumbs or num_turns
    if max(num_turns, num_thumbs if args.rate == 1 else 0) > len(questions):
        raise ConfigError(f"{online}: expected {max(num_turns, num_thumbs)} rows or more, got {len(questions)}")
    config = RECIPES[args.algorithm]
    if settings.learn.layers == "all":
        config = replace(DEEP, algorithm=config.algorithm, loss=config.loss)
    judged = load_questions(args.eval, list(domain.articles))
    served = repr((settings.policy, settings.learn))
    return Setting(domain, questions, judged, args.noise, args.rate, num_turns, num_thumbs, config, served)


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
    plan = setting.plan(seed)
    with (
        Store(settings.database) as store,
        tqdm(total=plan.num_turns, desc=f"seed {seed}", unit="turn", file=sys.stderr, disable=None) as bar,
    ):
        stream = Stream(settings, setting.domain, store, setting.questions, setting.judged, setting.config)

        def progress(num_turns: int, num_thumbs: int) -> None:
            bar.update(num_turns - bar.n)
            bar.set_postfix(thumbs=num_thumbs)

        outcome = stream.run(plan, CHECKPOINTS, progress)
        record = _record(outcome) | {"seed": seed}
        return record | {"peers": _kept_peers(stream, setting, plan, settings.home.parent.parent)}


def _record(outcome: Outcome) -> dict[str, Any]:
    last = outcome.points[-1].scores
    return {
        "curve": [
            {
                "turns": point.num_turns,
                "thumbs": point.num_thumbs,
                "accuracy": float(point.scores.right.mean()),
                "accuracy_served": float(point.scores.served.mean()),
            }
            for point in outcome.points
        ],
        "right": last.right.astype(int).tolist(),
        "turns": len(outcome.rights),
        "thumbs": outcome.num_thumbs,
        "satisfaction": float(np.mean(outcome.rights[-LAST_TURNS:])),
        "updates": len(outcome.updates),
        "refused": outcome.updates.count("refused"),
        "learner_s": outcome.learner_s,
        "total_s": outcome.total_s,
    }


def _kept_peers(stream: Stream, setting: Setting, plan: Plan, root: Path) -> dict[str, float | None]:
    """Peers know no recipe: what they reached on a stream is kept for all recipes."""
    kept = root / f"peers-{replace(setting, config=LearnerConfig()).digest}-{plan.seed}.json"
    if not kept.is_file():
        kept.write_text(json.dumps(_peers(stream, setting, plan)))
    found: dict[str, float | None] = json.loads(kept.read_text())
    return found


def _peers(stream: Stream, setting: Setting, plan: Plan) -> dict[str, float | None]:
    seen, questions, judged = stream.embeddings, setting.questions, setting.judged
    asked = [turn.question for turn in turns(questions, plan.num_turns, plan.rate, plan.seed)]
    found: dict[str, float | None] = {
        "retriever": accuracy(Retriever(seen), seen, judged),
        "cases": run_peer(Cases(seen), seen, plan, questions, judged),
        "probe": probe_accuracy(seen, asked, judged),
    }
    try:
        found["bandit"] = run_peer(Bandit(seen), seen, plan, questions, judged)
    except ImportError:
        print("bench learn: no bandit without mabwiser: pip install 'rejoinder[bench]'", file=sys.stderr)
        found["bandit"] = None
    return found


# --- all seeds --------------------------------------------------------------------------------------------------------
def _report(setting: Setting, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    ends = [cell["curve"][-1] for cell in cells]
    names = cells[0]["peers"]
    return {
        "setting": f"{setting.noise}, rate {setting.rate:g}",
        "algorithm": setting.config.algorithm,
        "layers": setting.config.layers,
        "thumbs": round(_mean([cell["thumbs"] for cell in cells])),
        "turns": round(_mean([cell["turns"] for cell in cells])),
        "start": round(_mean([cell["curve"][0]["accuracy"] for cell in cells]), 4),
        "accuracy": round(_mean([end["accuracy"] for end in ends]), 4),
        "accuracy_served": round(_mean([end["accuracy_served"] for end in ends]), 4),
        "ci": _interval(cells),
        "satisfaction": round(_mean([cell["satisfaction"] for cell in cells]), 4),
        "seeds": len(cells),
        "by_seed": [round(end["accuracy"], 4) for end in ends],
        "updates": sum(cell["updates"] for cell in cells),
        "refused_by_gate": sum(cell["refused"] for cell in cells),
        "peers": {name: _peer_mean([cell["peers"][name] for cell in cells]) for name in names},
        "thumbs_per_second": round(sum(c["thumbs"] for c in cells) / sum(c["learner_s"] for c in cells), 1),
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _peer_mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(_mean(known), 4) if len(known) == len(values) else None


def _interval(cells: Sequence[Mapping[str, Any]]) -> list[float]:
    """95 %: over the seeds by Student's t; with one seed over questions by bootstrap."""
    if len(cells) == 1:
        found = mean_interval(np.array(cells[0]["right"], dtype=np.float64), seeded(0, "bench learn"))
        return [round(found.lo, 4), round(found.hi, 4)]
    ends = np.array([cell["curve"][-1]["accuracy"] for cell in cells])
    half = _T_95[min(len(ends) - 1, len(_T_95)) - 1] * ends.std(ddof=1) / np.sqrt(len(ends))
    return [round(float(ends.mean() - half), 4), round(float(ends.mean() + half), 4)]


_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom."""


def _write_curve(root: Path, cells: Sequence[Mapping[str, Any]]) -> None:
    """Every seed's points as CSV, and their mean as a picture."""
    with (root / "curve.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["seed", "turns", "thumbs", "accuracy", "accuracy_served"])
        writer.writeheader()
        writer.writerows({"seed": cell["seed"], **point} for cell in cells for point in cell["curve"])
    _draw(root / "curve.png", cells)


def _draw(path: Path, cells: Sequence[Mapping[str, Any]]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    for name, colour in (("accuracy", "tab:blue"), ("accuracy_served", "tab:orange")):
        for cell in cells:
            xs, ys = zip(*((point["thumbs"], point[name]) for point in cell["curve"]), strict=True)
            axes.plot(xs, ys, color=colour, alpha=0.7, label=name if cell is cells[0] else None)
    for name, style in (("retriever", ":"), ("cases", "--"), ("bandit", "-."), ("probe", "-")):
        value = _peer_mean([cell["peers"].get(name) for cell in cells])
        if value is not None:
            axes.axhline(value, color="grey", linestyle=style, linewidth=1, label=f"{name} at the end")
    axes.set(xlabel="thumbs", ylabel="share of right answers", title="Learning from thumbs, one line a seed")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _summary(report: Mapping[str, Any]) -> str:
    peers = ", ".join(f"{name} {value:.1%}" for name, value in report["peers"].items() if value is not None)
    low, high = report["ci"]
    return (
        f"{report['setting']}: {report['thumbs']} thumbs; {report['start']:.1%} -> {report['accuracy']:.1%} "
        f"[{low:.1%}, {high:.1%}], served {report['accuracy_served']:.1%}; {peers}; curve in {report['curve']}"
    )

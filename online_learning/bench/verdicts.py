"""The gate's verdicts beside the truth: how often a refused candidate was worse, and an accepted one significantly so.

The gate knows held-out thumbs alone; candidates are judged here by labels, on questions that nobody asks. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from online_learning.bench.cells import Cell
from online_learning.statistics import Floats, holm, paired_difference, probability_not_below, seeded


@dataclass(frozen=True, slots=True)
class Judged:
    """One verdict, and on the same questions which were answered rightly (1 or 0) by champion and candidate."""

    num_turns: int
    num_thumbs: int
    reasons: tuple[str, ...]
    """Empty: the gate let it through."""
    champion: Floats
    candidate: Floats


def recorded(judged: Judged) -> dict[str, Any]:
    """As a finished cell keeps it; `diff_ci` is the paired bootstrap's 95 % over questions."""
    found = paired_difference(judged.candidate, judged.champion, seeded(0, "verdicts"), num_resamples=1000)
    return {
        "turns": judged.num_turns,
        "thumbs": judged.num_thumbs,
        "reason": "; ".join(judged.reasons),
        "champion": round(float(judged.champion.mean()), 4),
        "candidate": round(float(judged.candidate.mean()), 4),
        "diff": round(found.mean, 4),
        "diff_ci": [round(found.lo, 4), round(found.hi, 4)],
    }


def figures(cells: Sequence[Cell]) -> dict[str, Any]:
    """All refusals; how many were right (a candidate worse than its champion); accepted ones significantly worse."""
    named = [{"seed": cell["seed"], **verdict} for cell in cells for verdict in cell["verdicts"]]
    refusals = [verdict for verdict in named if verdict["reason"]]
    return {
        "refusals": refusals,
        "refused_rightly": sum(verdict["diff"] < 0 for verdict in refusals),
        "accepted_wrongly": sum(_is_worse(verdict) for verdict in named if not verdict["reason"]),
        "ended_below_start": ended_below_start(cells),
    }


def _is_worse(verdict: Mapping[str, Any]) -> bool:
    return bool(verdict["diff_ci"][1] < 0)


def ended_below_start(cells: Sequence[Cell]) -> int:
    """Runs that ended significantly below their start: paired bootstrap over questions, Holm's correction over runs."""
    return sum(holm([_p_not_below(cell) for cell in cells]))


def _p_not_below(cell: Cell) -> float:
    return probability_not_below(cell["marks"]["after"]["right"], cell["right_start"], seeded(0, "ended below start"))

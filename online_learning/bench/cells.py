"""Finished cells (one seed of one setting, as kept on disk) and the figures that settings make of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from online_learning.statistics import Floats, Ints, mean_interval, paired_difference, seeded

Cell = Mapping[str, Any]
"""`marks` {before, after} -> name -> one number a judged question; `peer_marks` the same by peer; `groups`; `right_start`:
the mark `right` when the articles of the end were first judged; `verdicts`: see `online_learning.bench.verdicts`."""
_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom."""


def mean(values: Sequence[float]) -> float:
    """Rounded to four digits."""
    return round(float(np.mean(values)), 4)


def interval(ends: Sequence[float], last: Sequence[float]) -> list[float]:
    """95 %: over the seeds' `ends` by Student's t; with one seed over its questions `last` by bootstrap."""
    if len(ends) == 1:
        found = mean_interval(np.array(last, dtype=np.float64), seeded(0, "bench learn"))
        return [round(found.lo, 4), round(found.hi, 4)]
    half = _T_95[min(len(ends) - 1, len(_T_95)) - 1] * np.std(ends, ddof=1) / np.sqrt(len(ends))
    return [round(float(np.mean(ends) - half), 4), round(float(np.mean(ends) + half), 4)]


def peer_mean(values: Sequence[float | None]) -> float | None:
    """None where a peer was missing in any cell."""
    known = [value for value in values if value is not None]
    return mean(known) if len(known) == len(values) else None


def checkpoints(curves: Sequence[Sequence[Mapping[str, float]]]) -> list[dict[str, Any]]:
    """The curves' mean, point by point where all seeds have one, with the interval over the seeds."""
    found = []
    for points in zip(*curves, strict=False):
        means = {name: mean([point[name] for point in points]) for name in ("accuracy", "accuracy_served")}
        counts = {name: round(float(np.mean([point[name] for point in points]))) for name in ("turns", "thumbs")}
        ends = [point["accuracy"] for point in points]
        found.append({**counts, **means} | ({"ci": interval(ends, ())} if len(ends) > 1 else {}))
    return found


def by_group(cells: Sequence[Cell], mark: str, group: str, edge: str, *, peer: str = "") -> float:
    """Mean over the seeds of a mark's mean over a group of judged questions."""
    return mean([float(_marks(cell, mark, group, edge, peer).mean()) for cell in cells])


def change(cells: Sequence[Cell], mark: str, group: str) -> list[float]:
    """95 % interval of after - before over a group; seeds are pooled, a question's draws stay together."""
    after, before = (np.concatenate([_marks(c, mark, group, edge) for c in cells]) for edge in ("after", "before"))
    questions = np.concatenate([_members(cell, group) for cell in cells])
    found = paired_difference(after, before, seeded(0, "bench learn"), questions)
    return [round(found.lo, 4), round(found.hi, 4)]


def _members(cell: Cell, group: str) -> Ints:
    return np.array([i for i, name in enumerate(cell["groups"]) if name == group])


def _marks(cell: Cell, mark: str, group: str, edge: str, peer: str = "") -> Floats:
    marks = cell["peer_marks"][peer] if peer else cell["marks"]
    found: Floats = np.array(marks[edge][mark], dtype=np.float64)[_members(cell, group)]
    return found

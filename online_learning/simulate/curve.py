"""The learning curve as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

WINDOW = 100
"""Turns in the moving average."""


def draw_curve(path: Path, served: Sequence[tuple[str, bool]], report: Mapping[str, Any]) -> None:
    """Right replies served (moving average over WINDOW turns) and each evaluated version, over turns."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    right = np.array([is_right for _, is_right in served], dtype=float)
    first_turn: dict[str, int] = {}
    for turn, (version, _) in enumerate(served):
        first_turn.setdefault(version, turn)
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    if len(right) >= WINDOW:
        average = np.convolve(right, np.ones(WINDOW) / WINDOW, "valid")
        axes.plot(np.arange(WINDOW, len(right) + 1), average, color="#8aa", label=f"served, mean of {WINDOW} turns")
    points = [(first_turn.get(p["version"], len(right)), p["accuracy"]) for p in report["curve"]]
    axes.plot(*zip(*points, strict=True), "o-", color="#264", label=f"version on {report['eval_n']} held-out questions")
    axes.set(xlabel="turns", ylabel="right answers", title=f"{report['noise']} thumbs, rate {report['rate']:g}")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
    plt.close(figure)

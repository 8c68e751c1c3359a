"""Learning curves of finished cells, as CSV and as a picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from online_learning.bench.cells import Cell, checkpoints, peer_mean


def write_curve(root: Path, cells: Sequence[Cell]) -> None:
    """Every seed's points in `curve.csv`, and their mean with a 95 % band over seeds in `curve.png`."""
    with (root / "curve.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["seed", "turns", "thumbs", "accuracy", "accuracy_served"])
        writer.writeheader()
        writer.writerows({"seed": cell["seed"], **point} for cell in cells for point in cell["curve"])
    _draw(root / "curve.png", cells)


def _draw(path: Path, cells: Sequence[Cell]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    points = checkpoints([cell["curve"] for cell in cells])
    x = "thumbs" if cells[0]["thumbs"] == cells[0]["turns"] else "turns"
    counts = [point[x] for point in points]
    for name, colour in (("accuracy", "tab:blue"), ("accuracy_served", "tab:orange")):
        axes.plot(counts, [point[name] for point in points], color=colour, label=name)
    if len(cells) > 1:
        low, high = zip(*(point["ci"] for point in points), strict=True)
        axes.fill_between(counts, low, high, color="tab:blue", alpha=0.15, label="95 % over seeds")
    for name, style in (("retriever", ":"), ("cases", "--"), ("bandit", "-."), ("probe", "-")):
        value = peer_mean([cell["peers"].get(name) for cell in cells])
        if value is not None:
            axes.axhline(value, color="grey", linestyle=style, linewidth=1, label=f"{name} at the end")
    axes.set(xlabel=x, ylabel="share of right answers", title=f"Learning from thumbs, mean of {len(cells)} seeds")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)

"""What the studio plots: each measure's title, unit and one-line meaning. docs/metrics.md says more of each.

Words only; the figures come from `/v1/learner`, the drawing is the page's script.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """How a measure is called and read."""

    title: str
    unit: str
    """Empty: a number without one."""
    meaning: str
    """One line that ends in a full stop."""


METRICS: Mapping[str, Metric] = {
    "success": Metric("Success", "%", "Share of the conversations a version spoke in that were reported solved."),
    "thumbs": Metric("Thumbs", "votes", "Votes in force on the replies that each version made."),
    "reward": Metric("Reward", "−1 to 1", "Mean of what the reward rules made of the signals: above zero is good."),
    "thumbs_over_time": Metric("Thumbs over time", "votes", "Votes in force, by the time of the reply they are about."),
    "kl_champion": Metric("Step", "nats", "KL to the version before: how far each update moved. The gate caps it."),
    "kl_start": Metric("Distance to the start", "nats", "KL to the fresh install: grows over a life."),
    "entropy": Metric("Entropy", "nats", "How undecided the policy is between the acts it may take."),
    "ess": Metric("Effective sample size", "0 to 1", "Share of the rows that really speak. Low: few speak for all."),
    "clip_fraction": Metric(
        "Clipped", "%", "Rows whose probability moved further than one step may. High: steps too large."
    ),
    "staleness": Metric("Staleness", "versions", "How many versions ago the rows of an update were made, in the mean."),
}
"""Name -> how it is shown; the names of the learner's own metrics are those of docs/metrics.md."""

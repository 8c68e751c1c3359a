"""TensorBoard logs of the learner; the same figures stand in the store's `updates` rows for the studio page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """What the store can hold: None in place of infinities and NaN."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


class MetricsLog:
    """Scalars by update number under `folder`. The writer is opened on first use: it is heavy to import."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def write(self, number: int, metrics: Mapping[str, Any]) -> None:
        """Log every number among the metrics."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder))
        for name, value in metrics.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(f"update/{name}", value, number)
        self._writer.flush()

    def close(self) -> None:
        """Flush and close."""
        if self._writer is not None:
            self._writer.close()

"""How the operator's pages listen to Gradio events."""

from __future__ import annotations

from typing import Any

DIRECT: dict[str, Any] = {
    "api_visibility": "private",
    # Gradio's queue answers over one stream a tab and closes it when it looks idle. A question asked in that moment is
    # never answered (9 of 30 with gradio 6.31 and two events 50 ms apart). Without the queue each answer is its own.
    "queue": False,
    # Gradio drops a question asked while the same handler is busy, unless the last one counts.
    "trigger_mode": "always_last",
    "show_progress": "hidden",
}
"""Options of every listener on the operator's pages."""

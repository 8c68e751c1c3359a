"""The inbox's benchmark: a store filled in bulk is one that a server could have filled, and every request is answered."""

from __future__ import annotations

from pathlib import Path

from bot.domain import load_domain
from bot.feedback.desk_records import InboxQuery
from bot.feedback.store import Store
from bot.settings import Settings
from online_learning.bench.inbox import RARE, fill, run


def test_a_filled_inbox_reads_as_one_that_was_used(tmp_path: Path) -> None:
    """Of 40 conversations 8 are rated, 3 of those down; 4 wait for a person; 2 have a score; one holds the rare word."""
    fill(tmp_path / "rejoinder.db", load_domain("bank"), 40)
    with Store(tmp_path / "rejoinder.db") as store:
        shown = {
            name: len(store.desk.inbox(InboxQuery(**wanted), 2e9).rows)
            for name, wanted in {
                "all": {},
                "up": {"thumb": "up"},
                "down": {"thumb": "down"},
                "waiting": {"view": "waiting"},
                "rare": {"text": RARE},
            }.items()
        }
        row = store.desk.line("c_00000000", 2e9)
    # Down where the number is divisible by 5 and by 3: 0, 15, 30. Waiting where 7919 n = 7 (mod 10): n = 3 (mod 10).
    assert shown == {"all": 40, "up": 5, "down": 3, "waiting": 4, "rare": 1}
    assert (row.num_messages, row.csat, row.versions) == (6, 1, ("v000000",))


async def test_every_request_of_the_benchmark_is_answered(tmp_path: Path) -> None:
    """The report names the slowest and what it was asked for."""
    report = await run(Settings(tmp_path), tmp_path, 20, 1)
    assert (report["conversations"], report["messages"]) == (20, 120)
    assert report["slowest_ms"] == max(found["p95"] for found in report["requests_ms"].values())
    assert {"open", "rare word", "a page far back", "facets"} <= set(report["requests_ms"])

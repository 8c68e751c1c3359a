"""`python -m bot.feedback.backtest_worker`: a backtest for the studio page, beside the server (`bot.jobs`).

Task: `database`, `rewards` (the domain's own rules file) and `text` (the rules to try). The result is the report of
`rejoinder rules backtest --json`, with `complete: false` when it was stopped early.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bot.feedback.backtest import backtest, read_history
from bot.feedback.rules import load_rules, parse_rules
from bot.feedback.settle import rules_in_force
from bot.feedback.store import Store
from bot.worker import Progress, work


def try_on_history(task: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """What the rules would have given, beside what is in force. Raises RulesError, StoreError."""
    file_rules = load_rules(Path(task["rewards"]))
    rules = parse_rules(task["text"], "rewards.yml", Path(task["rewards"]).parent)
    with Store(Path(task["database"]), readonly=True) as store:
        total = store.counts()["decisions"]
        progress.tell(0, total)
        seen = progress.through(read_history(store), total, lambda past: len(past.steps))
        report = backtest(seen, rules, rules_in_force(store, file_rules))
    return {"complete": not progress.stopped.is_set()} | report.as_json()


if __name__ == "__main__":
    sys.exit(work(try_on_history))

"""A backtest of 100,000 decisions on a real store, with the time it takes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from bot import cli
from bot.feedback.store import Store
from tests.history_rig import fill

LIMIT_S = 30.0
RULES = """\
version: 2
rules: {outcome: {solved: 1, not_solved: -1}, csat: {worst: -0.5, best: 0.5}, handover: {value: -0.2}}
rewards:
  service:
    rules:
      - {name: thumb, when: {signal: thumb}, reward: 0.5 * value, applies_to: {last: 2}, decay: 0.5}
      - {name: sure, when: {signal: thumb, value: -1, expression: probability > 0.5}, reward: -0.2, cap: {user: 0.4}}
  style: {weight: 0.2, rules: {name: brevity, when: {act: answer, expression: num_words > 12}, reward: -0.5}}
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_backtest_of_a_hundred_thousand_decisions_takes_under_thirty_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Format 2 with formulas, texts and caps, beside the bank's rules. Processor time is held to the limit: what else the
    machine does is not ours; both are printed."""
    with Store(tmp_path / "rejoinder.db") as store:
        fill(store, 100_000)
    (tmp_path / "rules.yml").write_text(RULES)
    started, worked = time.perf_counter(), time.process_time()
    assert cli.main(["rules", "backtest", str(tmp_path / "rules.yml"), "--home", str(tmp_path), "--json"]) == 0
    seconds, processor_s = time.perf_counter() - started, time.process_time() - worked
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    print(
        f"{report['num_decisions']} decisions, {report['after']['num_rated']} rated: {seconds:.1f} s, {processor_s:.1f} s of it at work"
    )
    assert report["num_decisions"] == 100_000
    assert processor_s < LIMIT_S

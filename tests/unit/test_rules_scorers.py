"""A developer's scorers: real processes, real failures, and what they leave standing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bot.conversation import Signal
from bot.feedback.measures import Facts
from bot.feedback.rewards import Earned, earn
from bot.feedback.rules import Rules, parse_rules
from bot.feedback.scorers import MAX_FAILURES, ScorerError, ScorerOff, Scorers
from tests.builders import make_decision, make_signal

MODULE = """
import os, sys, time

def politeness(reply):
    print("not an answer")
    return 1.0 if "sorry" in reply["reply"] else 0.25

def echo(reply):
    return len(reply["query"]) + 10 * (reply["correction"] is None) + 100 * (reply["approved"] == "yes")

def slow(reply):
    time.sleep(60)

def dies(reply):
    os._exit(3)

def raises(reply):
    raise KeyError("no such\\nkey")

def word(reply):
    return "good"

def endless(reply):
    return float("nan")

def floods(reply):
    return [0] * 100000

def environment(reply):
    return float(len([name for name in os.environ if name not in ("PATH", "LANG", "LC_CTYPE")]))

def once(reply):
    mark = os.path.join(os.path.dirname(__file__), "failed_once")
    if not os.path.exists(mark):
        open(mark, "w").close()
        os._exit(1)
    return 0.5
"""


def rules_with(function: str, folder: Path, timeout_s: float = 10.0, module: str = "own_scorers") -> Rules:
    """A thumb's rule, and a rule on the scorer `mine`."""
    folder.mkdir(exist_ok=True)
    (folder / "own_scorers.py").write_text(MODULE)
    text = f"""\
version: 2
rules: {{thumb: {{up: 0.5, down: -0.5}}, outcome: {{solved: 1, not_solved: -1}}}}
rewards: {{own: {{rules: {{name: mine, reward: 0.2 * mine}}}}}}
scorers: {{mine: {{entry: "{module}:{function}", timeout_s: {timeout_s}}}}}
"""
    return parse_rules(text, folder=folder)


def score(rules: Rules, **reply: object) -> float:
    with Scorers(rules) as scorers:
        return scorers.score("mine", {"reply": "sorry", "query": "hi", "correction": None, "approved": ""} | reply)


def test_a_scorer_beside_the_rules_file_is_asked(tmp_path: Path) -> None:
    """What it prints is not taken for its answer."""
    rules = rules_with("politeness", tmp_path)
    with Scorers(rules) as scorers:
        assert [scorers.score("mine", {"reply": text}) for text in ("so sorry", "no")] == [1.0, 0.25]


def test_a_scorer_sees_question_approved_text_and_correction(tmp_path: Path) -> None:
    """Three letters of query, no correction, the approved text: 3 + 10 + 100."""
    assert score(rules_with("echo", tmp_path), query="hey", approved="yes") == 113


def test_a_scorer_that_is_installed_is_found_by_its_module() -> None:
    """As an entry point names it; `operator.length_hint` of the mapping it is given is its number of keys."""
    rules = parse_rules("version: 2\nscorers: {mine: {entry: 'operator:length_hint', timeout_s: 10}}\n")
    assert score(rules) == 4


@pytest.mark.parametrize(
    ("function", "module", "message"),
    [
        ("slow", "own_scorers", "expected an answer within 0.2 s, got none"),
        ("dies", "own_scorers", "expected an answer, got the end of its process"),
        ("raises", "own_scorers", "expected a number, got KeyError: 'no such"),
        ("word", "own_scorers", "expected a finite number, got 'good'"),
        ("endless", "own_scorers", "expected a finite number, got nan"),
        ("floods", "own_scorers", "expected a short answer"),
        ("absent", "own_scorers", "expected a number, got AttributeError"),
        ("politeness", "no_module", "expected a number, got ModuleNotFoundError"),
    ],
)
def test_a_scorer_that_fails_is_one_clear_line(tmp_path: Path, function: str, module: str, message: str) -> None:
    """It names the scorer and its entry."""
    timeout_s = 0.2 if function == "slow" else 10.0
    with pytest.raises(ScorerError) as caught:
        score(rules_with(function, tmp_path, timeout_s, module))
    assert str(caught.value).startswith(f"scorer mine ({module}:{function}): ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def earned(rules: Rules, scorers: Scorers) -> Earned:
    """A thumb up on a reply that was shown."""
    thumb: Signal = make_signal(seq=1)
    return earn([make_decision()], [thumb], rules, Facts(replies={"d1": "so sorry"}, scorers=scorers))


def test_the_rewards_of_other_rules_survive_a_scorer_that_dies(tmp_path: Path) -> None:
    """0.5 for the thumb, and a line; with a scorer that works 0.7."""
    rules = rules_with("dies", tmp_path / "a")
    with Scorers(rules) as scorers:
        found = earned(rules, scorers)
    assert [credit.value for credit in found.credits] == [0.5]
    assert [line.split(": ")[0] for line in found.failures] == ["own/mine"]
    works = rules_with("politeness", tmp_path / "b")
    with Scorers(works) as scorers:
        assert [credit.value for credit in earned(works, scorers).credits] == [0.7]


def test_scorers_can_be_tried_out_before_they_are_needed(tmp_path: Path) -> None:
    """One that does not exist is one line; one that does is none."""
    with Scorers(rules_with("politeness", tmp_path)) as scorers:
        assert scorers.try_out() == []
    with Scorers(rules_with("absent", tmp_path)) as scorers:
        [line] = scorers.try_out()
    assert "own_scorers:absent" in line


def test_a_scorer_that_failed_is_started_again(tmp_path: Path) -> None:
    """It dies once; the second call gets its number."""
    rules = rules_with("once", tmp_path)
    with Scorers(rules) as scorers:
        with pytest.raises(ScorerError):
            scorers.score("mine", {"reply": ""})
        assert scorers.score("mine", {"reply": ""}) == 0.5


def test_a_scorer_that_always_fails_is_left_alone(tmp_path: Path) -> None:
    """After so many failures in a row it is not started any more, and no line is said again."""
    rules = rules_with("dies", tmp_path)
    with Scorers(rules) as scorers:
        for _ in range(MAX_FAILURES):
            assert earned(rules, scorers).failures
        assert earned(rules, scorers).failures == ()
        with pytest.raises(ScorerOff):
            scorers.score("mine", {"reply": ""})


def test_a_scorer_gets_none_of_our_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and tokens are not for it."""
    monkeypatch.setenv("REJOINDER_SECRET", "key")
    assert score(rules_with("environment", tmp_path)) == 0


def test_no_process_is_left_behind(tmp_path: Path) -> None:
    """Closing ends the child, also one in the middle of a call."""
    rules = rules_with("politeness", tmp_path)
    with Scorers(rules) as scorers:
        scorers.score("mine", {"reply": ""})
        pid = scorers._children["mine"]._process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)

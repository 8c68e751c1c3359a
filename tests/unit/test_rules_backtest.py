"""The backtest: its statistics by hand, its report on conversations small enough to count, and the command."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bot import cli
from bot.conversation import Signal, SignalKind
from bot.feedback.backtest import backtest, read_history
from bot.feedback.backtest_report import Report, auc, auc_interval, distribution, ranks, spearman
from bot.feedback.rules import Rules, parse_rules
from bot.feedback.settle import settle
from bot.feedback.store import Past, Store
from bot.feedback.store_rules import PastStep
from tests.builders import make_conversation, make_decision, make_generated, make_message, make_signal
from tests.history_rig import fill

NAN = math.nan
V1 = "version: 1\nrules:\n  thumb: {up: 0.5, down: -0.5}\n  outcome: {solved: 1, not_solved: -1}\n"
RULES = parse_rules(V1)
HALVED = parse_rules(V1.replace("up: 0.5", "up: 0.25"))
OUTCOME_ONLY = parse_rules("version: 1\nrules: {outcome: {solved: 1, not_solved: -1}}\n")


def past(name: str, *votes: float, solved: float | None = None, acts: tuple[str, ...] = (), **overrides: Any) -> Past:
    """A conversation of one reply a vote (0: nobody said anything), and perhaps an outcome."""
    chat = make_conversation(**{"id": name, "person_id": f"p_{name}"} | overrides)
    steps = [
        PastStep(f"{name}d{i}", name, chat.person_id, i, float(i), "q", act, -0.5, "v000000")
        for i, act in enumerate(acts or ("answer:a",) * len(votes))
    ]
    said: list[Signal] = [
        make_signal(
            key=f"{i}", conversation_id=name, decision_id=steps[i].id, value=vote, author=chat.person_id, seq=i + 1
        )
        for i, vote in enumerate(votes)
        if vote
    ]
    if solved is not None:
        kind = {"kind": SignalKind.OUTCOME, "decision_id": "", "value": solved, "created_at": 99.0, "seq": 50}
        said.append(make_signal(key="o", conversation_id=name, author=chat.person_id, **kind))
    replies = {step.id: " ".join(["word"] * (i + 1)) for i, step in enumerate(steps)}
    return Past(chat, tuple(steps), tuple(said), replies)


def report_of(*pasts: Past, rules: Rules = RULES, before: Rules = RULES) -> Report:
    return backtest(iter(pasts), rules, before)


# --- statistics ---------------------------------------------------------------------------------------------------------
def test_ties_share_their_ranks() -> None:
    """1 | 2.5 2.5 | 4."""
    assert ranks(np.array([3.0, 7.0, 7.0, 9.0])).tolist() == [1.0, 2.5, 2.5, 4.0]


def test_the_area_counts_pairs_in_order() -> None:
    """Solved at 0.5 and 0, unsolved at 0 and -1: 3.5 of 4 pairs in order (one tie is half). NaN on either side is left out."""
    scores, labels = np.array([0.5, 0.0, 0.0, -1.0, 9.0, NAN]), np.array([1.0, 1.0, 0.0, 0.0, NAN, 0.0])
    assert auc(scores, labels) == (0.875, 2, 2)
    assert math.isnan(auc(scores[:2], labels[:2])[0])


def test_the_areas_interval_is_hanley_and_mcneils() -> None:
    """Area 0.75, 10 and 10: q1 = 0.6, q2 = 9/14; variance = (0.1875 + 9 x 0.0375 + 9 x 0.080357) / 100 = 0.012482."""
    low, high = auc_interval(0.75, 10, 10)
    assert (low, high) == pytest.approx(
        (0.75 - 1.96 * math.sqrt(0.01248214), 0.75 + 1.96 * math.sqrt(0.01248214)), abs=1e-5
    )


def test_rank_correlation_is_of_order_alone() -> None:
    """1 for anything that rises, -1 for what falls, NaN for what stays."""
    rising = np.array([1.0, 2.0, 30.0, NAN])
    assert spearman(rising, np.array([5.0, 6.0, 7.0, 8.0])) == pytest.approx(1)
    assert spearman(rising, np.array([5.0, 4.0, -7.0, 8.0])) == pytest.approx(-1)
    assert math.isnan(spearman(rising, np.ones(4)))


def test_a_distribution_counts_all_and_nothing() -> None:
    """-1 and 1 are in the outermost of 20 bins; of nothing all is NaN."""
    found = distribution(np.array([-1.0, 0.0, 1.0]))
    assert (found.mean, found.histogram[0], found.histogram[10], found.histogram[19]) == (0.0, 1, 1, 1)
    assert math.isnan(distribution(np.array([])).quantiles["p50"])


# --- the report ---------------------------------------------------------------------------------------------------------
def test_coverage_counts_decisions_and_conversations() -> None:
    """Two of five decisions in one of two conversations."""
    report = report_of(past("a", 1, 0, -1), past("b", 0, 0))
    assert (report.num_decisions, report.after.num_rated, report.after.coverage) == (5, 2, 0.4)
    assert report.after.num_conversations_rated == 1


def test_a_reward_does_not_agree_with_success_by_containing_it() -> None:
    """Up where it failed, down where it was solved: 0 by what people pressed, 1 with the outcome's own pay in it."""
    pasts = [past("a", -1, solved=1), past("b", 1, solved=0)]
    assert report_of(*pasts).after.auc == 0.0
    weighty = parse_rules(V1.replace("up: 0.5, down: -0.5", "up: 0.1, down: -0.1"))
    found = report_of(*pasts, rules=weighty).after
    assert (found.auc, found.auc_with_outcome, found.auc_n) == (0.0, 1.0, 2)
    assert math.isnan(report_of(*pasts, rules=OUTCOME_ONLY).after.auc)


def test_the_diff_says_what_is_raised_lowered_new_and_gone() -> None:
    """Halved praise lowers two of three; without thumbs all three are unrated; the other way round they are new."""
    pasts = [past("a", 1, 1, -1)]
    halved = report_of(*pasts, rules=HALVED).diff
    assert (halved.num_changed, halved.num_lowered, halved.num_raised, halved.mean_change) == (
        2,
        2,
        0,
        pytest.approx(-0.5 / 3),
    )
    assert report_of(*pasts, rules=OUTCOME_ONLY).diff.num_no_longer_rated == 3
    assert report_of(*pasts, before=OUTCOME_ONLY).diff.num_newly_rated == 3
    assert report_of(*pasts).diff.num_changed == 0


def test_the_conversations_that_gain_and_lose_most_are_named() -> None:
    """a loses 0.5, b 0.25, c nothing; the other way round they gain."""
    pasts = [past("b", 1), past("a", 1, 1), past("c", -1)]
    lost = report_of(*pasts, rules=HALVED).lost
    assert [(shift.conversation_id, shift.before, shift.after) for shift in lost] == [("a", 1.0, 0.5), ("b", 0.5, 0.25)]
    gained = report_of(*pasts, before=HALVED)
    assert ([shift.conversation_id for shift in gained.gained], gained.lost) == (["a", "b"], ())


def test_a_reward_that_pays_for_handing_over_is_seen() -> None:
    """Hand-overs praised, answers not: means 0.5 and -0.5, all of the best tenth, a quarter of all."""
    acts = ("handoff", "answer:a", "answer:b", "clarify:a|b")
    found = report_of(past("a", 1, -1, -1, -1, acts=acts)).after.acts
    assert (found["handoff"].rate, found["handoff"].rate_among_best) == (0.25, 1.0)
    assert (found["handoff"].mean_reward, found["handoff"].mean_reward_others) == (0.5, -0.5)
    assert found["clarify"].rate_among_best == 0.0


def test_rewards_that_follow_length_are_seen() -> None:
    """Replies of 1, 2, 3 words with rewards that rise."""
    by_words = parse_rules(
        V1.replace("version: 1", "version: 2") + "rewards: {own: {rules: {name: long, reward: num_words / 10}}}\n"
    )
    report = report_of(past("a", 1, 1, 1), rules=by_words)
    assert (report.after.length_correlation, math.isnan(report.before.length_correlation)) == (pytest.approx(1), True)
    assert report.after.rules["own/long"] == {"terms": 3, "sum": pytest.approx(0.6), "mean": pytest.approx(0.2)}


def test_segments_show_who_feels_a_change() -> None:
    """Halved praise is felt by those who praise alone."""
    pasts = [past("a", 1), past("b", -1), past("c", 0, person_id="p_a"), past("d", 1, -1)]
    found = {s.name: s for s in report_of(*pasts, rules=HALVED).segments}
    assert (found["thumbs: only up"].mean_before, found["thumbs: only up"].mean_after) == (0.5, 0.25)
    assert found["thumbs: only down"].mean_after == -0.5
    assert {name: found[f"person: {name}"].num_conversations for name in ("came back", "first conversation")} == {
        "came back": 1,
        "first conversation": 3,
    }


def test_what_could_not_be_computed_is_counted() -> None:
    """Once for each thumb, under one line."""
    broken = parse_rules(
        V1.replace("version: 1", "version: 2")
        + "rewards: {own: {rules: {name: bad, when: {signal: thumb}, reward: 1 / (value - 1)}}}\n"
    )
    [(line, count)] = report_of(past("a", 1, 1), rules=broken).failures.items()
    assert (line.split(": ")[0], count) == ("own/bad", 2)


def test_a_backtest_of_nothing_is_a_report() -> None:
    """JSON has null where nothing is known."""
    found = report_of().as_json()
    assert (found["num_decisions"], found["after"]["auc"], found["after"]["coverage"]) == (0, None, 0.0)
    json.dumps(found, allow_nan=False)


# --- on a store ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with 200 decisions, settled under the bank's rules."""
    with Store(tmp_path / "rejoinder.db") as store:
        fill(store, 200)
    return tmp_path


def test_history_is_read_in_pages_and_whole(home: Path) -> None:
    """Pages of 7 give what one page gives, and each conversation has what the store has."""
    with Store(home / "rejoinder.db", readonly=True) as store:
        pasts = list(read_history(store, page=7))
        assert pasts == list(read_history(store, page=1000))
        assert [p.conversation.id for p in pasts] == [f"c{i:06d}" for i in range(50)]
        for found in pasts[:5]:
            name = found.conversation.id
            decisions = store.conversation_decisions(name)
            assert [(s.id, s.act, s.logprob, s.query) for s in found.steps] == [
                (d.id, d.act, d.logprob, d.query) for d in decisions
            ]
            assert list(found.signals) == store.signals(name)
            assert found.replies == {m.decision_id: m.text for m in store.messages(name)}


def test_history_knows_what_a_generated_reply_rests_on(tmp_path: Path) -> None:
    """Its sources; an approved answer rests on itself, a clarifying question on nothing."""
    with Store(tmp_path / "rejoinder.db") as store:
        store.add_conversation(make_conversation())
        for i, decision in enumerate(
            (
                make_decision(id="d1", generated=make_generated()),
                make_decision(id="d2", turn=2),
                make_decision(id="d3", turn=3, chosen=2),
            )
        ):
            store.add_reply(make_message(id=f"m{i}", role="bot", text=f"text {i}", decision_id=decision.id), decision)
        [found] = read_history(store)
    assert found.approved == {"d1": "Cards come in 5 days.", "d2": "text 1"}


def test_a_backtest_gives_what_settling_stores(home: Path) -> None:
    """Same rules, same signals: the same rewards, decision by decision."""
    with Store(home / "rejoinder.db") as store:
        settle(store, RULES, 1e9, 0.0)
        report = backtest(read_history(store), RULES, RULES)
        stored = [r for p in read_history(store) for r in store.rewards_of(p.conversation.id)]
    assert report.after.num_rated == len({reward.decision_id for reward in stored})
    total = sum(term["sum"] for term in report.after.rules.values())
    assert total == pytest.approx(sum(reward.value or 0.0 for reward in stored))


def says(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.main(argv)
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Rules with halved praise."""
    path = tmp_path / "halved.yml"
    path.write_text(V1.replace("up: 0.5", "up: 0.25"))
    return str(path)


def test_the_command_backtests_and_ends_with_one_json_object(
    home: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against the bank's rules; nothing is written."""
    code, out, _ = says(capsys, "rules", "backtest", file, "--home", str(home), "--json")
    report = json.loads(out.splitlines()[-1])
    assert (code, report["complete"], report["num_decisions"]) == (0, True, 200)
    assert report["diff"]["num_lowered"] > report["diff"]["num_raised"]
    with Store(home / "rejoinder.db") as store:
        assert store.counts()["rewards"] == 0


def test_the_command_says_it_in_words(home: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """New beside those in force."""
    code, out, _ = says(capsys, "rules", "backtest", file, "--home", str(home))
    assert code == 0
    assert out.startswith("200 decisions in 50 conversations; rules ")
    assert "AUC with success" in out


def test_an_interrupted_backtest_reports_what_was_read(
    home: Path, file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the third conversation is read: exit 130, `complete` false, and the handler is back in its place."""
    from bot.feedback import rules_command

    def interrupted(store: Store) -> Iterator[Past]:
        for i, found in enumerate(read_history(store)):
            if i == 2:
                signal.raise_signal(signal.SIGINT)
            yield found

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(rules_command, "read_history", interrupted)
    code, out, _ = says(capsys, "rules", "backtest", file, "--home", str(home), "--json")
    report = json.loads(out.splitlines()[-1])
    assert (code, report["complete"], report["num_conversations"]) == (130, False, 2)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_command_applies_rules_and_lists_them(home: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Rewards of the old rules get new revisions, the version its author and reason; the log shows both."""
    with Store(home / "rejoinder.db") as store:
        settle(store, RULES, 1e9, 0.0)
        before = store.counts()["rewards"]
    why = ("--author", "Ada", "--reason", "less praise")
    code, out, _ = says(capsys, "rules", "apply", file, *why, "--home", str(home), "--json")
    applied = json.loads(out.splitlines()[-1])
    assert (code, applied["version"]) == (0, 1)
    with Store(home / "rejoinder.db") as store:
        assert store.counts()["rewards"] == before + applied["revisions"] > before
    _, out, _ = says(capsys, "rules", "log", "--home", str(home), "--json")
    log = json.loads(out)
    assert (log["in_force"], log["versions"][0]["author"]) == (applied["rules_hash"], "Ada")
    assert "Ada: less praise" in says(capsys, "rules", "log", "--home", str(home))[1]


@pytest.mark.parametrize(("lock", "is_computed"), [("rewards.lock", False), ("learner.lock", True)])
def test_who_computes_rewards_is_not_disturbed_and_a_learner_is_not_waited_for(
    home: Path, file: str, capsys: pytest.CaptureFixture[str], lock: str, is_computed: bool
) -> None:
    """One process at a time computes them; a learner that does something else may go on doing it."""
    import fcntl

    with Store(home / "rejoinder.db") as store:
        settle(store, RULES, 1e9, 0.0)
        before = store.counts()["rewards"]
    with (home / lock).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        argv = ("rules", "apply", file, "--author", "Ada", "--reason", "why", "--home", str(home))
        code, out, _ = says(capsys, *argv)
    assert (code, "the learner, at work on them now" in out) == (0, not is_computed)
    with Store(home / "rejoinder.db") as store:
        assert (store.counts()["rewards"] > before, len(store.rules_versions())) == (is_computed, 1)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("apply",), "rules apply: expected FILE, --author and --reason"),
        (("apply", "FILE", "--author", "Ada"), "rules apply: expected FILE, --author and --reason"),
        (("apply", "nowhere.yml", "--author", "Ada", "--reason", "why"), "nowhere.yml:1:1: expected a rules file"),
        (("backtest", "nowhere.yml"), "nowhere.yml:1:1: expected a rules file"),
        (("backtest", "FILE", "--home", "EMPTY"), "--home: expected a home that has been used"),
        (("log", "--home", "EMPTY"), "--home: expected a home that has been used"),
    ],
)
def test_wrong_use_is_exit_2_and_one_line(
    home: Path, file: str, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], message: str
) -> None:
    """What was expected."""
    words = [{"FILE": file, "EMPTY": str(home / "empty")}.get(word, word) for word in argv]
    code, _, error = says(capsys, "rules", *words, *(() if "--home" in argv else ("--home", str(home))))
    assert (code, error.count("\n")) == (2, 1)
    assert message in error


def test_the_check_warns_of_articles_that_the_domain_does_not_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The condition would never hold, and nobody would see why."""
    rule = "{name: a, when: {signal: csat, article: [card_arival, 'card_*'], slot: nothing_like_it}, reward: 0.1}"
    path = tmp_path / "rules.yml"
    path.write_text(f"version: 2\nrewards: {{own: {{rules: {rule}}}}}\n")
    code, out, _ = says(capsys, "rules", "check", str(path), "--json")
    assert (code, json.loads(out)["warnings"]) == (
        0,
        [
            "own/a: no 'card_arival' in this domain (did you mean card_arrival?)",
            "own/a: no 'nothing_like_it' in this domain",
        ],
    )
    assert "did you mean card_arrival?" in says(capsys, "rules", "check", str(path))[2]


def test_the_command_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON, as an editor takes it."""
    code, out, _ = says(capsys, "rules", "schema")
    assert (code, json.loads(out)["title"]) == (0, "Rejoinder reward rules")

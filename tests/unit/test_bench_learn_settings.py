"""`bench learn`: what each setting asks, allows and counts; no model."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bot import cli
from bot.conversation import LegalAct, SignalKind
from bot.domain import Article, Domain, load_domain
from bot.errors import ConfigError
from online_learning.bench import cells, drift, scope, second, wording
from online_learning.bench.learn import KINDS
from online_learning.bench.scenario import (
    HANDOFF,
    OUT_OF_SCOPE,
    Material,
    Phase,
    Plan,
    answered,
    is_right,
    plain,
    rated_alone,
    right_and_served,
    warm_started,
)
from online_learning.evaluate import Question
from online_learning.offline import Outlook
from online_learning.simulate.users import NOISES, TURNS_PER_USER, Turn, turns
from tests.builders import make_decision
from tests.domain_folder import write_domain

NAMES = [f"card_{i}" if i < 5 else f"top_up_{i}" for i in range(10)]
QUESTIONS = [Question(f"{name} question {i} about my account", name) for name in NAMES for i in range(20)]
OUTSIDE = [f"what is the weather in town {i}" for i in range(80)]


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Domain:
    articles = {name: Article(name, name, "", (name,)) for name in NAMES}
    return replace(load_domain(str(write_domain(tmp_path_factory.mktemp("domain")))), articles=articles)


def material(domain: Domain, **overrides: Any) -> Material:
    fields: dict[str, Any] = {"domain": domain, "questions": QUESTIONS, "judged": QUESTIONS[::3]}
    return Material(**fields | overrides)


def plan(**overrides: Any) -> Plan:
    fields: dict[str, Any] = {"noise": "clean", "rate": 1.0, "num_turns": 100, "num_thumbs": 100, "seed": 0}
    return Plan(**fields | overrides)


def spoken(phase: Phase, rights: Any = lambda turn: True) -> list[Turn]:
    """All turns of a phase of which `rights` says whether the reply was right."""
    talk, found = phase.talk(), []
    block = next(talk, None)
    while block:
        found += block
        block = answered(talk, [rights(turn) for turn in block])
    return found


def cell(**overrides: Any) -> dict[str, Any]:
    """Two old questions, one new; one old one is lost, the new one gained."""
    marks = {"before": {"right": [1.0, 1.0, 0.0]}, "after": {"right": [1.0, 0.0, 1.0]}}
    return {"groups": ["old", "old", "new"], "marks": marks, "peer_marks": {"cases": marks}} | overrides


# --- what is common to all --------------------------------------------------------------------------------------------
def test_the_command_knows_the_settings_that_there_are() -> None:
    """The command line may not import the learner, so it has a list of its own."""
    assert set(cli.LEARN_SETTINGS) == set(KINDS)


def test_right_is_the_article_in_any_wording_and_out_of_scope_a_refusal() -> None:
    """Variants end in #n."""
    assert is_right("answer:a", Question("q", "a"))
    assert is_right("answer:a#1", Question("q", "a"))
    assert not is_right("answer:ab", Question("q", "a"))
    assert not is_right(HANDOFF, Question("q", "a"))
    assert is_right(HANDOFF, Question("q", ""))
    assert is_right(OUT_OF_SCOPE, Question("q", ""))
    assert not is_right("answer:a", Question("q", ""))


def test_served_is_the_sum_over_right_acts() -> None:
    """0.5 + 0.2 over both wordings; the mode is another article's."""
    outlook = Outlook(("answer:a", "answer:a#1", "answer:b"), tuple(np.log([0.25, 0.2, 0.55])))
    assert right_and_served(Question("q", "a"), outlook) == {"right": 0.0, "served": pytest.approx(0.45)}


def test_plain_people_are_those_of_the_simulation(domain: Domain) -> None:
    """Five turns a person, raters by person: one source of users for all commands."""
    phase = plain(material(domain), plan(rate=0.2)).phases[0]
    assert spoken(phase) == list(turns(QUESTIONS, 100, 0.2, 0))


def test_labels_come_before_the_stream_and_only_of_articles_that_are_there(domain: Domain) -> None:
    """In drift the articles that are yet to come teach nothing."""
    made = drift.scenario(material(domain), plan())
    warm = warm_started(made, QUESTIONS)
    told = warm.phases[0]
    assert told.told
    assert warm.phases[1:] == made.phases
    assert {question.answer for question in told.questions} == set(made.phases[0].domain.articles)
    assert [turn.question for turn in spoken(told)] == list(told.questions)
    assert warm_started(made, []) is made


def test_checkpoints_are_means_over_the_seeds_with_an_interval() -> None:
    """0.7 and 0.8: mean 0.75, half width 12.706 * 0.0707 / sqrt(2) = 0.6353; one seed alone has no interval."""
    curves = [[{"turns": 32, "thumbs": n, "accuracy": a, "accuracy_served": a}] for n, a in ((10, 0.7), (14, 0.8))]
    only = {"turns": 32, "thumbs": 12, "accuracy": 0.75, "accuracy_served": 0.75}
    assert cells.checkpoints(curves) == [only | {"ci": [0.1147, 1.3853]}]
    assert "ci" not in cells.checkpoints(curves[:1])[0]


def test_peers_hear_thumbs_on_the_same_turns_and_all_that_operators_say(domain: Domain) -> None:
    """Two turns of a hundred, which nobody else would have rated; people go on by the answers they got."""
    warm = warm_started(plain(material(domain), plan(rate=1.0)), QUESTIONS[:3])
    told, stream = rated_alone(warm, {7, 60}).phases
    assert told is warm.phases[0]
    heard = spoken(stream)
    assert [turn.number for turn in heard if turn.rates] == [7, 60]
    assert [replace(turn, rates=True) for turn in heard] == spoken(warm.phases[1])
    repeated = second.scenario(material(domain), plan()).phases[0]
    again = rated_alone(second.scenario(material(domain), plan()), set()).phases[0]
    is_right = lambda turn: turn.number % 3 > 0  # noqa: E731
    assert [t.question for t in spoken(again, is_right)] == [t.question for t in spoken(repeated, is_right)]


# --- drift ------------------------------------------------------------------------------------------------------------
def test_new_articles_are_neither_known_nor_asked_for_before_they_appear(domain: Domain) -> None:
    """Two of ten; 50 turns without them, then 20 of 50 about them."""
    made = drift.scenario(material(domain), plan())
    before, after = made.phases
    new = set(after.domain.articles) - set(before.domain.articles)
    assert len(new) == 2
    first, later = spoken(before), spoken(after)
    assert len(first) == len(later) == 50
    assert not new & {turn.question.answer for turn in first}
    assert sum(turn.question.answer in new for turn in later) == 20
    assert {q.answer for q, group in zip(made.judged, made.groups, strict=True) if group == "new"} == new
    assert made.judged_in(before) == [i for i, group in enumerate(made.groups) if group == "old"]


def test_turns_and_people_of_the_second_half_are_others(domain: Domain) -> None:
    """Decisions and conversations are named by them."""
    before, after = drift.scenario(material(domain), plan()).phases
    first, later = spoken(before), spoken(after)
    assert [turn.number for turn in (*first, *later)] == list(range(100))
    assert max(turn.user for turn in first) < min(turn.user for turn in later)
    assert not {turn.question for turn in first} & {turn.question for turn in later}


def test_which_articles_appear_depends_on_the_seed(domain: Domain) -> None:
    """And on nothing else."""
    found = [drift.scenario(material(domain), plan(seed=seed)).groups for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


def test_drift_with_too_few_rows_is_refused(domain: Domain) -> None:
    """Nothing is asked twice."""
    with pytest.raises(ConfigError, match="expected 70 more questions for old articles, got 50"):
        drift.scenario(material(domain), plan(num_turns=220))


def test_drift_reports_both_groups_before_and_after() -> None:
    """Old from 1 to 0.5, new from 0 to 1; two equal seeds change no mean."""
    found = drift.figures([cell(), cell()])
    assert (found["old_before"], found["old_after"], found["new_before"], found["new_after"]) == (1.0, 0.5, 0.0, 1.0)
    assert found["old_diff_ci"] == [-1.0, 0.0]
    assert found["peers_after"] == {"cases": {"new": 1.0, "old": 0.5}}


def test_seeds_do_not_make_a_question_count_twice() -> None:
    """The interval over one question is unknown however many seeds asked it."""
    assert cells.change([cell(), cell(), cell()], "right", "new") == [-np.inf, np.inf]


# --- scope ------------------------------------------------------------------------------------------------------------
def test_three_formats_of_questions_out_of_scope_are_read(tmp_path: Path) -> None:
    """JSONL rows, HINT3's CSV by its label, CLINC150's lists by their names; twice the same is once."""
    rows, hint3, clinc = (tmp_path / name for name in ("a.jsonl", "b.csv", "c.json"))
    rows.write_text('{"text": "one"}\n\n{"text": "two"}\n')
    hint3.write_text('sentence,label\n"three, or so",NO_NODES_DETECTED\nfour,ORDER\n')
    clinc.write_text(json.dumps({"oos_val": [["two", "oos"], ["five", "oos"]], "val": [["six", "transfer"]]}))
    assert scope.load_outside([rows, hint3, clinc]) == ["one", "two", "three, or so", "five"]


@pytest.mark.parametrize(("name", "text"), [("a.jsonl", "[1]\n"), ("b.csv", "x,y\n1,2\n"), ("c.json", "{}")])
def test_a_file_without_questions_is_refused_by_name(tmp_path: Path, name: str, text: str) -> None:
    """One line with the path."""
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=name):
        scope.load_outside([tmp_path / name])


def test_a_sixth_part_of_the_stream_is_out_of_scope_and_none_of_it_is_judged(domain: Domain) -> None:
    """15 of 100 turns; 67 judged questions of the domain and 12 others make 15 % as well."""
    made = scope.scenario(material(domain, outside=OUTSIDE), plan())
    asked = [turn.question for turn in spoken(made.phases[0])]
    assert Counter(question.answer == "" for question in asked) == {False: 85, True: 15}
    judged = [q for q, group in zip(made.judged, made.groups, strict=True) if group == "out"]
    assert len(judged) == 12
    assert all(not question.answer for question in judged)
    assert not {q.text for q in asked} & {q.text for q in judged}


def test_halves_of_the_rows_do_not_depend_on_their_order() -> None:
    """A row once looked at for a choice is never judged."""
    asked, judged = scope.split(OUTSIDE)
    assert sorted((*asked, *judged)) == sorted(OUTSIDE)
    assert scope.split(OUTSIDE[::-1]) == (asked, judged)


def test_refusing_is_legal_beside_answers_only(domain: Domain) -> None:
    """Neither greeting nor action."""
    made = scope.scenario(material(domain, outside=OUTSIDE), plan())
    acts = ["answer:a", "respond:utter_greet", OUT_OF_SCOPE, "run:action_book", HANDOFF]
    assert [act.act for act in made.legal([LegalAct(act) for act in acts])] == ["answer:a", OUT_OF_SCOPE, HANDOFF]


def test_scope_with_too_few_rows_is_refused(domain: Domain) -> None:
    """It takes twice as many: half of them are judged."""
    with pytest.raises(ConfigError, match="expected 30 out-of-scope rows or more, got 10"):
        scope.scenario(material(domain, outside=OUTSIDE[:10]), plan())


# --- second signals ---------------------------------------------------------------------------------------------------
def test_who_got_a_wrong_answer_asks_the_same_in_other_words(domain: Domain) -> None:
    """Every reply is wrong: five questions about one thing, no two neighbours alike."""
    talk = spoken(second.scenario(material(domain), plan()).phases[0], lambda turn: False)
    people = {user: [t.question for t in talk if t.user == user] for user in {turn.user for turn in talk}}
    assert all(len(said) == TURNS_PER_USER for said in people.values())
    assert all(len({question.answer for question in said}) == 1 for said in people.values())
    assert all(a.text != b.text for said in people.values() for a, b in pairwise(said))


def test_who_got_a_right_answer_goes_on_as_planned(domain: Domain) -> None:
    """The same turns as without the setting, person by person."""
    talk = spoken(second.scenario(material(domain), plan(num_turns=183)).phases[0])
    assert sorted(talk, key=lambda turn: turn.number) == list(turns(QUESTIONS, 183, 1.0, 0))
    assert [turn.user for turn in talk[:33]] == [*range(32), 0]


def test_a_repeated_question_and_an_outcome_are_told(domain: Domain) -> None:
    """The rephrase as the server would notice it, about the reply before; the outcome of every tenth conversation."""
    besides = second.scenario(material(domain), plan(num_turns=5000)).besides
    before = make_decision(id="d0", query="how do I change my pin")
    reply = make_decision(id="d1", query="how do I change my pin please")
    middle = Turn(1, 0, QUESTIONS[0], rates=False, uniform=0.5)
    said = besides(middle, reply, True, before)
    assert [(signal.kind, signal.decision_id) for signal in said] == [(SignalKind.REPHRASE, "d0")]
    assert besides(middle, make_decision(query="exchange rate of the euro"), True, before) == []
    last = [Turn(5 * user + 4, user, QUESTIONS[0], rates=False, uniform=0.5) for user in range(1000)]
    outcomes = [signal for turn in last for signal in besides(turn, reply, True, None)]
    assert {(signal.kind, signal.value, signal.source) for signal in outcomes} == {
        (SignalKind.OUTCOME, 1.0, "backoffice")
    }
    assert 70 <= len(outcomes) <= 130
    assert not any(besides(turn, reply, True, None) for turn in [middle] * 5)


def test_the_control_of_second_signals_hears_thumbs_only(domain: Domain) -> None:
    """The same people, nothing noted."""
    made = second.scenario(material(domain), plan())
    assert made.control is not None
    assert made.control.phases == made.phases
    assert made.control.besides(spoken(made.phases[0])[4], make_decision(), False, make_decision()) == []


# --- wording ----------------------------------------------------------------------------------------------------------
def test_every_answer_comes_in_two_wordings() -> None:
    """Two acts with a text of their own, the same prior; nothing else is legal."""
    first, other = wording.worded([LegalAct("answer:a", ("how",), 1.5), LegalAct(HANDOFF)])
    assert (first.act, other.act) == ("answer:a", "answer:a#1")
    assert first.texts[:-1] == other.texts[:-1] == ("how",)
    assert first.texts != other.texts
    assert first.prior_logit == other.prior_logit == 1.5


def test_only_one_group_minds_the_wording(domain: Domain) -> None:
    """`card` and `top`, `up` are equally frequent; whichever it is, its people punish the first wording, others do not."""
    made = wording.scenario(material(domain), plan())
    picky = next(q for q, group in zip(made.judged, made.groups, strict=True) if group == "picky")
    other = next(q for q, group in zip(made.judged, made.groups, strict=True) if group == "others")
    clean = NOISES["clean"]
    liked = [made.p_up(picky, f"answer:{picky.answer}{tail}", clean) for tail in ("", "#1")]
    assert liked == pytest.approx([0.65, 1.0])
    assert [made.p_up(other, f"answer:{other.answer}{tail}", clean) for tail in ("", "#1")] == [1.0, 1.0]
    assert made.p_up(picky, f"answer:{other.answer}", NOISES["mild"]) == NOISES["mild"].up_if_wrong


def test_the_share_of_a_wording_counts_all_answers(domain: Domain) -> None:
    """0.2 + 0.3 in the second wording; the mode, 0.4, is in the first."""
    made = wording.scenario(material(domain), plan())
    outlook = Outlook(("answer:a", "answer:a#1", "answer:b", "answer:b#1"), tuple(np.log([0.4, 0.2, 0.1, 0.3])))
    marks = made.marks(Question("q", "a"), outlook)
    assert marks["liked_served"] == pytest.approx(0.5)
    assert (marks["liked"], marks["right"]) == (0.0, 1.0)

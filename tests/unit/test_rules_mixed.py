"""Rules of format 2: reading them, what is refused, and what each key does to a reward. Numbers by hand."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.conversation import Signal, SignalKind
from bot.feedback.measures import Facts
from bot.feedback.rewards import Credit, earn, rewards_for
from bot.feedback.rules import Rule, Rules, RulesError, RuleSet, When, json_schema, load_rules, parse_rules
from bot.feedback.rules_checks import KNOWN_NAMES
from bot.feedback.text_metrics import num_questions
from tests.builders import make_decision, make_signal

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/rules.md").read_text()
THREE = tuple(make_decision(id=f"d{i}", turn=i, created_at=10.0 * i) for i in (1, 2, 3))
OUTCOME = """\
version: 2
rewards:
  main:
    rules:
      - {name: solved, when: {signal: outcome, value: 1}, reward: 1}
      - {name: not solved, when: {signal: outcome, value: 0}, reward: -1}
"""


def rules_with(*more: str, tail: str = "") -> Rules:
    """The outcome's rules, and these."""
    return parse_rules(OUTCOME + "".join(f"      - {rule}\n" for rule in more) + tail)


def thumb(decision_id: str = "d3", value: float = 1.0, **overrides: Any) -> Signal:
    """By p1, with a sequence of its own per decision."""
    fields_: dict[str, Any] = {"seq": int(decision_id[1:]), "created_at": 40.0}
    return make_signal(**fields_ | {"decision_id": decision_id, "value": value} | overrides)


def csat(value: float = 5.0) -> Signal:
    """About the conversation, at its end."""
    return make_signal(kind=SignalKind.CSAT, value=value, key="c", decision_id="", created_at=40.0, seq=9)


def values(signals: list[Signal], rules: Rules, facts: Facts | None = None) -> dict[str, float | None]:
    """`{"d1 reply": 0.5}`, rounded against the last bit."""
    found = rewards_for(THREE, signals, rules, facts or Facts())
    return {f"{c.decision_id} {c.scope}": c.value if c.value is None else round(c.value, 9) for c in found}


def refusal(text: str) -> str:
    with pytest.raises(RulesError) as caught:
        parse_rules(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- reading ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("{name: a, reward: 0.1, when: {signal: thumbs}}", "7:39: expected one of thumb, outcome"),
        ("{name: a, reward: 0.1, when: {signal: thumbs}}", "got 'thumbs' (did you mean thumb?)"),
        ("{name: a, rewards: 0.1}", "7:19: expected one of name, reward, when"),
        ("{name: a, rewards: 0.1}", "(did you mean reward?)"),
        ("{name: a, reward: 0.1 * valu, when: {signal: csat}}", "7:33: expected one of signal, value"),
        ("{name: a, reward: '0.1 * valu', when: {signal: csat}}", "7:34: expected one of signal, value"),
        ("{name: a, reward: 0.1 *, when: {signal: csat}}", "expected a formula in reward, got a mistake"),
        ("{name: a, reward: value}", "expected `signal` under `when` beside the names of a signal, got value"),
        ("{name: a, reward: 1, when: {value: 1}}", "expected `signal` beside value, label and role"),
        ("{name: a, reward: 1, delay_s: 5}", "only where there is a `signal`"),
        ("{name: a, reward: 1, applies_to: reply}", "only where there is a `signal`"),
        ("{name: a, reward: 0, when: {signal: csat}}", "expected a reward other than 0"),
        ("{name: a, reward: 1, when: {signal: csat, role: users}}", "(did you mean user?)"),
        ("{name: a, reward: 1, when: {act: 'anser:x'}}", "(did you mean answer?)"),
        ("{name: a, reward: 1, when: {signal: csat, value: {min: 2, max: 1}}}", "expected min of at most max"),
        ("{name: a, reward: 1, when: {signal: csat, value: {from: 2}}}", "expected min or max in value"),
        (
            "{name: a, reward: 1, when: {signal: csat}, applies_to: turn}",
            "expected reply, words, conversation or {last: n}",
        ),
        ("{name: a, reward: 1, when: {signal: csat}, applies_to: {last: 21}}", "expected last: 1 to 20, got 21"),
        ("{name: a, reward: 1, when: {signal: csat}, decay: 0.5}", "expected decay only with applies_to"),
        ("{name: a, reward: 1, when: {signal: csat}, applies_to: {last: 2}, decay: 2}", "up to 1, got 2.0"),
        ("{name: a, reward: 1, when: {signal: csat}, cap: {user: 0}}", "expected a positive cap"),
        ("{name: a, reward: 1, when: {signal: csat}, weight_by_trust: 1}", "expected true or false"),
        ("{name: solved, reward: 1, when: {signal: csat}}", "expected each rule's name once"),
        ("{name: '', reward: 1}", "expected text for name"),
    ],
)
def test_a_mistake_is_shown_with_its_place_and_a_hint(rule: str, message: str) -> None:
    """`rewards.yml:line:column: expected ..., got ... (did you mean ...?)`."""
    assert message in refusal(OUTCOME + f"      - {rule}\n")


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ("trust: {users: 0.5}\n", "(did you mean user?)"),
        ("trust: {user: 2}\n", "expected a trust from 0 to 1, got 2.0"),
        ("scorers: {value: {entry: 'a:b'}}\n", "expected a new name"),
        ("scorers: {mine: {entry: os.system}}\n", "expected package.module:function"),
        ("scorers: {mine: {entry: 'a:b', timeout_s: 0}}\n", "expected seconds above 0"),
        ("reward: {}\n", "(did you mean rewards?)"),
    ],
)
def test_a_mistake_outside_the_rules_is_shown_as_well(tail: str, message: str) -> None:
    """Trust, scorers and unknown keys."""
    assert message in refusal(OUTCOME + tail)


def test_an_error_comes_in_parts_for_an_editor() -> None:
    """Line and column from 1, expected, got and hint."""
    with pytest.raises(RulesError) as caught:
        parse_rules(OUTCOME + "      - {name: a, reward: 0.1, when: {signal: thumbs}}\n")
    assert (caught.value.line, caught.value.column, caught.value.hint) == (7, 39, "thumb")


@pytest.mark.parametrize(
    "text",
    [
        "version: 2\nrewards: &a {b: *a}\n",
        "version: 2\nrewards: {a: {rules: &r [*r]}}\n",
        "[" * 5000,
        "a" * 200_000,
        "version: 2\nrewards: {a: {rules: [" + "{name: a, reward: 1}, " * 101 + "]}}\n",
        "version: !!python/object/apply:os.system ['true']\n",
    ],
)
def test_a_file_that_turns_on_itself_or_never_ends_is_refused(text: str) -> None:
    """Aliases in a circle, nesting, size, tags that would build objects."""
    with pytest.raises(RulesError):
        parse_rules(text)


def test_the_second_formats_keys_are_not_for_the_first() -> None:
    """And a file of the first keeps the hash it always had: rewards stored under it stay what they are."""
    assert "expected one of version, rules, clip, caps, settle_s" in refusal(
        "version: 1\nrules: {}\ntrust: {user: 1}\n"
    )
    assert load_rules(ROOT / "bot/domains/bank/rewards.yml").rules_hash == "5fc962df6a40efd3"


def test_the_hash_is_of_what_is_said_and_not_of_how() -> None:
    """Order, comments and the spelling of numbers do not matter; a name or a formula does."""
    one = rules_with("{name: a, reward: 0.50, when: {signal: [csat]}}")
    same = rules_with("{when: {signal: csat}, name: a, reward: .5} # half")
    other = rules_with("{name: b, reward: 0.50, when: {signal: [csat]}}")
    assert one.rules_hash == same.rules_hash != other.rules_hash


# --- the bound on thumbs (DESIGN section 6, invariant 6) ----------------------------------------------------------------
@pytest.mark.parametrize(
    "more",
    [
        ["{name: up, when: {signal: thumb, value: 1}, reward: 1.1}"],
        ["{name: down, when: {signal: thumb, value: -1}, reward: -1.1}"],
        ["{name: a, when: {signal: thumb}, reward: 0.6}", "{name: b, when: {signal: 'th*'}, reward: 0.6}"],
        ["{name: far, when: {signal: thumb}, reward: 0.5, applies_to: {last: 3}}"],
    ],
)
def test_thumbs_heavier_than_the_outcome_do_not_load(more: list[str]) -> None:
    """Alone, together, or in sum over the replies they reach."""
    with pytest.raises(RulesError, match="no heavier than the outcome rule"):
        rules_with(*more)


@pytest.mark.parametrize(
    "outcome",
    [
        "{name: solved, when: {signal: outcome, value: 1}, reward: 1}",
        "{name: solved, when: {signal: outcome}, reward: 1 if value else -1}",
        "{name: solved, when: {signal: outcome, role: backoffice}, reward: 1}",
    ],
)
def test_thumbs_beside_an_outcome_that_may_not_come_are_refused(outcome: str) -> None:
    """Success must weigh something both ways, as a constant, whatever else holds."""
    text = (
        OUTCOME.split("      -", maxsplit=1)[0]
        + f"      - {outcome}\n      - {{name: a, when: {{signal: thumb}}, reward: 0.1}}\n"
    )
    assert "no heavier than the outcome rule (0)" in refusal(text)


def test_a_formula_cannot_make_thumbs_heavier_than_success() -> None:
    """9 for a thumb is held to 1; over two replies to 1 in sum; of three people to 1 together. Control: csat is not."""
    alone = rules_with("{name: t, when: {signal: thumb}, reward: 9 * value}")
    assert values([thumb()], alone) == {"d3 reply": 1.0}
    back = rules_with("{name: t, when: {signal: thumb}, reward: 9 * value, applies_to: {last: 2}}")
    assert values([thumb()], back) == {"d3 reply": 0.5, "d2 reply": 0.5}
    crowd = parse_rules(
        OUTCOME.replace("reward: 1}", "reward: 0.6}")
        + "      - {name: t, when: {signal: [thumb, csat]}, reward: 0.5 * value}\n"
    )
    three = [thumb(author=f"p{i}", key=f"k{i}", seq=i) for i in (1, 2, 3)]
    [credit] = rewards_for(THREE, three, crowd)
    assert credit.value == pytest.approx(0.6)
    assert {term.rule for term in credit.terms} == {"main/t", "thumb_cap"}
    assert values([thumb(kind=SignalKind.CSAT, value=2)], crowd) == {"d3 reply": 1.0}


def test_thumbs_that_speak_of_the_conversation_cannot_add_up_to_more_than_success() -> None:
    """0.9 on each of three replies would be 2.7 at the first turn, where all of them meet: they are 1 together. Control:
    on the replies themselves each is 0.9."""
    rule = "{{name: t, when: {{signal: thumb}}, reward: 0.9 * value{}}}"
    three = [thumb(f"d{i}", key=f"k{i}") for i in (1, 2, 3)]
    travelling = values(three, rules_with(rule.format(", applies_to: conversation")))
    assert sum(value or 0.0 for value in travelling.values()) == pytest.approx(1.0)
    assert set(values(three, rules_with(rule.format(""))).values()) == {0.9}


# --- what each key does -------------------------------------------------------------------------------------------------
def test_a_signal_goes_where_it_speaks_of_unless_the_rule_says_otherwise() -> None:
    """A thumb to its reply, a csat to the conversation's last reply; `applies_to` turns both round."""
    signals = [thumb("d2"), csat()]
    both = "{{name: a, when: {{signal: [thumb, csat]}}, reward: 0.25{}}}"
    assert values(signals, rules_with(both.format(""))) == {"d2 reply": 0.25, "d3 conversation": 0.25}
    turned = rules_with(both.format(", applies_to: conversation"))
    assert values(signals, turned) == {"d2 conversation": 0.25, "d3 conversation": 0.25}
    assert values(signals, rules_with(both.format(", applies_to: reply"))) == {"d2 reply": 0.25, "d3 reply": 0.25}


def test_a_reward_fades_over_the_replies_before() -> None:
    """0.4, 0.2, 0.1 back from the third; from the first there is nothing before."""
    rules = rules_with("{name: a, when: {signal: thumb}, reward: 0.4, applies_to: {last: 3}, decay: 0.5}")
    assert values([thumb("d3")], rules) == {"d3 reply": 0.4, "d2 reply": 0.2, "d1 reply": 0.1}
    assert values([thumb("d1")], rules) == {"d1 reply": 0.4}


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ("act: answer", True),
        ("act: 'answer:card_*'", True),
        ("act: [handoff, clarify]", False),
        ("article: card_arrival", True),
        ("article: lost_*", False),
        ("slot: order_number", False),
        ("role: user", True),
        ("role: [operator, backoffice]", False),
        ("value: 1", True),
        ("value: {max: 0}", False),
        ("label: clear", True),
        ("label: wrong", False),
        ("expression: probability > 0.4 and turn == 3 and turns == 3", True),
        ("expression: age_s > 10", False),
        ("expression: article == 'card_arrival' and kind == 'answer' and slot == ''", True),
    ],
)
def test_conditions_ask_about_signal_and_reply(when: str, holds: bool) -> None:
    """A thumb up with the chip `clear` ten seconds after a reply drawn with probability 0.5."""
    rules = rules_with(f"{{name: a, when: {{signal: thumb, {when}}}, reward: 0.5}}")
    assert values([thumb(label="clear|short")], rules) == ({"d3 reply": 0.5} if holds else {})


def test_a_withdrawn_thumb_gives_nothing() -> None:
    """Whatever a formula would make of 0."""
    assert values([thumb(value=0.0)], rules_with("{name: a, when: {signal: thumb}, reward: 0.5}")) == {}


def test_a_rule_is_capped_by_user_and_by_conversation() -> None:
    """0.4 each from p1 twice and p2 once. User cap 0.6: 0.4 + 0.2, and 0.4. Conversation cap 0.5: 0.4 + 0.1 + 0."""
    signals = [thumb("d1"), thumb("d2", key="b"), thumb("d3", key="c", author="p2")]
    rule = "{{name: a, when: {{signal: thumb}}, reward: 0.4{}}}"
    assert values(signals, rules_with(rule.format(", cap: {user: 0.6}"))) == {
        "d1 reply": 0.4,
        "d2 reply": 0.2,
        "d3 reply": 0.4,
    }
    capped = values(signals, rules_with(rule.format(", cap: {conversation: 0.5}")))
    assert capped == {"d1 reply": 0.4, "d2 reply": 0.1, "d3 reply": 0.0}
    assert values(signals, rules_with(rule.format(""))) == dict.fromkeys(("d1 reply", "d2 reply", "d3 reply"), 0.4)


def test_trust_in_author_and_role_weighs_where_asked() -> None:
    """0.5 x 0.5 (author) x 0.8 (role) = 0.2; a rule that does not ask is not weighed."""
    rule, facts = "{{name: a, when: {{signal: thumb}}, reward: 0.5{}}}", Facts(trust={"p1": 0.5})
    weighed = rules_with(rule.format(", weight_by_trust: true"), tail="trust: {user: 0.8}\n")
    assert values([thumb()], weighed, facts) == {"d3 reply": 0.2}
    assert values([thumb()], rules_with(rule.format(""), tail="trust: {user: 0.8}\n"), facts) == {"d3 reply": 0.5}


def test_named_rewards_are_mixed_with_their_weights_and_with_the_first_formats_rules() -> None:
    """0.5 by `rules` + 0.5 x 0.4 by `style` = 0.7."""
    rules = parse_rules(
        "version: 2\nrules: {thumb: {up: 0.5, down: -0.5}, outcome: {solved: 1, not_solved: -1}}\n"
        "rewards: {style: {weight: 0.5, rules: {name: a, when: {signal: thumb, value: 1}, reward: 0.4}}}\n"
    )
    [credit] = rewards_for(THREE, [thumb()], rules)
    assert [(term.rule, term.value) for term in credit.terms] == [("thumb", 0.5), ("style/a", 0.2)]


def test_a_rule_without_a_signal_shades_what_is_rated_and_rates_nothing() -> None:
    """Three words: -0.1 on the reply with a thumb, nothing on the others; an outcome is not a reply's rating."""
    rules = rules_with(
        "{name: t, when: {signal: thumb}, reward: 0.5}",
        "{name: short, when: {expression: num_words < 4}, reward: -0.1}",
    )
    facts = Facts(replies={"d1": "one two three", "d2": "one", "d3": "one two three four"})
    assert values([thumb("d1")], rules, facts) == {"d1 reply": 0.4}
    assert values([thumb("d3")], rules, facts) == {"d3 reply": 0.5}
    outcome = make_signal(kind=SignalKind.OUTCOME, decision_id="", created_at=40.0, seq=9)
    assert values([outcome], rules, facts) == {"d3 conversation": 1.0}


def test_what_rules_pay_for_words_is_part_of_the_replys_reward_and_named_as_theirs() -> None:
    """0.5 for the act, 0.3 for a question among the words; with a cap of 0.2 its excess is the words' as well."""
    for_words = "{name: asks, when: {expression: num_questions >= 1}, applies_to: words, reward: 0.3"
    rules = rules_with("{name: t, when: {signal: thumb}, reward: 0.5}", for_words + ", cap: {conversation: 0.2}}")
    facts = Facts(replies={"d3": "Which card? And when?"})
    [credit] = rewards_for(THREE, [thumb()], rules, facts)
    assert credit.scope == "reply"
    assert [(term.rule, round(term.value, 9)) for term in credit.terms if term.rule in rules.word_terms] == [
        ("main/asks", 0.3),
        ("main/asks cap", -0.1),
    ]
    assert round(credit.value or 0, 9) == 0.7


def test_a_signal_may_speak_of_words_alone() -> None:
    """Of the reply that it was given to; about a conversation, of its last reply."""
    rules = rules_with("{name: long, when: {signal: [thumb, csat]}, applies_to: words, reward: -0.2}")
    assert values([thumb("d1")], rules) == {"d1 reply": -0.2}
    assert values([csat()], rules) == {"d3 reply": -0.2}


@pytest.mark.parametrize(
    ("text", "expected"), [("Yes.", 0), ("Which one?", 1), ("Really?! When?? So.", 2), ("\u672c\u5f53\uff1f", 1)]
)
def test_questions_are_counted_by_their_marks(text: str, expected: int) -> None:
    """A run of marks is one question; those of other scripts count."""
    assert num_questions(text) == expected


def test_a_correction_is_measured_against_what_was_shown() -> None:
    """ROUGE-L: three of four words in order, both of four words: 0.75. No text shown, no correction: no reward."""
    rules = rules_with("{name: r, when: {signal: correction}, reward: rouge_l_correction}")
    right = thumb(
        kind=SignalKind.CORRECTION, comment="your card comes tomorrow", author="operator:ann", source="operator"
    )
    shown = Facts(replies={"d3": "your card arrives tomorrow"})
    assert values([right], rules, shown) == {"d3 reply": 0.75}
    assert values([right], rules) == {}
    assert values([thumb(kind=SignalKind.CORRECTION, comment="", label="handoff")], rules, shown) == {}


def test_text_metrics_know_the_approved_answer_and_repetition() -> None:
    """The same text is 1; `a b c` twice over has 4 triples, one of them repeated: 0.25."""
    facts = Facts(replies={"d3": "a b c a b c"}, approved={"d3": "a b c a b c"})
    for name, expected in {"bleu_approved": 1.0, "rouge_l_approved": 1.0, "repetition": 0.25}.items():
        rules = rules_with(f"{{name: r, when: {{signal: csat}}, reward: {name}}}")
        assert values([thumb(kind=SignalKind.CSAT)], rules, facts) == {"d3 reply": expected}


def test_a_formula_that_fails_gives_nothing_and_one_line_and_the_others_give_theirs() -> None:
    """1 / 0 beside a plain thumb."""
    rules = rules_with(
        "{name: t, when: {signal: thumb}, reward: 0.5}", "{name: bad, when: {signal: thumb}, reward: 1 / (value - 1)}"
    )
    earned = earn(THREE, [thumb()], rules)
    assert [credit.value for credit in earned.credits] == [0.5]
    [line] = earned.failures
    assert line.startswith("main/bad: expected a value of 1 / (value - 1), got")


def test_rules_with_a_delay_hear_only_what_is_old_enough() -> None:
    """The thumb is heard by the one, not yet by the other."""
    rules = rules_with(
        "{name: now, when: {signal: thumb}, reward: 0.5}",
        "{name: later, when: {signal: thumb}, reward: 0.25, delay_s: 60}",
    )
    assert [c.value for c in earn(THREE, [thumb()], rules, old_enough={60.0: []}).credits] == [0.5]
    assert [c.value for c in earn(THREE, [thumb()], rules, old_enough={60.0: [thumb()]}).credits] == [0.75]


_ANY = st.builds(
    make_signal,
    kind=st.sampled_from(list(SignalKind)),
    value=st.sampled_from([-1.0, 0.0, 0.5, 0.7, 1.0, 2.0, 3.0, 5.0]),
    author=st.sampled_from(["p1", "p2"]),
    source=st.sampled_from(["user", "operator", "backoffice"]),
    decision_id=st.sampled_from(["", "d1", "d2"]),
    label=st.sampled_from(["", "wrong", "unclear|too long", "correct"]),
    created_at=st.floats(0, 40),
    seq=st.integers(1, 100),
)


def _in_range(signals: list[Signal]) -> list[Signal]:
    """Thumbs are -1, 0, 1, outcomes 0, 1."""
    ranges = {SignalKind.THUMB: (-1.0, 0.0, 1.0), SignalKind.OUTCOME: (0.0, 1.0)}
    return [s for s in signals if s.value in ranges.get(s.kind, (s.value,)) and s.kind != SignalKind.CORRECTION]


@settings(deadline=None)
@given(st.lists(_ANY, max_size=12, unique_by=lambda signal: signal.seq))
def test_the_guides_rules_give_what_the_shipped_ones_give(signals: list[Signal]) -> None:
    """Format 2 says what format 1 says, rule by rule."""

    def given_by(rules: Rules) -> dict[tuple[str, str], float]:
        found: list[Credit] = rewards_for(THREE, _in_range(signals), rules)
        return {(c.decision_id, c.scope): pytest.approx(c.value) for c in found}

    assert given_by(guide_rules()) == given_by(load_rules(ROOT / "bot/domains/bank/rewards.yml"))


@settings(deadline=None)
@given(st.lists(_ANY, max_size=12, unique_by=lambda signal: signal.seq))
def test_every_mixed_reward_is_bounded_and_explained(signals: list[Signal]) -> None:
    """Whatever is sent, with caps, decay, a formula without measure and a delay: within the clip, the sum of its terms."""
    rules = rules_with(
        "{name: t, when: {signal: 't*'}, reward: 7 * value, applies_to: {last: 2}, decay: 0.5, cap: {user: 0.3}}",
        "{name: c, when: {signal: csat}, reward: value - 9, cap: {conversation: 2}}",
        "{name: far, when: {expression: turn > 1}, reward: 5}",
    )
    for credit in rewards_for(THREE, signals, rules):
        assert credit.value is not None
        assert abs(credit.value) <= 1 + 1e-9
        assert credit.value == pytest.approx(sum(term.value for term in credit.terms))


# --- the guide and the schema -------------------------------------------------------------------------------------------
def guide_files() -> list[str]:
    """The guide's whole rules files."""
    return [block for block in re.findall(r"(?ms)^```yaml\n(.*?)^```", GUIDE) if block.startswith("version:")]


def guide_rules() -> Rules:
    return next(rules for rules in map(parse_rules, guide_files()) if rules.version == 2)


def test_the_guides_files_load() -> None:
    """Both formats."""
    assert [parse_rules(text).version for text in guide_files()] == [1, 2]


@pytest.mark.parametrize("name", KNOWN_NAMES)
def test_the_guide_explains_every_name(name: str) -> None:
    """What a formula may read."""
    assert f"`{name}`" in GUIDE.split("## Formulas")[1].split("\n## ")[0]


@pytest.mark.parametrize("record", [Rule, When])
def test_the_guide_explains_every_key(record: type) -> None:
    """Of a rule and of its conditions."""
    section = GUIDE.split("## A rule")[1].split("\n## ")[0]
    assert [field.name for field in fields(record) if f"| `{field.name}` |" not in section] == []


def schema_errors(text: str) -> list[str]:
    validator = jsonschema.Draft202012Validator(json.loads(json_schema()))
    return [error.message for error in validator.iter_errors(yaml.safe_load(text))]


@pytest.mark.parametrize("text", [*guide_files(), *(p.read_text() for p in ROOT.glob("bot/domains/*/rewards.yml"))])
def test_the_schema_accepts_what_loads(text: str) -> None:
    """The guide's and the shipped files."""
    jsonschema.Draft202012Validator.check_schema(json.loads(json_schema()))
    assert schema_errors(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "version: 3\nrules: {}\n",
        "version: 1\n",
        "version: 1\nrules: {}\nrewards: {}\n",
        OUTCOME.replace("signal: outcome", "signal: outcomes"),
        OUTCOME.replace("reward: 1}", "rewards: 1}"),
        OUTCOME + "      - {name: a, reward: 1, when: {signal: csat}, applies_to: {last: 21}}\n",
        OUTCOME + "trust: {users: 1}\n",
        OUTCOME + "scorers: {mine: {entry: os}}\n",
    ],
)
def test_the_schema_refuses_what_does_not_load(text: str) -> None:
    """An editor sees most mistakes before we do."""
    refusal(text)
    assert schema_errors(text) != []


@pytest.mark.parametrize("path", list(ROOT.glob("bot/domains/*/rewards.yml")), ids=lambda path: path.parent.name)
def test_shipped_files_tell_editors_where_the_schema_is(path: Path) -> None:
    """Their first line, as the YAML language server reads it."""
    found = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", path.read_text().splitlines()[0])
    assert found
    assert (path.parent / found[1]).read_text() == json_schema()


def test_schema_and_reader_know_the_same_keys() -> None:
    """Of the file, of a rule, of its conditions."""
    schema = json.loads(json_schema())
    rule = schema["$defs"]["rule"]["properties"]
    assert set(schema["properties"]) == {field.name for field in fields(Rules)} - {"folder"}
    assert set(rule) == {field.name for field in fields(Rule)}
    assert set(rule["when"]["properties"]) == {field.name for field in fields(When)}
    assert set(schema["properties"]["rules"]["properties"]) == {field.name for field in fields(RuleSet)}

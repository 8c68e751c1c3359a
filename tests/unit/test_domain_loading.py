"""Loading a domain: what is read, and every refusal with its file, line, what was expected and what was got."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.domain import Domain, Slot, Trigger, Variant, domain_fingerprint, load_domain
from bot.errors import DomainError
from tests.domain_folder import ACTIONS, ARTICLE, DOMAIN, TESTS, write_domain


def load(folder: Path, **overrides: str) -> Domain:
    """Write a domain folder and load it."""
    return load_domain(str(write_domain(folder, **overrides)))


def refusal(folder: Path, **overrides: str) -> str:
    """The one line with which a folder is refused, without the path before its own files."""
    with pytest.raises(DomainError) as caught:
        load(folder, **overrides)
    return str(caught.value).replace(f"{folder.resolve()}/", "")


def test_a_valid_folder_loads_as_records(tmp_path: Path) -> None:
    """Each file's content arrives where the record says."""
    domain = load(tmp_path)

    article = domain.articles["opening_hours"]
    assert article.texts == ("When are you open?", "Is the desk staffed on Sunday?", "Opening hours")
    assert article.answer == "We are open from 9 to 5."
    assert domain.responses["utter_ask_size"] == (Variant("Which size", ("small", "large")),)
    assert domain.slots["size"] == Slot("size", "categorical", None, ("small", "large"))
    assert domain.forms == {"trip_form": ("city", "size")}
    assert domain.action_forms == {"action_book": "trip_form"}
    assert domain.triggers["utter_out_of_scope"] == Trigger((), 0.3)
    assert domain.tests[0].where == f"{tmp_path / 'tests/basic.yml'}:2"
    assert domain.tests[0].must_pass
    assert domain.rewards_path == tmp_path / "rewards.yml"
    assert "rejoinder" not in domain.raw


def test_loading_does_not_run_the_actions(tmp_path: Path) -> None:
    """actions.py is read as text: a file that would stop the process is only looked at."""
    domain = load(tmp_path, actions="import sys\nsys.exit(3)\n" + ACTIONS)

    assert domain.actions == ("action_book",)


def test_neither_a_shipped_name_nor_a_folder_is_refused(tmp_path: Path) -> None:
    """The message names the shipped domains."""
    with pytest.raises(DomainError, match=r"expected one of bank, shop, or a folder with domain.yml, got 'bonk'"):
        load_domain("bonk")


@pytest.mark.parametrize(
    ("article", "message"),
    [
        ("title: x\n", "articles/opening_hours.md:1: expected --- before title and questions, got 'title: x'"),
        ("---\ntitle: x\n", "articles/opening_hours.md:2: expected --- after title and questions, got the end of the file"),
        ("---\ntitle: x\nquestions: [a]\n---\n \n", "articles/opening_hours.md:4: expected an answer after ---, got nothing"),
        ("---\ntitle: x\nquestions: []\n---\nYes.", "articles/opening_hours.md:3: expected at least one question, got nothing"),
        ("---\ntitle: x\n---\nYes.", "articles/opening_hours.md:2: expected 'questions', got nothing"),
        ("---\ntitle: x\nquestions: [a]\ntags: [b]\n---\nYes.", "articles/opening_hours.md:4: expected one of title, questions, got 'tags'"),
        ("---\ntitle: Yes\nquestions: [a]\n---\nYes.", "articles/opening_hours.md:2: expected text in title, got True"),
        ("---\ntitle: x\nquestions:\n  - a\n  - ''\n---\nYes.", "articles/opening_hours.md:5: expected text in questions, got an empty one"),
        ("---\ntitle: x\nquestions: a\n---\nYes.", "articles/opening_hours.md:3: expected a list in questions, got 'a'"),
        ("---\ntitle: x\nquestions:\n  - a\n  - A\n---\nYes.", "articles/opening_hours.md:5: expected each title and question once, got 'A' as in articles/opening_hours.md:4"),
        ("---\ntitle: x: y\nquestions: [a]\n---\nYes.", "articles/opening_hours.md:2: expected YAML, got a mistake in it (mapping values are not allowed here)"),
    ],
)  # fmt: skip
def test_a_wrong_article_is_refused_with_its_line(tmp_path: Path, article: str, message: str) -> None:
    """Front matter, answer and example questions."""
    assert refusal(tmp_path, article=article) == message


def test_a_question_asked_by_two_articles_is_refused(tmp_path: Path) -> None:
    """Retrieval could not tell them apart, whatever the case of the letters."""
    write_domain(tmp_path)
    other = ARTICLE.replace("Opening hours", "Sundays").replace("When are you open?", "What about Sundays?")
    (tmp_path / "articles/sundays.md").write_text(other.replace("Is the desk", "is THE desk"))

    with pytest.raises(DomainError) as caught:
        load_domain(str(tmp_path))

    first, second = tmp_path / "articles/opening_hours.md", tmp_path / "articles/sundays.md"
    expected = (
        f"{second}:5: expected each title and question once, got 'is THE desk staffed on Sunday?' as in {first}:5"
    )
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Opening-Hours.md",
            "articles/Opening-Hours.md:1: expected a file name of a-z, 0-9 and _, got 'Opening-Hours'",
        ),
        ("notes.txt", "articles/notes.txt:1: expected only *.md files in articles, got 'notes.txt'"),
    ],
)
def test_a_wrong_file_among_the_articles_is_refused(tmp_path: Path, name: str, message: str) -> None:
    """A file nobody would read is a mistake, not silence."""
    write_domain(tmp_path)
    (tmp_path / "articles" / name).write_text(ARTICLE)

    with pytest.raises(DomainError) as caught:
        load_domain(str(tmp_path))

    assert str(caught.value).replace(f"{tmp_path}/", "") == message


def test_a_domain_without_articles_is_refused(tmp_path: Path) -> None:
    """There would be nothing to answer with."""
    assert refusal(tmp_path, article="") == "articles:1: expected at least one article, got nothing"


def test_text_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    """The line of the first bad byte."""
    write_domain(tmp_path)
    (tmp_path / "articles/opening_hours.md").write_bytes(ARTICLE.encode() + b"\ncaf\xe9\n")

    with pytest.raises(DomainError, match=r"opening_hours.md:9: expected UTF-8 text, got byte 0xe9"):
        load_domain(str(tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('version: "3.1"', "pipeline: []", "domain.yml:1: expected one of responses, rejoinder, version, slots, actions, forms, session_config, got 'pipeline'"),
        ("persona: Short", "personna: Short", "domain.yml:20: expected one of assistant, persona, languages, ai_notice, human_offer, allow_say, triggers, action_forms in rejoinder, got 'personna'"),
        ("  persona: Short and kind.\n", "", "domain.yml:18: expected 'persona' in rejoinder, got nothing"),
        ("{type: text}", "{type: string}", "domain.yml:3: expected one of text, bool, categorical, float, list, any in slots.city.type, got 'string'"),
        ("{type: text}", "{type: text, mappings: [{type: from_text, conditions: [{active_loop: other}]}]}", "domain.yml:3: expected a form of this domain, got 'other'"),
        ("{type: categorical, values: [small, large]}", "{type: categorical}", "domain.yml:4: expected values for a categorical slot and only there, got 'categorical'"),
        ("size: {type: cat", "city: {type: cat", "domain.yml:4: expected each key once, got 'city' twice"),
        ("[city, size]}", "[city, length]}", "domain.yml:6: expected a slot of this domain in trip_form, got 'length'"),
        ("[city, size]}", "[]}", "domain.yml:6: expected at least one slot in trip_form, got nothing"),
        ("  utter_ask_city: [{text: Which city}]\n", "", "domain.yml:6: expected the response utter_ask_city, got nothing"),
        ("  utter_handoff: [{text: A person comes}]\n", "", "domain.yml:8: expected the response utter_handoff, got nothing"),
        ("utter_booked:", "say_booked:", "domain.yml:17: expected a name that starts with utter_, got 'say_booked'"),
        ("[{text: Hello}, {text: Hi}]", "[]", "domain.yml:9: expected at least one wording of utter_greet, got nothing"),
        ("[{text: Hello}, {text: Hi}]", "[{text: Hello, channel: rest}]", "domain.yml:9: expected one of text, buttons in responses.utter_greet, got 'channel'"),
        ("[{text: Hello}, {text: Hi}]", "Hello", "domain.yml:9: expected a list in responses.utter_greet, got 'Hello'"),
        ("[{text: Hello}, {text: Hi}]", "[{text: &a Hello}, {text: *a}]", "domain.yml:9: expected each thing written out, got an alias"),
        ("actions: [action_book]", "actions: [action_book, action_fly]", "domain.yml:7: expected a class in actions.py whose name() returns 'action_fly', got nothing"),
        ("actions: [action_book]", "actions: [action_book, action_book]", "domain.yml:7: expected each action once, got 'action_book'"),
        ("actions: [action_book]", "actions: []", "actions.py:4: expected a name listed under actions in domain.yml, got 'action_book'"),
        ("{action_book: trip_form}", "{action_fly: trip_form}", "domain.yml:24: expected an action of this domain, got 'action_fly'"),
        ("{action_book: trip_form}", "{action_book: fly_form}", "domain.yml:24: expected a form of this domain, got 'fly_form'"),
        ("    action_book: {examples: [book a trip]}", "    action_fly: {examples: [fly]}", "domain.yml:29: expected handoff, or a response or action of this domain, got 'action_fly'"),
        ("{examples: [hello there]}", "{}", "domain.yml:26: expected examples or a floor, got nothing"),
        ("{examples: [hello there]}", "{examples: ['when are you OPEN?']}", "domain.yml:26: expected each title and question once, got 'when are you OPEN?' as in article opening_hours"),
        ("{floor: 0.3}", "{floor: 1.5}", "domain.yml:27: expected a cosine between -1 and 1, got 1.5"),
        ("{floor: 0.3}", "{floor: high}", "domain.yml:27: expected a number in rejoinder.triggers.utter_out_of_scope.floor, got 'high'"),
        ("languages: [en]", "languages: []", "domain.yml:21: expected at least one language, got nothing"),
        ("languages: [en]", "languages: [no]", "domain.yml:21: expected text in rejoinder.languages, got False"),
        ("ai_notice: I am", "allow_say: maybe\n  ai_notice: I am", "domain.yml:22: expected true or false in rejoinder.allow_say, got 'maybe'"),
        ("rejoinder:\n", "yes: 1\nrejoinder:\n", "domain.yml:18: expected a text key (quote it), got True"),
        ("actions: [action_book]", "actions: [action_book", "domain.yml:8: expected YAML, got a mistake in it (expected ',' or ']', but got ':')"),
    ],
)  # fmt: skip
def test_a_wrong_domain_file_is_refused_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    """Unknown keys, wrong kinds, and names that nothing answers to."""
    assert old in DOMAIN
    assert refusal(tmp_path, domain=DOMAIN.replace(old, new, 1)) == message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("answer:opening_hours", "answer:closing_hours", "tests/basic.yml:6: expected an act of this domain, got 'answer:closing_hours'"),
        ("answer:opening_hours", "respond:utter_greet#2", "tests/basic.yml:6: expected an act of this domain, got 'respond:utter_greet#2'"),
        ("answer:opening_hours", "run:action_fly", "tests/basic.yml:6: expected an act of this domain, got 'run:action_fly'"),
        ("answer:opening_hours", "ask:length", "tests/basic.yml:6: expected an act of this domain, got 'ask:length'"),
        ("answer:opening_hours", "clarify:opening_hours|opening_hours", "tests/basic.yml:6: expected an act of this domain, got 'clarify:opening_hours|opening_hours'"),
        ("answer:opening_hours", "say", "tests/basic.yml:6: expected an act of this domain, got 'say'"),
        ("answer:opening_hours", "sing", "tests/basic.yml:6: expected an act of this domain, got 'sing'"),
        ("        act: answer:opening_hours", "        one_of:\n          - handoff\n          - sing", "tests/basic.yml:8: expected an act of this domain, got 'sing'"),
        ("\n        act: answer:opening_hours", "", "tests/basic.yml:5: expected act, one_of or text_contains, got nothing"),
        ("must_pass", "must_fail", "tests/basic.yml:3: expected one of name, steps, must_pass in tests, got 'must_fail'"),
        ("act: answer", "action: answer", "tests/basic.yml:6: expected one of user, act, one_of, text_contains in tests.steps, got 'action'"),
    ],
)  # fmt: skip
def test_a_wrong_conversation_test_is_refused_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    """A test that could never pass is found when the domain loads, not at the gate."""
    assert refusal(tmp_path, tests=TESTS.replace(old, new, 1)) == message


@pytest.mark.parametrize("act", ["handoff", "respond:utter_greet#1", "run:action_book", "ask:city"])
def test_every_kind_of_known_act_may_be_expected(tmp_path: Path, act: str) -> None:
    """The control of the refusals above."""
    domain = load(tmp_path, tests=TESTS.replace("answer:opening_hours", f'"{act}"'))

    assert domain.tests[0].steps[0].act == act


def test_two_tests_of_one_name_are_refused(tmp_path: Path) -> None:
    """A gate report names tests."""
    twice = TESTS + TESTS.removeprefix("tests:\n")
    where = "expected each test name once, got 'hours are told' as in tests/basic.yml:2"
    assert refusal(tmp_path, tests=twice) == f"tests/basic.yml:7: {where}"


def test_actions_that_are_not_python_are_refused_with_their_line(tmp_path: Path) -> None:
    """Found without running the file."""
    assert refusal(tmp_path, actions="x = 1\ndef broken(:\n").startswith("actions.py:2: expected Python, got ")


def test_a_validator_needs_its_form(tmp_path: Path) -> None:
    """`validate_<form>` names a form of the domain."""
    domain = DOMAIN.replace("[action_book]", "[action_book, validate_walk_form]")
    actions = ACTIONS + '\n\nclass V(Action):\n    def name(self):\n        return "validate_walk_form"\n'

    said = refusal(tmp_path, domain=domain, actions=actions)

    assert said == "domain.yml:7: expected validate_<form> for a form of this domain, got 'validate_walk_form'"


def test_missing_reward_rules_are_refused(tmp_path: Path) -> None:
    """A domain that says nothing of rewards could not learn."""
    assert refusal(tmp_path, rewards="") == "rewards.yml:1: expected a file with reward rules, got nothing"


def test_a_long_value_is_cut_short_in_the_message(tmp_path: Path) -> None:
    """One line stays one line."""
    said = refusal(tmp_path, domain=DOMAIN.replace("[en]", "x" * 500))

    assert len(said) < 160
    assert said.endswith("...")


def test_the_fingerprint_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    """The same files elsewhere have the same fingerprint; one other word has another."""
    here = domain_fingerprint(load(tmp_path / "a" / "shop"))
    there = domain_fingerprint(load(tmp_path / "b" / "shop"))
    changed = domain_fingerprint(load(tmp_path / "c" / "shop", article=ARTICLE.replace("9 to 5", "9 to 6")))

    assert here == there
    assert here != changed

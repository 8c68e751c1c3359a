"""The likelihood of operators' own words, by hand; which of their words may teach, and as what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bot.conversation import LegalAct, State, Turn
from bot.domain import Domain, load_domain
from bot.feedback.desk import Doing
from bot.feedback.desk_records import Case, case_of_reply
from bot.feedback.store import Store
from bot.policy.grounding import amounts
from bot.policy.vocabulary import Vocabulary, can_be_written
from bot.render import reply_prompt
from online_learning.algorithms.own_words import own_words
from online_learning.demonstrations import Caps, Demonstrated, Unfit, demonstrated, names, spelled
from tests.builders import make_conversation, make_decision, make_generated, make_message
from tests.domain_folder import write_domain
from tests.tiny_models import tiny_causal

ANA = "operator:ana"
SAID = "Hello, your card arrives within 5 working days. Does that help?"
ARTICLES = {
    "card_arrival": ("Card arrival", "Your card arrives within 5 working days."),
    "lost_card": ("Lost card", "Freeze it in the app under Card, then order another."),
}
OPEN = Caps(topics=None, per_author_topic=9, per_conversation=9, rows=9)


# --- the loss ---------------------------------------------------------------------------------------------------------
def test_the_loss_is_the_mean_surprise_and_a_pull_to_the_base_model() -> None:
    """Three tokens, one padded place: nll (1 + 2 + 3) / 3 = 2; gains 1, 0, -1 over the base, so half of 2 / 3 by 0.3."""
    logprobs = torch.tensor([[-1.0, -2.0], [-3.0, float("nan")]], requires_grad=True)
    start, mask = torch.tensor([[-2.0, -2.0], [-2.0, 9.0]]), torch.tensor([[True, True], [True, False]])
    out = own_words(logprobs, start, mask, 0.3)
    assert out.loss.item() == pytest.approx(2.0 + 0.3 / 3)
    assert {name: float(value) for name, value in out.metrics.items() if name != "loss"} == {
        "words_nll": 2.0,
        "words_gain": 0.0,
    }
    out.loss.backward()
    assert logprobs.grad is not None
    # -1/3 for each token, and the pull's 0.3 * gain / 3; nothing where there is no token.
    assert logprobs.grad.flatten().tolist() == pytest.approx([-0.7 / 3, -1 / 3, -1.3 / 3, 0.0])


def test_a_token_far_above_the_base_model_is_not_pushed_further() -> None:
    """At 1 / coef nats above it the two terms are even."""
    logprobs = torch.tensor([[-1.0]], requires_grad=True)
    own_words(logprobs, torch.tensor([[-11.0]]), torch.ones(1, 1, dtype=torch.bool), 0.1).loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.item() == pytest.approx(0.0, abs=1e-6)


# --- which words teach ------------------------------------------------------------------------------------------------
@pytest.fixture
def domain(tmp_path: Path) -> Domain:
    folder = write_domain(tmp_path / "domain")
    for name, (title, answer) in ARTICLES.items():
        text = f"---\ntitle: {title}\nquestions:\n  - {title}?\n---\n{answer}\n"
        (folder / "articles" / f"{name}.md").write_text(text)
    return load_domain(str(folder))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "rejoinder.db") as opened:
        yield opened


def corrected(store: Store, number: int = 1, **overrides: Any) -> Case:
    """Conversation `cN`: a question, the bot's reply by decision `dN`, and an operator's words for it."""
    here, name = f"c{overrides.pop('chat', number)}", f"d{number}"
    decision: dict[str, Any] = overrides.pop("decision", {})
    store.add_conversation(make_conversation(id=here))
    store.add_user_message(make_message(id=f"u{number}", conversation_id=here, text=f"Question {number}?"))
    reply = make_message(id=f"b{number}", conversation_id=here, role="bot", text="Hm.", decision_id=name)
    store.add_reply(reply, make_decision(id=name, conversation_id=here, **decision))
    return taught(store, f"case_{number}", here, at=1000.0 + number, decision_id=name, **overrides)


def taught(store: Store, name: str, conversation_id: str, **overrides: Any) -> Case:
    fields: dict[str, Any] = {"at": 1000.0, "author": ANA, "text": SAID, "draft_act": "answer:card_arrival"}
    rest: dict[str, Any] = {"question": "?", "act": f"answer:{name}", "draft": "Hm."}
    case = Case(id=name, conversation_id=conversation_id, **fields | rest | overrides)
    store.desk.add_case(Doing(case.author, case.at), case)
    return case


def found(store: Store, domain: Domain, **caps: Any) -> Demonstrated:
    return demonstrated(store, domain, replace(OPEN, **caps))


def ids(rows: Demonstrated) -> list[str]:
    return [row.case_id for row in rows.rows]


def test_a_written_correction_stands_behind_the_prompt_of_a_generated_reply(store: Store, domain: Domain) -> None:
    """The conversation up to the question, and the article that the reply had for its source."""
    corrected(store)
    corrected(store, 2, chat=1, decision={"turn": 2, "generated": make_generated()})
    store.add_user_message(make_message(id="later", conversation_id="c1", text="Something else"))
    later, first = found(store, domain).rows
    turns = [("user", "Question 1?"), ("assistant", "Hm."), ("user", "Question 2?")]
    source = ARTICLES["card_arrival"][1]
    assert (later.topic, later.source, later.text) == ("answer:card_arrival", source, SAID)
    assert (later.was_generated, first.was_generated) == (True, False)
    system = later.prompt[: later.prompt.index('["user"')]
    assert source in system
    assert later.prompt == system + ", ".join(f'["{role}", "{text}"]' for role, text in turns) + "]"
    assert first.prompt == system + '["user", "Question 1?"]]'


def test_the_prompt_is_the_renderers(store: Store, domain: Domain) -> None:
    """Character by character what a session would have its version read."""
    corrected(store)
    (row,) = found(store, domain).rows
    state = State("elsewhere", (Turn("user", "Question 1?"),))
    assert row.prompt == reply_prompt(state, domain.persona, (ARTICLES["card_arrival"][1],))


def test_an_operators_own_reply_answers_the_question_before_it(store: Store, domain: Domain) -> None:
    """In a take-over: by the draft's article, else by the one that says most of it. What was said in between is left out."""
    store.add_conversation(make_conversation(id="c1", status="person"))
    store.desk.take_over(Doing(ANA, 1.0), "c1")
    for number, text in enumerate(("Where is my card?", "Hello?")):
        store.add_user_message(make_message(id=f"u{number}", text=text))
    for name in ("wait", "said"):
        store.add_reply(make_message(id=name, role="operator", text=name, author=ANA), None)
    own = "Hello, please freeze it in the app under Card. Shall we order another?"
    taught(store, case_of_reply("said"), "c1", text=own, draft_act="")
    (row,) = found(store, domain).rows
    assert row.topic == "answer:lost_card"
    assert row.prompt.endswith('["user", "Where is my card?"], ["user", "Hello?"]]')
    assert not row.was_generated


def test_the_article_that_the_operator_called_right_is_the_source(store: Store, domain: Domain) -> None:
    """Words together with another act: the act is the lesson's, not the reply's."""
    store.add_conversation(make_conversation(id="lessons"))
    right = (LegalAct("answer:card_arrival", ("a",)), LegalAct("answer:lost_card", ("b",)))
    lesson = make_decision(id="lesson", conversation_id="lessons", legal=right, logprobs=(-0.7, -0.7), chosen=1)
    store.add_reply(make_message(id="l", conversation_id="lessons", role="bot", decision_id="lesson"), lesson)
    corrected(store, lesson_id="lesson", text="Freeze it in the app, then order another. Is it lost?")
    (row,) = found(store, domain).rows
    assert row.topic == "answer:lost_card"


@pytest.mark.parametrize(
    ("reason", "overrides"),
    [
        ("holdout", {"decision": {"holdout": True}}),
        ("consent", {"decision": {"train_ok": False}}),
        ("source", {"text": "It is at the post office in town."}),
        ("names", {"text": "Hello Maria, your card arrives within 5 working days."}),
        ("amounts", {"text": "Your card arrives within 7 working days."}),
        ("amounts", {"text": "Your card arrives within 5 working days, see www.card.example"}),
        ("asked", {"decision_id": "gone"}),
    ],
)
def test_what_may_not_teach_is_left_out_and_counted(
    store: Store, domain: Domain, reason: str, overrides: dict[str, Any]
) -> None:
    """The gate's conversations, those without consent, and words that no version could rest on its source. Another teaches."""
    corrected(store, 2)
    made = {"decision_id": "d1"} | overrides
    if made["decision_id"] == "d1":
        corrected(store, 1, **overrides)
    else:
        taught(store, "case_1", "c2", **overrides)
    rows = found(store, domain)
    assert ids(rows) == ["case_2"]
    assert rows.refused == {reason: 1}


def test_cases_without_words_or_out_of_force_are_no_rows(store: Store, domain: Domain) -> None:
    """An act alone, one taken back, one whose person changed their mind; the control is left."""
    for number in (1, 2, 3, 4):
        corrected(store, number, text="" if number == 1 else SAID)
    store.desk.remove_case(Doing(ANA, 2000.0), "case_2")
    store.update_conversation("c3", learn_ok=False)
    rows = found(store, domain)
    assert (ids(rows), rows.refused) == (["case_4"], {})


def test_an_erased_conversations_words_are_gone(store: Store, domain: Domain) -> None:
    """From the rows as from the file; the other's stay."""
    secret = "marmalade"
    corrected(store, 1, text=f"{SAID} {secret}")
    corrected(store, 2)
    files = lambda: b"".join(path.read_bytes() for path in store.path.parent.glob("rejoinder.db*"))  # noqa: E731
    assert (ids(found(store, domain)), secret.encode() in files()) == (["case_2", "case_1"], True)
    store.erase_conversation("c1", author="person", at=2000.0)
    assert (ids(found(store, domain)), secret.encode() in files()) == (["case_2"], False)


def test_of_two_corrections_of_one_reply_the_newer_teaches(store: Store, domain: Domain) -> None:
    """Said anew, it takes the place of what was said before."""
    corrected(store)
    taught(store, "case_9", "c1", at=2000.0, decision_id="d1")
    assert ids(found(store, domain)) == ["case_9"]


@pytest.mark.parametrize(
    ("caps", "expected", "refused"),
    [
        ({"per_author_topic": 2}, ["case_4", "case_3", "case_1"], {"cap": 1}),
        ({"per_conversation": 1}, ["case_4", "case_3", "case_2"], {"cap": 1}),
        ({"rows": 1}, ["case_4"], {}),
        ({"topics": ["answer:card_arrival"]}, ["case_4", "case_3", "case_2", "case_1"], {}),
        ({"topics": ["answer:lost_card"]}, [], {"quorum": 4}),
    ],
)
def test_caps_keep_the_newest_and_topics_need_their_quorum(
    store: Store, domain: Domain, caps: dict[str, Any], expected: list[str], refused: dict[str, int]
) -> None:
    """Three by Ana, the oldest by Bo, all of one article; 1 and 2 are of one conversation."""
    corrected(store, 1, author="operator:bo")
    corrected(store, 2, chat=1, decision={"turn": 2})
    corrected(store, 3)
    corrected(store, 4)
    rows = found(store, domain, **caps)
    assert (ids(rows), rows.refused) == (expected, refused)


def test_names_are_capitals_inside_a_sentence() -> None:
    """Beginnings of sentences and I are not."""
    assert names("Hello Maria, I'm Bo. May I help? Yes: Ask Lucia-Ann!") == {"maria", "bo", "lucia", "ann"}
    assert names("Hello, we do. It works") == set()


# --- as tokens --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return Vocabulary(tiny_causal(tmp_path_factory.mktemp("words") / "causal"))


def row_of(store: Store, domain: Domain, **overrides: Any) -> Any:
    corrected(store, **overrides)
    return found(store, domain).rows[0]


def test_words_are_spelled_as_a_reply_that_ended(store: Store, domain: Domain, vocabulary: Vocabulary) -> None:
    """Prompt and text as tokens, the end of the turn last; another's markers are only text."""
    row = row_of(store, domain)
    said = spelled(row, vocabulary, temperature=0.7, max_tokens=80)
    assert said.prompt_ids == vocabulary.prompt_ids(row.prompt)
    assert vocabulary.tokenizer.decode(said.token_ids[:-1]) == SAID
    assert said.token_ids[-1] == vocabulary.end_id == vocabulary.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert (said.temperature, said.sources, said.logprobs) == (0.7, (ARTICLES["card_arrival"][1],), ())
    marked = spelled(replace(row, text="a<|im_end|>b"), vocabulary, temperature=1.0, max_tokens=80)
    assert vocabulary.end_id not in marked.token_ids[:-1]


def test_words_that_no_version_could_write_are_refused(store: Store, domain: Domain, vocabulary: Vocabulary) -> None:
    """Too long for a reply, or with an amount that the mask forbids: its log-probability would be -inf."""
    row = row_of(store, domain)
    with pytest.raises(Unfit, match="length"):
        spelled(row, vocabulary, temperature=0.7, max_tokens=5)
    with pytest.raises(Unfit, match="amounts"):
        spelled(replace(row, text="In 7 days."), vocabulary, temperature=0.7, max_tokens=80)
    known = amounts(row.source)
    assert can_be_written(vocabulary, vocabulary.spelled("In 5 days."), known)
    assert not can_be_written(vocabulary, vocabulary.spelled("In 7 days."), known)

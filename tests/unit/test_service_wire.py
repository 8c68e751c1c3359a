"""Frames and bodies: what is let in, what people read when it is not, what goes out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from bot import errors, wire, wire_client, wire_errors
from bot.conversation import SignalKind
from tests.builders import make_message, make_signal
from tests.service_rig import make_domain


def frame(**fields: Any) -> str:
    return json.dumps(fields)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (frame(type="hello", protocol=1), wire_client.Hello),
        (frame(type="message", client_id="a", text="hi"), wire_client.UserMessage),
        (frame(type="feedback", key="k", message_id="m", thumb=0), wire_client.Feedback),
        (frame(type="outcome", key="k", solved=True), wire_client.Outcome),
        (frame(type="csat", key="k", value=4), wire_client.Csat),
        (frame(type="retry", key="k", message_id="m"), wire_client.Retry),
        (frame(type="handover", key="k"), wire_client.Handover),
        (frame(type="settings", learn=False), wire_client.ChangeSettings),
        (frame(type="stop"), wire_client.Stop),
        (frame(type="ping"), wire_client.Ping),
    ],
)
def test_every_client_frame_of_the_protocol_is_read(text: str, kind: type[BaseModel]) -> None:
    """One model each."""
    assert type(wire_client.parse_client_frame(text)) is kind


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (frame(type="message", client_id="a"), "text: expected a value, got nothing"),
        (frame(type="message", client_id=7, text="x"), "client_id: expected to be a valid string, got 7"),
        (frame(type="outcome", key="k", solved="yes"), "solved: expected to be a valid boolean, got 'yes'"),
        (frame(type="csat", key="k", value=6), "value: expected to be less than or equal to 5, got 6"),
        (frame(type="feedback", key="k", message_id="m", thumb=1, x=2), "x: unknown field, got 2"),
        (
            frame(type="dance"),
            "type: expected hello, message, feedback, outcome, csat, retry, handover, settings, stop or ping",
        ),
        (frame(text="x"), "type: expected hello"),
        ("7", "frame: expected a JSON object, got 7"),
        ('"\\ud800"', "frame: expected JSON"),
        ("{'a': 1}", "frame: expected JSON"),
        (frame(type="hello", protocol=1, last_seq=2**63), "last_seq: "),
        (frame(type="hello", protocol=1, last_seq=-1), "last_seq: "),
    ],
)
def test_a_wrong_frame_is_refused_in_one_line(text: str, complaint: str) -> None:
    """Field, what was expected, what was got."""
    with pytest.raises(wire_errors.BadFrame) as refused:
        wire_client.parse_client_frame(text)
    assert str(refused.value).startswith(complaint)
    assert len(str(refused.value).splitlines()) == 1


def test_a_huge_value_is_shown_shortened() -> None:
    """An error must not echo 64 KiB."""
    with pytest.raises(wire_errors.BadFrame) as refused:
        wire_client.parse_client_frame(frame(type="x" * 50_000))
    assert len(str(refused.value)) < 200


def test_an_error_names_the_frame_it_is_about() -> None:
    """The page can mark the right message, and knows when to try again."""
    shown = wire.ErrorOut.of(errors.TooMuch("slowly", retry_after_s=2.345), client_id="a7")
    assert json.loads(wire.encode(shown)) == {
        "type": "error", "code": "too_much", "message": "slowly", "client_id": "a7", "retry_after_s": 2.3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (wire_errors.BadFrame("x"), "bad_frame", 400),
        (wire_errors.OutOfTurn("x"), "protocol", 400),
        (wire_errors.Unauthenticated("x"), "not_allowed", 401),
        (errors.NotAllowed("x"), "not_allowed", 403),
        (errors.NotFound("x"), "not_found", 404),
        (errors.ConflictError("x"), "conflict", 409),
        (wire_errors.TooLarge("x"), "too_much", 413),
        (errors.TooMuch("x"), "too_much", 429),
        (wire_errors.Busy("x"), "busy", 429),
        (errors.StoreError("x"), "unavailable", 503),
        (errors.ModelError("x"), "unavailable", 503),
        (errors.AdapterError("x"), "unavailable", 503),
        (wire_errors.Unavailable("x"), "unavailable", 503),
        (errors.DomainError("x"), "error", 500),
        (errors.RejoinderError("x"), "error", 500),
    ],
)
def test_every_error_has_one_code_and_one_status(error: errors.RejoinderError, code: str, status: int) -> None:
    """The table of docs/protocol.md."""
    assert (wire_errors.wire_code(error), wire_errors.http_status(error)) == (code, status)


def test_a_frame_out_leaves_out_what_does_not_apply() -> None:
    """Except hello, whose `partial` is always there."""
    assert wire.encode(wire.AckOut(kind="message", client_id="a", seq=2)) == (
        '{"type":"ack","kind":"message","client_id":"a","seq":2}'
    )
    hello = wire.HelloOut(
        conversation_id="c", token="t", ai_notice="", human_offer="", assistant="", version="v000000",
        reply="approved", learn=True, can_write=False, status="bot", messages=[], votes={},
    )  # fmt: skip
    assert json.loads(wire.encode(hello))["partial"] is None


def test_every_field_of_a_message_is_in_the_protocols_page() -> None:
    """And nothing else is."""
    page = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    found = re.search(r"A `message` object: `([^`]+)`", page)
    assert found is not None
    named = re.sub(r"\([^)]*\)|\[[^\]]*\]", "", found[1])
    assert set(re.findall(r"\w+", named)) == set(wire.MessageOut.model_fields)


def test_a_message_shows_titles_of_its_sources() -> None:
    """An article that is gone shows its id in words."""
    message = make_message(role="bot", decision_id="d1", sources=("card_arrival", "old_article"))
    shown = wire.MessageOut.of(message, make_domain())
    assert [(s.id, s.title) for s in shown.sources] == [
        ("card_arrival", "When your card comes"),
        ("old_article", "old article"),
    ]
    assert shown.can_vote


@pytest.mark.parametrize(
    "message", [make_message(role="user"), make_message(role="bot"), make_message(role="operator", decision_id="d")]
)
def test_only_replies_that_the_bot_chose_take_votes(message: Any) -> None:
    """A greeting has no decision behind it."""
    assert not wire.can_vote(message)


def test_the_newest_vote_of_this_person_is_in_force() -> None:
    """Older ones, other people's and other kinds of signals do not show."""
    signals = [
        make_signal(key="b", value=-1.0, label="wrong|unclear", seq=2),
        make_signal(key="a", value=1.0, seq=1),
        make_signal(key="c", value=1.0, author="p2", seq=3),
        make_signal(key="d", kind=SignalKind.OUTCOME, value=1.0, seq=4),
        make_signal(key="e", value=1.0, decision_id="d2", seq=5),
    ]
    messages = [make_message(id="m1", role="bot", decision_id="d1"), make_message(id="m2", role="bot")]
    votes = wire.votes_in_force(signals, messages, "p1")
    assert votes == {"m1": wire.VoteOut(thumb=-1, reasons=["wrong", "unclear"])}


def test_the_examples_in_the_schemas_are_valid() -> None:
    """What OpenAPI shows can be sent."""
    every: tuple[type[BaseModel], ...] = (*wire.FRAMES, wire_client.Vote)
    shown = [(model, model.model_json_schema().get("examples", [])) for model in every]
    assert [model.__name__ for model, examples in shown if examples] == [
        "Hello",
        "UserMessage",
        "Feedback",
        "Csat",
        "Retry",
        "Vote",
    ]
    for model, examples in shown:
        for example in examples:
            model.model_validate_json(json.dumps(example))

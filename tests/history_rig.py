"""A store filled in bulk: conversations with decisions, replies, thumbs, outcomes and hand-overs, as a shop would have."""

from __future__ import annotations

import random
from collections.abc import Iterator

from bot.conversation import Decision, LegalAct, Message, Signal, SignalKind
from bot.feedback import store_rows as rows
from bot.feedback.store import Store
from bot.feedback.store_connection import Connection
from tests.builders import make_conversation, make_decision, make_message, make_signal

TURNS = 4
ACTS = ("answer:card_arrival", "answer:lost_card", "clarify:card_arrival|lost_card", "handoff")
OTHERS = tuple(LegalAct(f"answer:article_{i}", (f"Question {i}?",), 0.1 * i) for i in range(16))
LEGAL = (*(LegalAct(act, (act,), 0.5) for act in ACTS), *OTHERS)
LOGPROBS = (-0.5, -1.5, -2.5, -3.5, *(-6.0 - 0.01 * i for i in range(16)))
WORDS = [
    "your",
    "card",
    "will",
    "arrive",
    "in",
    "five",
    "working",
    "days",
    "unless",
    "the",
    "address",
    "has",
    "changed",
    "since",
    "you",
    "ordered",
    "it",
]


def fill(store: Store, num_decisions: int, seed: int = 0) -> None:
    """`num_decisions` in conversations of TURNS; one transaction, through the store's own writer."""
    rng = random.Random(seed)

    def write(conn: Connection) -> None:
        for i in range(num_decisions // TURNS):
            for table, row in _conversation(i, rng):
                columns, places = ", ".join(row), ", ".join(f":{name}" for name in row)
                conn.execute(f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({places})", row)

    store._write(write)


def _conversation(i: int, rng: random.Random) -> Iterator[tuple[str, dict[str, object]]]:
    name, person = f"c{i:06d}", f"p{rng.randrange(1 + i // 2)}"
    solved = rng.random() < 0.7
    yield "conversations", rows.conversation_row(make_conversation(id=name, person_id=person, created_at=100.0 * i))
    for turn in range(1, TURNS + 1):
        decision, message = _reply(name, person, turn, 100.0 * i + turn, rng)
        for digest, texts in rows.act_texts_rows(decision) if i == 0 else ():
            yield "act_texts", {"digest": digest, "texts": texts}
        yield "decisions", rows.decision_row(decision)
        yield "messages", rows.message_row(message)
        if rng.random() < 0.4:
            value = 1.0 if rng.random() < (0.8 if solved else 0.4) else -1.0
            yield "signals", _signal(name, person, f"t{turn}", SignalKind.THUMB, value, decision)
    if rng.random() < 0.6:
        yield "signals", _signal(name, person, "o", SignalKind.OUTCOME, float(solved), None, 100.0 * i + 50)
    if rng.random() < 0.1:
        yield "signals", _signal(name, person, "h", SignalKind.HANDOVER, 1.0, None, 100.0 * i + 40)


def _reply(name: str, person: str, turn: int, at: float, rng: random.Random) -> tuple[Decision, Message]:
    decision = make_decision(
        id=f"{name}d{turn}",
        conversation_id=name,
        person_id=person,
        turn=turn,
        created_at=at,
        legal=LEGAL,
        logprobs=LOGPROBS,
        chosen=rng.choices(range(4), (6, 3, 1, 0.5))[0],
    )
    said = " ".join(WORDS[: rng.randrange(5, len(WORDS))])
    fields = {"id": f"{name}m{turn}", "conversation_id": name, "role": "bot", "text": said, "seq": turn}
    return decision, make_message(**fields, decision_id=decision.id, act=decision.act)


def _signal(
    name: str, person: str, key: str, kind: SignalKind, value: float, decision: Decision | None, at: float = 0.0
) -> dict[str, object]:
    signal: Signal = make_signal(
        key=f"{name}{key}",
        conversation_id=name,
        kind=kind,
        value=value,
        author=person,
        decision_id=decision.id if decision else "",
        created_at=at or (decision.created_at + 1 if decision else 0.0),
    )
    return rows.signal_row(signal)

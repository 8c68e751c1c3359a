"""What Lark can do: freeze a card and look up a transfer, with real effects in a demo database.

Owns `demo.db` in the home folder, which the executor names in the message's metadata; rows are seeded when a person
first needs them. Who is asking comes from the executor (`tracker.user_id`), never from what was written, and every
query is bound to that person.
"""

# ruff: noqa: ARG002 (rasa-sdk passes dispatcher, tracker and domain to every method, needed or not)

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rasa_sdk import Action, FormValidationAction, Tracker
from rasa_sdk.events import SlotSet
from rasa_sdk.executor import CollectingDispatcher

Events = list[dict[str, Any]]

_SCHEMA = """
create table if not exists cards (
    person_id text not null, last4 text not null, frozen_on text, primary key (person_id, last4)
) strict;
create table if not exists transfers (
    person_id text not null, reference text not null, payee text not null, amount_pence integer not null,
    status text not null check (status in ('completed', 'pending', 'declined')), sent_on text not null,
    primary key (person_id, reference)
) strict;
"""
_CARDS = ("4412", "0871")
_TRANSFERS = (
    ("TR-1001", "Maple Street Lettings", 64_000, "completed", 6),
    ("TR-1002", "J. Okafor", 2_550, "pending", 0),
    ("TR-1003", "Northgate Cycles", 128_900, "declined", 2),
)
"""Reference, payee, pence, status, age in days."""

_BUSY_TIMEOUT_S = 5.0
_FOUR_DIGITS = re.compile(r"(?<!\d)\d{4}(?!\d)")
_REFERENCE = re.compile(r"\bTR[-\s]?(\d{4})\b", re.IGNORECASE)
_YES = re.compile(r"\W*(yes|yeah|yep|sure|ok|okay|please do|go ahead|do it|confirm)\b", re.IGNORECASE)
_NO = re.compile(r"\W*(no|nope|don'?t|do not|stop|cancel|never ?mind)\b", re.IGNORECASE)


def _today() -> datetime:
    return datetime.now(UTC)


@contextmanager
def _rows(tracker: Tracker) -> Iterator[sqlite3.Connection]:
    """The demo database with this person's rows in it; committed on leaving, undone on an error."""
    path = Path(tracker.latest_message["metadata"]["home"]) / "demo.db"
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S)
    try:
        connection.executescript(_SCHEMA)
        with connection:
            _seed(connection, str(tracker.user_id))
            yield connection
    finally:
        connection.close()


def _seed(connection: sqlite3.Connection, person_id: str) -> None:
    connection.executemany("insert or ignore into cards values (?, ?, null)", [(person_id, card) for card in _CARDS])
    connection.executemany(
        "insert or ignore into transfers values (?, ?, ?, ?, ?, ?)",
        [(person_id, ref, payee, pence, status, _ago(days)) for ref, payee, pence, status, days in _TRANSFERS],
    )


def _ago(days: int) -> str:
    return (_today() - timedelta(days=days)).date().isoformat()


def _spoken_date(iso_date: str) -> str:
    day = datetime.fromisoformat(iso_date)
    return f"{day.day} {day:%B %Y}"


def _pounds(pence: int) -> str:
    return f"£{pence / 100:,.2f}"


def _text(tracker: Tracker) -> str:
    return str(tracker.latest_message.get("text", ""))


class FreezeCard(Action):
    """Freezes the confirmed card. Doing it twice changes nothing and says so."""

    def name(self) -> str:
        return "action_freeze_card"

    def run(self, dispatcher: CollectingDispatcher, tracker: Tracker, domain: dict[str, Any]) -> Events:
        last4 = tracker.get_slot("card_last4")
        if tracker.get_slot("freeze_confirmed") is True:
            self._freeze(dispatcher, tracker, last4)
        else:
            dispatcher.utter_message(response="utter_card_not_frozen", card_last4=last4)
        return [SlotSet("card_last4", None), SlotSet("freeze_confirmed", None)]

    def _freeze(self, dispatcher: CollectingDispatcher, tracker: Tracker, last4: str) -> None:
        key = (tracker.user_id, last4)
        with _rows(tracker) as rows:
            row = rows.execute("select frozen_on from cards where person_id = ? and last4 = ?", key).fetchone()
            fresh = rows.execute(
                "update cards set frozen_on = ? where person_id = ? and last4 = ? and frozen_on is null",
                (_ago(0), *key),
            ).rowcount
        if fresh:
            dispatcher.utter_message(response="utter_card_frozen", card_last4=last4)
        elif row:
            said = _spoken_date(row[0])
            dispatcher.utter_message(response="utter_card_already_frozen", card_last4=last4, frozen_on=said)
        else:
            dispatcher.utter_message(response="utter_action_failed")


class ValidateFreezeCardForm(FormValidationAction):
    """Reads the card's last four digits and a yes or no."""

    def name(self) -> str:
        return "validate_freeze_card_form"

    def extract_card_last4(self, dispatcher: CollectingDispatcher, tracker: Tracker, domain: Any) -> dict[str, Any]:
        found = _FOUR_DIGITS.findall(_text(tracker))
        is_wanted = tracker.get_slot("requested_slot") in (None, "card_last4")
        return {"card_last4": found[0]} if len(found) == 1 and is_wanted else {}

    def validate_card_last4(
        self, value: Any, dispatcher: CollectingDispatcher, tracker: Tracker, domain: Any
    ) -> dict[str, Any]:
        last4 = str(value).strip()
        if not _FOUR_DIGITS.fullmatch(last4):
            dispatcher.utter_message(response="utter_card_not_understood")
            return {"card_last4": None}
        with _rows(tracker) as rows:
            query = "select last4 from cards where person_id = ? order by last4"
            known = [row[0] for row in rows.execute(query, (tracker.user_id,))]
        if last4 in known:
            return {"card_last4": last4}
        said = " and ".join(known)
        dispatcher.utter_message(response="utter_no_such_card", card_last4=last4, known_cards=said)
        return {"card_last4": None}

    def validate_freeze_confirmed(
        self, value: Any, dispatcher: CollectingDispatcher, tracker: Tracker, domain: Any
    ) -> dict[str, Any]:
        if isinstance(value, bool):
            return {"freeze_confirmed": value}
        yes, no = _YES.match(str(value)), _NO.match(str(value))
        if yes or no:
            return {"freeze_confirmed": bool(yes)}
        dispatcher.utter_message(response="utter_confirmation_not_understood")
        return {"freeze_confirmed": None}


class LookUpTransfer(Action):
    """Says amount, date and status of one of the person's own transfers."""

    def name(self) -> str:
        return "action_look_up_transfer"

    def run(self, dispatcher: CollectingDispatcher, tracker: Tracker, domain: dict[str, Any]) -> Events:
        reference = tracker.get_slot("transfer_reference")
        with _rows(tracker) as rows:
            row = _transfer(rows, tracker, reference)
        if row is None:
            dispatcher.utter_message(response="utter_no_such_transfer", transfer_reference=reference)
        else:
            payee, pence, status, sent_on = row
            dispatcher.utter_message(
                response=f"utter_transfer_{status}",
                transfer_reference=reference,
                payee=payee,
                amount=_pounds(pence),
                sent_on=_spoken_date(sent_on),
            )
        return [SlotSet("transfer_reference", None)]


def _transfer(rows: sqlite3.Connection, tracker: Tracker, reference: str) -> Any:
    query = "select payee, amount_pence, status, sent_on from transfers where person_id = ? and reference = ?"
    return rows.execute(query, (tracker.user_id, reference)).fetchone()


class ValidateTransferForm(FormValidationAction):
    """Reads a transfer's reference; one that is not the person's own does not exist for them."""

    def name(self) -> str:
        return "validate_transfer_form"

    def extract_transfer_reference(
        self, dispatcher: CollectingDispatcher, tracker: Tracker, domain: Any
    ) -> dict[str, Any]:
        found = _REFERENCE.search(_text(tracker))
        return {"transfer_reference": found.group(0)} if found else {}

    def validate_transfer_reference(
        self, value: Any, dispatcher: CollectingDispatcher, tracker: Tracker, domain: Any
    ) -> dict[str, Any]:
        found = _REFERENCE.search(str(value))
        if not found:
            dispatcher.utter_message(response="utter_reference_not_understood")
            return {"transfer_reference": None}
        reference = f"TR-{found.group(1)}"
        with _rows(tracker) as rows:
            row = _transfer(rows, tracker, reference)
        if row is not None:
            return {"transfer_reference": reference}
        dispatcher.utter_message(response="utter_no_such_transfer", transfer_reference=reference)
        return {"transfer_reference": None}

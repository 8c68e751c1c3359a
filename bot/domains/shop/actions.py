"""What Pip can do: look up an order in the demo database.

Owns the `orders` table of `demo.db` in the home folder, which the executor names in the message's metadata; rows are
seeded when a person first needs them. Who is asking comes from the executor (`tracker.user_id`), never from what was
written, and every query is bound to that person.
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

_SCHEMA = """
create table if not exists orders (
    person_id text not null, number text not null, item text not null,
    status text not null check (status in ('packing', 'sent', 'delivered')), expected_on text not null,
    primary key (person_id, number)
) strict;
"""
_ORDERS = (
    ("200101", "linen shirt", "delivered", -3),
    ("200102", "walking shoes", "sent", 2),
    ("200103", "rain jacket", "packing", 1),
)
"""Number, item, status, days until delivery or dispatch."""

_BUSY_TIMEOUT_S = 5.0
_NUMBER = re.compile(r"(?<!\d)\d{6}(?!\d)")


@contextmanager
def _rows(tracker: Tracker) -> Iterator[sqlite3.Connection]:
    """The demo database with this person's orders in it; committed on leaving, undone on an error."""
    path = Path(tracker.latest_message["metadata"]["home"]) / "demo.db"
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S)
    try:
        connection.executescript(_SCHEMA)
        with connection:
            connection.executemany(
                "insert or ignore into orders values (?, ?, ?, ?, ?)",
                [(tracker.user_id, number, item, status, _in(days)) for number, item, status, days in _ORDERS],
            )
            yield connection
    finally:
        connection.close()


def _in(days: int) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).date().isoformat()


def _order(tracker: Tracker, number: str) -> Any:
    query = "select item, status, expected_on from orders where person_id = ? and number = ?"
    with _rows(tracker) as rows:
        return rows.execute(query, (tracker.user_id, number)).fetchone()


class OrderStatus(Action):
    """Says where one of the person's own orders is."""

    def name(self) -> str:
        return "action_order_status"

    def run(self, dispatcher: CollectingDispatcher, tracker: Tracker, domain: dict[str, Any]) -> list[dict[str, Any]]:
        number = tracker.get_slot("order_number")
        row = _order(tracker, number)
        if row is None:
            dispatcher.utter_message(response="utter_no_such_order", order_number=number)
        else:
            item, status, expected_on = row
            day = datetime.fromisoformat(expected_on)
            said = f"{day.day} {day:%B %Y}"
            response = f"utter_order_{status}"
            dispatcher.utter_message(response=response, order_number=number, item=item, expected_on=said)
        return [SlotSet("order_number", None)]


class ValidateOrderForm(FormValidationAction):
    """Reads an order number; one that is not the person's own does not exist for them."""

    def name(self) -> str:
        return "validate_order_form"

    def extract_order_number(self, dispatcher: CollectingDispatcher, tracker: Tracker, domain: Any) -> dict[str, Any]:
        found = _NUMBER.search(str(tracker.latest_message.get("text", "")))
        return {"order_number": found.group(0)} if found else {}

    def validate_order_number(
        self, value: Any, dispatcher: CollectingDispatcher, tracker: Tracker, domain: Any
    ) -> dict[str, Any]:
        found = _NUMBER.search(str(value))
        if not found:
            dispatcher.utter_message(response="utter_order_number_not_understood")
            return {"order_number": None}
        number = found.group(0)
        if _order(tracker, number) is not None:
            return {"order_number": number}
        dispatcher.utter_message(response="utter_no_such_order", order_number=number)
        return {"order_number": None}

"""What a step did beside speaking, as Rasa's events: the action that ran, slots and forms that changed. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bot.session_types import ActionResult, Tracker

Event = dict[str, Any]


def action_ran(name: str, done: ActionResult) -> tuple[Event, ...]:
    """The action itself, with one line of why where it failed, and what it reported beside slots."""
    failed = {"error": done.error} if done.error else {}
    return ({"event": "action", "name": name} | failed, *done.events)


def happened(before: Tracker, after: Tracker, ran: Iterable[Event] = ()) -> tuple[Event, ...]:
    """Everything of one step: what ran, slots that hold something else now, the form that began or ended."""
    names = dict.fromkeys((*before.slots, *after.slots))
    changed = [name for name in names if before.slots.get(name) != after.slots.get(name)]
    slots = [{"event": "slot", "name": name, "value": after.slots.get(name)} for name in changed]
    moved = before.active_form != after.active_form
    form = [{"event": "active_loop", "name": after.active_form or None}] if moved else []
    return (*ran, *slots, *form)

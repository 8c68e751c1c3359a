"""What a step did beside speaking."""

from __future__ import annotations

from bot.actions.executor import ActionResult
from bot.happenings import action_ran, happened
from bot.session_types import Tracker


def test_a_step_that_only_spoke_did_nothing() -> None:
    """The same slots, the same form."""
    assert happened(Tracker({"card": "4412"}, "freeze_form"), Tracker({"card": "4412"}, "freeze_form")) == ()


def test_what_ran_then_changed_slots_then_the_form() -> None:
    """Slots that are emptied are told as null, and so is a form that ended."""
    ran = action_ran("action_freeze", ActionResult(events=({"event": "reminder", "name": "r"},)))
    before, after = Tracker({"card": "4412", "city": "Graz"}, "freeze_form"), Tracker({"card": None, "city": "Graz"})
    assert happened(before, after, ran) == (
        {"event": "action", "name": "action_freeze"},
        {"event": "reminder", "name": "r"},
        {"event": "slot", "name": "card", "value": None},
        {"event": "active_loop", "name": None},
    )


def test_an_action_that_failed_says_why() -> None:
    """One line."""
    assert action_ran("a", ActionResult(error="action a: no answer")) == (
        {"event": "action", "name": "a", "error": "action a: no answer"},
    )

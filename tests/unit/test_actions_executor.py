"""The executor: rasa-sdk in this process, without its traps. Real rasa-sdk, real threads, a small domain."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from bot.actions.executor import Actions, FormStep
from bot.conversation import State, Turn
from bot.domain import Domain, load_domain
from bot.errors import DomainError, NotFound
from tests.domain_folder import ACTIONS, DOMAIN, write_domain

IMPORTS = """import sys, threading, time
from rasa_sdk import Action, FormValidationAction
from rasa_sdk.events import AllSlotsReset, FollowupAction, SlotSet
from rasa_sdk.interfaces import ActionExecutionRejection
"""


def make_state(text: str = "hello", **overrides: Any) -> State:
    """A conversation whose last line is the user's `text`."""
    fields: dict[str, Any] = {"conversation_id": "c1", "turns": (Turn("bot", "Hi"), Turn("user", text))}
    return State(**fields | overrides)


def domain_running(folder: Path, body: str) -> Domain:
    """A domain whose `action_book` runs `body`."""
    actions = IMPORTS + ACTIONS.replace(
        '        dispatcher.utter_message(response="utter_booked", person=tracker.user_id)\n        return []\n',
        "".join(f"        {line}\n" for line in body.splitlines()),
    )
    return load_domain(str(write_domain(folder, actions=actions)))


async def run(folder: Path, body: str, **state: Any) -> Any:
    """Run `body` as an action and give its result."""
    domain = domain_running(folder, body)
    return await Actions(folder).run("action_book", state=make_state(**state), person_id="p1", domain=domain)


async def test_a_response_is_filled_with_variables_and_slots(tmp_path: Path) -> None:
    """A variable of the call wins over a slot of the same name."""
    body = 'dispatcher.utter_message(response="utter_booked", person="Ada")'

    result = await run(tmp_path, body, slots={"city": "Oslo", "person": "Bob"})

    assert result.texts == ("Booked Oslo for Ada",)
    assert result.error == ""


async def test_texts_and_buttons_come_in_order(tmp_path: Path) -> None:
    """Plain text, a response with buttons, and buttons of the call."""
    body = (
        'dispatcher.utter_message(text="First {city}")\n'
        'dispatcher.utter_message(response="utter_ask_size", buttons=[{"title": "medium", "payload": "/m"}])'
    )

    result = await run(tmp_path, body)

    assert result.texts == ("First {city}", "Which size")
    assert result.buttons == ("small", "large", "medium")


async def test_slot_events_become_slots_and_others_stay_events(tmp_path: Path) -> None:
    """A reset goes back to initial values; later events win."""
    result = await run(tmp_path, 'return [AllSlotsReset(), SlotSet("city", "Bergen"), FollowupAction("action_x")]')

    assert result.slots == {"city": "Bergen", "size": None}
    assert [event["event"] for event in result.events] == ["followup"]


async def test_the_action_knows_the_person_from_us_and_not_from_the_text(tmp_path: Path) -> None:
    """`tracker.user_id` is what the executor was given."""
    result = await run(tmp_path, "dispatcher.utter_message(text=tracker.user_id)", text="I am p2, user_id=p2")

    assert result.texts == ("p1",)


async def test_an_action_cannot_change_the_callers_slots_or_domain(tmp_path: Path) -> None:
    """It works on copies: rasa-sdk keeps and changes what it is given."""
    body = 'tracker.slots["city"] = "X"\ntracker.slots["list"].append(1)\ndomain["responses"].clear()\nreturn []'
    domain = domain_running(tmp_path, body)
    state = make_state(slots={"city": "Oslo", "list": []})

    await Actions(tmp_path).run("action_book", state=state, person_id="p1", domain=domain)

    assert state.slots == {"city": "Oslo", "list": []}
    assert "utter_greet" in domain.raw["responses"]


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ('raise ValueError("no\\nseats")', "action action_book: ValueError: no seats"),
        ('raise ActionExecutionRejection("action_book", "not now")', "action action_book: ActionExecutionRejection: not now"),
        ("sys.exit(1)", "action action_book: RuntimeError: it raised SystemExit(1)"),
        ('raise TimeoutError("far away")', "action action_book: RuntimeError: it raised TimeoutError('far away')"),
        ('dispatcher.utter_message(response="utter_nothing")', "action action_book: LookupError: expected a response of the domain, got 'utter_nothing'"),
    ],
)  # fmt: skip
async def test_a_failing_action_gives_one_clear_line_and_the_domains_apology(
    tmp_path: Path, body: str, line: str
) -> None:
    """Whatever it raises, the chat goes on and nothing is set."""
    result = await run(tmp_path, body)

    assert result.error == line
    assert result.texts == ("That failed",)
    assert result.slots == {}


async def test_a_slow_action_is_given_up_and_holds_nobody_up(tmp_path: Path) -> None:
    """A synchronous action that blocks: others run meanwhile, and it fails after the time limit."""
    release = threading.Event()
    sys.modules["rejoinder_test_release"] = release  # type: ignore[assignment]
    domain = domain_running(tmp_path, 'if tracker.user_id == "slow":\n    sys.modules["rejoinder_test_release"].wait()')
    actions = Actions(tmp_path, timeout_s=0.3)

    slow = asyncio.create_task(actions.run("action_book", state=make_state(), person_id="slow", domain=domain))
    quick = await actions.run("action_book", state=make_state(), person_id="quick", domain=domain)

    assert quick.error == ""
    assert not slow.done()
    assert (await slow).error == "action action_book: expected an answer within 0.3 s, got none"
    release.set()
    del sys.modules["rejoinder_test_release"]


async def test_abandoned_actions_are_counted_and_bounded(tmp_path: Path) -> None:
    """A thread cannot be killed, so there is a limit to how many may hang."""
    release = threading.Event()
    sys.modules["rejoinder_test_hang"] = release  # type: ignore[assignment]
    domain = domain_running(tmp_path, 'sys.modules["rejoinder_test_hang"].wait()')
    actions = Actions(tmp_path, timeout_s=0.05, max_running=1)

    first = await actions.run("action_book", state=make_state(), person_id="p1", domain=domain)
    second = await actions.run("action_book", state=make_state(), person_id="p1", domain=domain)
    release.set()
    del sys.modules["rejoinder_test_hang"]

    assert first.error.endswith("got none")
    assert second.error == "action action_book: RuntimeError: expected at most 1 actions at a time, got one more"


async def test_only_the_domains_own_actions_are_registered(tmp_path: Path) -> None:
    """Two domains with an action of one name do not meet."""
    one = domain_running(tmp_path / "one", 'dispatcher.utter_message(text="one")')
    two = domain_running(tmp_path / "two", 'dispatcher.utter_message(text="two")')
    actions = Actions(tmp_path)

    said = [await actions.run("action_book", state=make_state(), person_id="p", domain=d) for d in (one, two, one)]

    assert [result.texts for result in said] == [("one",), ("two",), ("one",)]


@pytest.mark.parametrize("first_line", ["import nowhere_to_be_found", "import sys; sys.exit(1)", "1 / 0"])
async def test_an_actions_file_that_does_not_import_is_a_domain_error(tmp_path: Path, first_line: str) -> None:
    """rasa-sdk itself would end the process here."""
    domain = load_domain(str(write_domain(tmp_path, actions=f"{first_line}\n{ACTIONS}")))

    with pytest.raises(DomainError, match=r"actions.py: expected a file that can be imported, got "):
        await Actions(tmp_path).run("action_book", state=make_state(), person_id="p1", domain=domain)


async def test_an_unknown_action_or_form_is_not_found(tmp_path: Path) -> None:
    """The message names what there is."""
    domain = load_domain(str(write_domain(tmp_path)))
    actions = Actions(tmp_path)

    with pytest.raises(NotFound, match=r"expected one of action_book, got 'action_fly'"):
        await actions.run("action_fly", state=make_state(), person_id="p1", domain=domain)
    with pytest.raises(NotFound, match=r"expected one of trip_form, got 'fly_form'"):
        await actions.fill("fly_form", state=make_state(), person_id="p1", domain=domain)


# --- forms ----------------------------------------------------------------------------------------------------------


async def fill(folder: Path, text: str, *, actions: str = ACTIONS, domain: str = DOMAIN, **state: Any) -> FormStep:
    """One step of `trip_form`."""
    loaded = load_domain(str(write_domain(folder, actions=actions, domain=domain)))
    said = make_state(text, active_form="trip_form", **state)
    return await Actions(folder).fill("trip_form", state=said, person_id="p1", domain=loaded)


async def test_a_form_without_validator_takes_the_text_and_asks_the_next(tmp_path: Path) -> None:
    """The requested slot gets what the user wrote."""
    step = await fill(tmp_path, "Oslo", requested_slot="city")

    assert step == FormStep({"city": "Oslo"}, "size", ())


async def test_a_categorical_slot_takes_only_its_values(tmp_path: Path) -> None:
    """In any case of letters; anything else is asked again."""
    good = await fill(tmp_path / "a", " LARGE ", requested_slot="size", slots={"city": "Oslo"})
    bad = await fill(tmp_path / "b", "huge", requested_slot="size", slots={"city": "Oslo"})

    assert good == FormStep({"size": "large"}, None, ())
    assert bad == FormStep({"size": None}, "size", ())


async def test_a_form_that_starts_takes_nothing_from_the_message(tmp_path: Path) -> None:
    """The text that asked for the form is not an answer."""
    assert await fill(tmp_path, "book a trip") == FormStep({}, "city", ())


VALIDATOR = (
    IMPORTS
    + ACTIONS
    + """

class ValidateTrip(FormValidationAction):
    def name(self):
        return "validate_trip_form"

    def validate_city(self, value, dispatcher, tracker, domain):
        if value == "Atlantis":
            dispatcher.utter_message(text=f"{value} is under water")
            return {"city": None}
        return {"city": value.title()}
"""
)
WITH_VALIDATOR = DOMAIN.replace("[action_book]", "[action_book, validate_trip_form]")


async def test_a_validator_corrects_or_rejects_and_says_why(tmp_path: Path) -> None:
    """A rejected slot is None again and asked again."""
    good = await fill(tmp_path / "a", "oslo", actions=VALIDATOR, domain=WITH_VALIDATOR, requested_slot="city")
    bad = await fill(tmp_path / "b", "Atlantis", actions=VALIDATOR, domain=WITH_VALIDATOR, requested_slot="city")

    assert good == FormStep({"city": "Oslo"}, "size", ())
    assert bad == FormStep({"city": None}, "city", ("Atlantis is under water",))


async def test_a_validator_that_fails_asks_the_same_again(tmp_path: Path) -> None:
    """Nothing is set, and the person is told."""
    broken = VALIDATOR.replace('if value == "Atlantis"', "if 1 / 0")

    step = await fill(tmp_path, "Oslo", actions=broken, domain=WITH_VALIDATOR, requested_slot="city")

    error = "action validate_trip_form: ZeroDivisionError: division by zero"
    assert step == FormStep({}, "city", ("That failed",), error)


async def test_a_form_may_choose_its_own_order(tmp_path: Path) -> None:
    """Overridden `required_slots` decide what is asked, also that nothing more is."""
    method = """
    async def required_slots(self, domain_slots, dispatcher, tracker, domain):
        return ["city"]
"""
    chosen = VALIDATOR + method

    step = await fill(tmp_path, "oslo", actions=chosen, domain=WITH_VALIDATOR, requested_slot="city")

    assert step == FormStep({"city": "Oslo"}, None, ())


def test_importing_the_executor_does_not_import_rasa_sdk() -> None:
    """It is heavy, and a chat without actions does not need it."""
    code = "import sys, bot.actions.executor, bot.domain; print('rasa_sdk' in sys.modules, 'torch' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False", "False"]

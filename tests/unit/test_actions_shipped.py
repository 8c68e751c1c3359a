"""What the shipped actions do, in a real SQLite file: each person sees and changes their own rows only."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.actions.executor import ActionResult, Actions, FormStep
from bot.conversation import State, Turn
from bot.domain import Domain, load_domain


@pytest.fixture(scope="module")
def bank() -> Domain:
    """The shipped bank."""
    return load_domain("bank")


class Person:
    """Talks to one domain's actions as one person, keeping slots as a session does."""

    def __init__(self, home: Path, domain: Domain, person_id: str = "p1") -> None:
        self.actions, self.domain, self.person_id = Actions(home), domain, person_id
        self.state = State("c1", ())

    async def fill(self, form: str, text: str, requested_slot: str = "") -> FormStep:
        turn = Turn("user", text)
        self.state = replace(self.state, turns=(turn,), active_form=form, requested_slot=requested_slot)
        step = await self.actions.fill(form, state=self.state, person_id=self.person_id, domain=self.domain)
        self.state = replace(self.state, slots=self.state.slots | step.slots)
        return step

    async def run(self, name: str, **slots: Any) -> ActionResult:
        self.state = replace(self.state, slots=self.state.slots | slots)
        result = await self.actions.run(name, state=self.state, person_id=self.person_id, domain=self.domain)
        self.state = replace(self.state, slots=self.state.slots | result.slots)
        return result


def rows(home: Path, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """Read or write the demo database directly."""
    with closing(sqlite3.connect(home / "demo.db")) as connection, connection:
        return connection.execute(query, values).fetchall()


async def test_a_card_is_frozen_after_digits_and_a_yes(tmp_path: Path, bank: Domain) -> None:
    """The whole form, and the row on disk."""
    person = Person(tmp_path, bank)

    assert await person.fill("freeze_card_form", "please freeze my card") == FormStep({}, "card_last4", ())
    assert (await person.fill("freeze_card_form", "it ends in 4412", "card_last4")).next_slot == "freeze_confirmed"
    assert (await person.fill("freeze_card_form", "Yes, please", "freeze_confirmed")).next_slot is None
    said = await person.run("action_freeze_card")

    assert said.texts[0].startswith("Done, your card ending in 4412 is frozen.")
    assert rows(tmp_path, "select last4 from cards where frozen_on is not null") == [("4412",)]
    assert person.state.slots == {"card_last4": None, "freeze_confirmed": None}


async def test_the_digits_are_taken_from_the_first_message(tmp_path: Path, bank: Domain) -> None:
    """Nobody is asked for what they have already said."""
    step = await Person(tmp_path, bank).fill("freeze_card_form", "Freeze my card ending 0871 now!")

    assert step == FormStep({"card_last4": "0871"}, "freeze_confirmed", ())


async def test_freezing_twice_changes_nothing_and_says_so(tmp_path: Path, bank: Domain) -> None:
    """The first day stays."""
    person = Person(tmp_path, bank)
    await person.run("action_freeze_card", card_last4="4412", freeze_confirmed=True)
    rows(tmp_path, "update cards set frozen_on = '2026-03-04' where last4 = '4412'")

    said = await person.run("action_freeze_card", card_last4="4412", freeze_confirmed=True)

    assert said.texts == (
        "Your card ending in 4412 was already frozen on 4 March 2026, so there is nothing more to do.",
    )
    assert rows(tmp_path, "select frozen_on from cards where last4 = '4412'") == [("2026-03-04",)]


async def test_a_no_leaves_the_card_alone(tmp_path: Path, bank: Domain) -> None:
    """Nothing is written, and the answer says so."""
    person = Person(tmp_path, bank)
    await person.fill("freeze_card_form", "4412", "card_last4")
    step = await person.fill("freeze_card_form", "no thanks", "freeze_confirmed")
    said = await person.run("action_freeze_card")

    assert step == FormStep({"freeze_confirmed": False}, None, ())
    assert said.texts == ("All right, I have left your card ending in 4412 as it is.",)
    assert rows(tmp_path, "select * from cards where frozen_on is not null") == []


@pytest.mark.parametrize("text", ["maybe", "I am not sure", "yesterday I lost it", "", "nothing"])
async def test_neither_yes_nor_no_is_asked_again(tmp_path: Path, bank: Domain, text: str) -> None:
    """A word that only begins like yes or no confirms nothing."""
    person = Person(tmp_path, bank)
    await person.fill("freeze_card_form", "4412", "card_last4")

    step = await person.fill("freeze_card_form", text, "freeze_confirmed")

    assert step == FormStep({"freeze_confirmed": None}, "freeze_confirmed", ("Please answer yes or no.",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("the blue one", "I need exactly the last four digits of the card."),
        ("4412 0871", "I need exactly the last four digits of the card."),
        ("9999", "I find no card ending in 9999 among yours. Your cards end in 0871 and 4412."),
        ("1234441255555", "I need exactly the last four digits of the card."),
    ],
)
async def test_a_card_that_is_not_theirs_is_refused(tmp_path: Path, bank: Domain, text: str, said: str) -> None:
    """And the person learns which cards are."""
    step = await Person(tmp_path, bank).fill("freeze_card_form", text, "card_last4")

    assert step == FormStep({"card_last4": None}, "card_last4", (said,))


async def test_an_unconfirmed_freeze_does_nothing(tmp_path: Path, bank: Domain) -> None:
    """The action itself insists on the yes, whoever calls it."""
    await Person(tmp_path, bank).run("action_freeze_card", card_last4="4412", freeze_confirmed="yes")

    assert not (tmp_path / "demo.db").exists()


async def test_a_transfer_shows_amount_payee_date_and_status(tmp_path: Path, bank: Domain) -> None:
    """As stored, in words."""
    person = Person(tmp_path, bank)
    step = await person.fill("transfer_form", "where is tr 1001?")
    rows(tmp_path, "update transfers set sent_on = '2026-11-02' where reference = 'TR-1001'")
    said = await person.run("action_look_up_transfer")

    assert step == FormStep({"transfer_reference": "TR-1001"}, None, ())
    expected = "Transfer TR-1001 of £640.00 to Maple Street Lettings, sent on 2 November 2026, is completed."
    assert said.texts == (expected,)
    assert person.state.slots == {"transfer_reference": None}


@pytest.mark.parametrize(("reference", "word"), [("TR-1002", "still pending"), ("TR-1003", "was declined")])
async def test_each_status_has_its_own_wording(tmp_path: Path, bank: Domain, reference: str, word: str) -> None:
    """Pending and declined are not completed."""
    said = await Person(tmp_path, bank).run("action_look_up_transfer", transfer_reference=reference)

    assert word in said.texts[0]


async def test_a_person_cannot_see_another_persons_transfer(tmp_path: Path, bank: Domain) -> None:
    """Neither by its reference, nor by claiming to be the other; the owner can (the control)."""
    ann, bob = Person(tmp_path, bank, "ann"), Person(tmp_path, bank, "bob")
    await ann.fill("transfer_form", "TR-1001")
    rows(tmp_path, "insert into transfers values ('ann', 'TR-9009', 'Clinic', 9900, 'completed', '2026-11-01')")

    asked = await bob.fill("transfer_form", "I am ann, person_id=ann, show TR-9009", "transfer_reference")
    forced = await bob.run("action_look_up_transfer", transfer_reference="TR-9009")
    own = await ann.run("action_look_up_transfer", transfer_reference="TR-9009")

    no = "I find no transfer with the reference TR-9009 among yours. Please check it in the app."
    assert asked == FormStep({"transfer_reference": None}, "transfer_reference", (no,))
    assert forced.texts == (no,)
    assert "Clinic" in own.texts[0]


async def test_freezing_touches_no_card_of_another_person(tmp_path: Path, bank: Domain) -> None:
    """Both have a card ending in 4412."""
    await Person(tmp_path, bank, "ann").fill("freeze_card_form", "4412", "card_last4")
    await Person(tmp_path, bank, "bob").run("action_freeze_card", card_last4="4412", freeze_confirmed=True)

    assert rows(tmp_path, "select person_id from cards where frozen_on is not null") == [("bob",)]


async def test_quotes_in_a_reference_are_only_text(tmp_path: Path, bank: Domain) -> None:
    """Values are bound, never pasted into SQL."""
    said = await Person(tmp_path, bank).run("action_look_up_transfer", transfer_reference="x' or '1'='1")

    assert said.error == ""
    assert said.texts[0].startswith("I find no transfer")


async def test_two_homes_never_touch_each_other(tmp_path: Path, bank: Domain) -> None:
    """The database lies in the home that the executor was given."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    await Person(one, bank).run("action_freeze_card", card_last4="4412", freeze_confirmed=True)
    await Person(two, bank).run("action_look_up_transfer", transfer_reference="TR-1001")

    assert rows(one, "select count(*) from cards where frozen_on is not null") == [(1,)]
    assert rows(two, "select count(*) from cards where frozen_on is not null") == [(0,)]


async def test_a_home_that_cannot_be_written_fails_with_one_line(tmp_path: Path, bank: Domain) -> None:
    """The person reads the domain's apology; the log gets the reason."""
    said = await Person(tmp_path / "missing", bank).run("action_look_up_transfer", transfer_reference="TR-1001")

    assert said.error == "action action_look_up_transfer: OperationalError: unable to open database file"
    assert said.texts[0].startswith("I'm sorry, I could not do that just now")


async def test_the_shop_finds_an_order_of_ones_own(tmp_path: Path) -> None:
    """And no order of somebody else."""
    shop = load_domain("shop")
    ann, bob = Person(tmp_path, shop, "ann"), Person(tmp_path, shop, "bob")
    step = await ann.fill("order_form", "where is order 200102")
    found = await ann.run("action_order_status")
    rows(tmp_path, "insert into orders values ('ann', '777777', 'ring', 'sent', '2026-11-30')")
    hidden = await bob.fill("order_form", "777777", "order_number")

    assert step == FormStep({"order_number": "200102"}, None, ())
    assert found.texts[0].startswith("Order 200102 (walking shoes) is on its way")
    assert hidden.texts == ("I find no order 777777 among yours. Please check the number in My orders.",)

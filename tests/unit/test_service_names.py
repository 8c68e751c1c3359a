"""What end users may read of the staff: a name, never an e-mail address."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bot.feedback.desk import Doing
from bot.feedback.desk_records import Account
from bot.identity import SESSION_COOKIE
from bot.oidc import Person
from bot.staff import Staff
from bot.wire import MessageOut
from tests.builders import make_message
from tests.service_rig import QUICK, Live, Rig, live, make_domain, open_rig

ADDRESS = "ana@example.org"
DOING = Doing(f"operator:{ADDRESS}", 1000.0)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with open_rig(tmp_path) as rig:
        yield rig


def staff_of(rig: Rig) -> Staff:
    staff: Staff = rig.app.state.service.staff
    return staff


def admitted(rig: Rig, display_name: str = "", name: str = ADDRESS) -> Account:
    """Somebody who signed in with the provider."""
    return staff_of(rig).admit(DOING, Person("https://id.example u-17", name, "operator", display_name))


def as_member(rig: Rig, account: Account) -> dict[str, str]:
    session = rig.parts.identity.session(rig.clock(), account.name, account.session_epoch)
    return {"Cookie": f"{SESSION_COOKIE}={session}"}


async def spoken(rig: Rig, server: Live, account: Account) -> dict[str, Any]:
    """A take-over, a message and a hand-back, as everybody reads them: `person` all that the end user got."""
    async with server.tab() as tab, httpx.AsyncClient(base_url=server.http, trust_env=False) as client:
        path, staff = f"/v1/conversations/{tab.hello['conversation_id']}", as_member(rig, account)
        assert (await client.post(f"{path}/takeover", json={}, headers=staff)).status_code == 200
        said = await client.post(f"{path}/say", json={"key": "k", "text": "Yes, I am here."}, headers=staff)
        while (await tab.next("message"))["message"]["role"] != "operator":
            pass
        async with server.tab(**tab.credentials) as late:
            frames = [*tab.frames, late.hello]
        bearer = {"Authorization": f"Bearer {tab.hello['token']}"}
        mine = [(await client.get(path + tail, headers=bearer)).text for tail in ("", "/download")]
        theirs = (await client.get(path, headers=staff)).json()
        assert (await client.post(f"{path}/handback", json={}, headers=staff)).status_code == 200
        frames += [await tab.next("message"), await tab.next("status")]
    return {"person": json.dumps(frames) + "".join(mine), "hello": late.hello, "staff": theirs, "said": said.json()}


async def test_who_signed_in_with_an_address_speaks_under_their_display_name(rig: Rig) -> None:
    """In every frame, in the transcript and in the download; the staff reads the account."""
    async with live(rig.app) as server:
        found = await spoken(rig, server, admitted(rig, "Ana"))
    assert "@" not in found["person"]
    assert found["hello"]["operator"] == "Ana"
    events = [line for line in found["hello"]["messages"] if line["role"] == "system"]
    assert events[0]["text"].startswith("Ana from customer service has joined.")
    assert (events[0]["event"], events[0]["author"]) == ("joined", "Ana")
    assert [line["author"] for line in found["hello"]["messages"] if line["role"] == "operator"] == ["Ana"]
    assert found["said"]["message"]["author"] == ADDRESS
    assert found["staff"]["messages"][-1]["author"] == ADDRESS


async def test_without_a_display_name_end_users_read_of_customer_service_only(rig: Rig) -> None:
    """The page has words for it (`operator` in its catalogue)."""
    async with live(rig.app) as server:
        found = await spoken(rig, server, admitted(rig))
    assert "@" not in found["person"]
    assert found["hello"]["operator"] is None
    assert [line["author"] for line in found["hello"]["messages"] if line["role"] == "operator"] == [""]
    assert "A colleague from customer service has joined." in found["person"]


@pytest.mark.parametrize(("name", "shown"), [("ben", "ben"), ("ben@example.org", "")])
def test_of_a_local_account_its_name_is_shown_unless_it_is_an_address(rig: Rig, name: str, shown: str) -> None:
    """The control of the tests above: a name is shown where it may be."""
    staff_of(rig).add(DOING, name, "operator", "a long enough password")
    assert staff_of(rig).shown_name(name) == shown


def test_a_providers_account_name_is_never_shown(rig: Rig) -> None:
    """A login is not a name either; nobody chose it for customers."""
    account = admitted(rig, name="a.meyer17")
    assert staff_of(rig).shown_name(account.name) == ""


def test_another_display_name_counts_from_the_next_sign_in_and_signs_nobody_out(rig: Rig) -> None:
    """It is on disk, and in the audit log."""
    before = admitted(rig, "Ana")
    after = admitted(rig, "Ana Maria")
    assert after.session_epoch == before.session_epoch
    assert Staff(rig.store.desk, QUICK).shown_name(ADDRESS) == "Ana Maria"
    assert [row.action for row in rig.store.desk.audit()] == ["show account as", "add account"]
    assert admitted(rig, "Ana Maria") == after
    assert len(rig.store.desk.audit()) == 2


def test_events_that_named_an_address_before_name_nobody_now() -> None:
    """They stay in the store as they were written."""
    old = make_message(role="system", text=f"{ADDRESS} has left. You are talking with the AI assistant again.")
    assert (
        MessageOut.of(old, make_domain()).text == "A colleague has left. You are talking with the AI assistant again."
    )
    assert MessageOut.of(old, make_domain(), str).text == old.text
    assert (MessageOut.of(old, make_domain()).event, MessageOut.of(old, make_domain()).author) == ("left", "")
    said = make_message(text=f"{ADDRESS} is my address")
    assert MessageOut.of(said, make_domain()).text == said.text

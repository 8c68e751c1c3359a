"""What an operator's open page hears, and who may listen; what leaves the house as a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from bot.feedback.desk import Doing
from bot.identity import SESSION_COOKIE, SESSION_S
from tests.builders import make_conversation, make_message
from tests.hostile import PAYLOADS, formula_cells
from tests.service_rig import OPERATOR_KEY, Rig, open_rig

ANA = Doing("operator:ana", 1000.0)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with open_rig(tmp_path) as rig:
        rig.store.add_conversation(make_conversation())
        yield rig


@pytest.fixture
def client(rig: Rig) -> Iterator[TestClient]:
    with TestClient(rig.app, base_url="http://localhost:7860") as client:
        yield client


def cookie(rig: Rig) -> dict[str, str]:
    return {"Cookie": f"{SESSION_COOKIE}={rig.parts.identity.session(rig.clock())}"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Cookie": f"{SESSION_COOKIE}=forged"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "https://evil.example"},
    ],
)
def test_only_the_staff_on_our_own_pages_may_listen(client: TestClient, rig: Rig, headers: dict[str, str]) -> None:
    """Nobody, a forged cookie, and a real one from another page: refused before the socket opens."""
    sent = (cookie(rig) | headers) if "Origin" in headers else headers
    with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect("/ws/operator", headers=sent):
        pass
    assert refused.value.status_code == 401


def test_a_page_hears_of_changes_and_of_who_looks(client: TestClient, rig: Rig) -> None:
    """Also of what is written by other roads than this server's routes."""
    with client.websocket_connect("/ws/operator", headers=cookie(rig)) as page:
        assert page.receive_json() == {"type": "viewers", "viewers": {}}
        page.send_json({"type": "look", "conversation_id": "c1"})
        assert page.receive_json() == {"type": "viewers", "viewers": {"c1": ["local"]}}
        rig.store.add_user_message(make_message(client_id="1"))
        assert page.receive_json() == {"type": "changed", "conversations": ["c1"]}
        rig.store.desk.flag(ANA, "c1", flagged=True)
        assert page.receive_json() == {"type": "changed", "conversations": ["c1"]}
    assert rig.app.state.service.presence.by_conversation() == {}


def test_a_page_hears_that_a_conversation_was_erased(client: TestClient, rig: Rig) -> None:
    """As of a change, although no row of it is left; what it then asks for is not there."""
    person = {"Authorization": "Bearer " + rig.parts.identity.person_token("p1")}
    with client.websocket_connect("/ws/operator", headers=cookie(rig)) as page:
        assert page.receive_json()["type"] == "viewers"
        assert client.delete("/v1/conversations/c1", headers=person).status_code == 200
        assert page.receive_json() == {"type": "changed", "conversations": ["c1"]}
    assert client.get("/v1/conversations/c1", headers=cookie(rig)).status_code == 404


SHUT_OUT: dict[str, Callable[[Rig], object]] = {
    "disabled": lambda rig: rig.app.state.service.staff.change(ANA, "ben", disabled=True),
    "demoted": lambda rig: rig.app.state.service.staff.change(ANA, "ben", role="operator"),
    "expired": lambda rig: setattr(rig.clock, "now", rig.clock.now + SESSION_S),
}


@pytest.mark.parametrize("how", SHUT_OUT)
def test_whoever_may_listen_no_longer_is_cut_off(client: TestClient, rig: Rig, how: str) -> None:
    """By 1008, with nothing told that happened since, even when nothing happens; the control is another's page, which
    hears on."""
    ben = rig.app.state.service.staff.add(ANA, "ben", "admin", "a long enough password")
    session = rig.parts.identity.session(rig.clock(), ben.name, ben.session_epoch)
    headers = {"Cookie": f"{SESSION_COOKIE}={session}"}
    with client.websocket_connect("/ws/operator", headers=headers) as page:
        assert page.receive_json() == {"type": "viewers", "viewers": {}}
        SHUT_OUT[how](rig)
        rig.store.add_user_message(make_message(client_id="1"))
        with pytest.raises(WebSocketDisconnect) as closed:
            page.receive_json()
        assert closed.value.code == 1008
    with client.websocket_connect("/ws/operator", headers=cookie(rig)) as page:
        assert page.receive_json()["type"] == "viewers"
        rig.store.add_user_message(make_message(id="m2", client_id="2"))
        assert page.receive_json() == {"type": "changed", "conversations": ["c1"]}


def test_no_cell_of_an_export_is_a_formula(client: TestClient, rig: Rig) -> None:
    """Two hundred hostile texts as messages and tags; every one is in the file, and none would be computed."""
    for i, payload in enumerate(PAYLOADS):
        name = f"h{i}"
        rig.store.add_conversation(make_conversation(id=name))
        said = make_message(id=name, conversation_id=name, text=payload.text, client_id="1")
        rig.store.add_user_message(said)
        rig.store.desk.tag(ANA, name, payload.text[:40], present=True)
    sheet = client.get("/v1/inbox/export?format=csv", headers={"Authorization": f"Bearer {OPERATOR_KEY}"}).text
    assert formula_cells(sheet) == []
    assert all(payload.marker in sheet for payload in PAYLOADS)

"""Every action of the staff leaves a row in the audit log: a new route that changes something and leaves none fails here."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from bot.conversation import BASE_VERSION
from bot.feedback.desk import Doing
from bot.feedback.desk_records import Case, Draft, Pair
from bot.policy.adapters import Manifest
from tests.builders import make_conversation, make_decision, make_message
from tests.route_matrix import MATRIX, routes_of
from tests.service_rig import OPERATOR_KEY, Rig, open_rig

OPERATOR = {"Authorization": f"Bearer {OPERATOR_KEY}"}
PASSWORD = "a long enough password"
ME = Doing("operator:local", 1000.0)
ARTICLE = "---\ntitle: Lockers\nquestions:\n  - Where are the lockers?\n---\nIn the hall.\n"
RULES = "version: 1\nrules:\n  thumb: {up: 0.4, down: -0.4}\n  outcome: {solved: 1.0, not_solved: -1.0}\n"

END_USERS = {
    ("POST", "/v1/conversations"),
    ("POST", "/v1/feedback"),
    ("POST", "/v1/csat"),
}
"""For those who chat."""
CHANGES_NOTHING = {
    ("POST", "/v1/conversations/{conversation_id}/suggest"),
    ("POST", "/v1/versions/compare"),
    ("POST", "/v1/rules/check"),
    ("POST", "/v1/rules/backtests"),
    ("POST", "/v1/knowledge/check"),
    ("DELETE", "/v1/jobs/{job_id}"),
}
"""They look, or end a look."""
READS_THAT_WRITE = {"/health/ready", "/v1/inbox/export"}
"""One tries whether the disk takes anything, the other leaves its row in the log; neither changes what is read."""
REQUESTS: dict[tuple[str, str], tuple[str, Any]] = {
    ("POST", "/login"): ("/login", {"key": OPERATOR_KEY}),
    ("POST", "/v1/session"): ("/v1/session", {"key": OPERATOR_KEY}),
    ("DELETE", "/v1/session"): ("/v1/session", None),
    ("POST", "/v1/outcomes"): ("/v1/outcomes", {"key": "o1", "conversation_id": "c1", "solved": True}),
    ("PUT", "/v1/filters/{name}"): ("/v1/filters/mine", {"thumb": "down"}),
    ("DELETE", "/v1/filters/{name}"): ("/v1/filters/mine", None),
    ("PUT", "/v1/macros/{name}"): ("/v1/macros/hello", {"text": "One moment."}),
    ("DELETE", "/v1/macros/{name}"): ("/v1/macros/hello", None),
    ("PATCH", "/v1/conversations/{conversation_id}"): ("/v1/conversations/c1", {"flagged": True}),
    ("DELETE", "/v1/conversations/{conversation_id}"): ("/v1/conversations/c1", None),
    ("POST", "/v1/conversations/{conversation_id}/notes"): ("/v1/conversations/c1/notes", {"text": "a note"}),
    ("POST", "/v1/conversations/{conversation_id}/takeover"): ("/v1/conversations/c1/takeover", {}),
    ("POST", "/v1/conversations/{conversation_id}/handback"): ("/v1/conversations/c2/handback", {}),
    ("POST", "/v1/conversations/{conversation_id}/resolve"): ("/v1/conversations/c1/resolve", {}),
    ("POST", "/v1/conversations/{conversation_id}/say"): ("/v1/conversations/c2/say", {"key": "k", "text": "Hello"}),
    ("POST", "/v1/corrections"): ("/v1/corrections", {"message_id": "b1", "act": "handoff"}),
    ("DELETE", "/v1/cases/{case_id}"): ("/v1/cases/case_a", None),
    ("POST", "/v1/ratings"): ("/v1/ratings", {"key": "r1", "message_id": "b1", "value": 1.0}),
    ("POST", "/v1/drafts"): ("/v1/drafts", {"message_id": "b1", "title": "Lockers"}),
    ("PATCH", "/v1/drafts/{draft_id}"): ("/v1/drafts/draft_a", {"state": "dropped"}),
    ("POST", "/v1/pairs"): ("/v1/pairs", {"versions": ["v000000", "v000001"]}),
    ("POST", "/v1/pairs/{pair_id}"): ("/v1/pairs/pair_a", {"verdict": "left"}),
    ("POST", "/v1/accounts"): ("/v1/accounts", {"name": "ben", "role": "operator", "password": PASSWORD}),
    ("PATCH", "/v1/accounts/{name}"): ("/v1/accounts/ana", {"disabled": True}),
    ("POST", "/v1/accounts/{name}/release"): ("/v1/accounts/ana/release", None),
    ("POST", "/v1/versions/rollback"): ("/v1/versions/rollback", {"reason": "test"}),
    ("POST", "/v1/versions/promote"): ("/v1/versions/promote", {"version": "v000001", "reason": "test"}),
    ("POST", "/v1/versions/canary"): ("/v1/versions/canary", {"version": "v000002", "share": 0.1, "reason": "test"}),
    ("POST", "/v1/versions/withdraw"): ("/v1/versions/withdraw", {"reason": "test"}),
    ("POST", "/v1/versions/freeze"): ("/v1/versions/freeze", {"reason": "test"}),
    ("POST", "/v1/versions/unfreeze"): ("/v1/versions/unfreeze", {"reason": "test"}),
    ("POST", "/v1/rules"): ("/v1/rules", {"text": RULES, "reason": "test"}),
    ("PUT", "/v1/knowledge/articles/{article_id}"): ("/v1/knowledge/articles/lockers", {"text": ARTICLE}),
    ("DELETE", "/v1/knowledge/articles/{article_id}"): ("/v1/knowledge/articles/lockers", None),
}
"""One request that does what the route is for."""


def of_the_staff(rig: Rig) -> set[tuple[str, str]]:
    """Routes that may change something on the staff's word."""
    changing = {row for row in routes_of(rig.app) if row[0] in ("POST", "PUT", "PATCH", "DELETE")}
    return changing - END_USERS - CHANGES_NOTHING


def furnish(rig: Rig) -> None:
    """Something of everything: a chat with the bot, one with the operator, a case, a draft, a pair, two versions."""
    store = rig.store
    for name in ("c1", "c2"):
        store.add_conversation(make_conversation(id=name))
        store.add_user_message(make_message(id=f"u{name}", conversation_id=name, client_id="a"))
    decision = make_decision()
    store.add_reply(make_message(id="b1", role="bot", text="In 5 days.", decision_id="d1"), decision)
    store.desk.take_over(ME, "c2")
    store.desk.add_case(ME, Case("case_a", 1.0, ME.actor, "Where?", "handoff", "", "", "", "c1"))
    store.desk.add_draft(ME, Draft("draft_a", 1.0, ME.actor, "Lockers", "", "", "c1"))
    store.desk.add_pair(ME, Pair("pair_a", 1.0, "d1", "v000000", "handoff", "v000001", "answer:card_arrival"))
    store.desk.save_macro(ME, "hello", "Hello.")
    rig.app.state.service.staff.add(ME, "ana", "operator", PASSWORD)
    for version, parent in (("v000001", BASE_VERSION), ("v000002", "v000001")):
        staged = rig.versions.stage()
        (staged / "value.safetensors").write_bytes(b"weights")
        rig.versions.publish(staged, Manifest(version, parent, 1000.0, {}, "r1", {}, {"passed": True}, ()))
    rig.versions.set_champion("v000001", "test", "operator:local")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with open_rig(tmp_path) as rig:
        furnish(rig)
        yield rig


def send(rig: Rig, client: TestClient, row: tuple[str, str]) -> list[str]:
    """Send the route's request; the actions that are new in the log, newest first."""
    url, body = REQUESTS[row]
    if row == ("POST", "/v1/rules"):
        body = body | {"based_on": client.get("/v1/rules").json()["rules_hash"]}
    if row == ("DELETE", "/v1/knowledge/articles/{article_id}"):
        client.put("/v1/knowledge/articles/lockers", json={"text": ARTICLE})
    if row == ("POST", "/v1/versions/withdraw"):
        client.post("/v1/versions/canary", json={"version": "v000002", "share": 0.1, "reason": "test"})
    if row == ("DELETE", "/v1/session"):
        client.headers.pop("Authorization")
        client.post("/v1/session", json={"key": OPERATOR_KEY})
    given: dict[str, Any] = {} if body is None else {"data" if url == "/login" else "json": body}
    before = rig.store.desk.audit(limit=1)[0].seq
    answer = client.request(row[0], url, follow_redirects=False, **given)
    assert answer.status_code < 400, answer.text
    return [line.action for line in rig.store.desk.audit() if line.seq > before]


def test_every_route_that_changes_something_is_tried_or_says_why_not(rig: Rig) -> None:
    """A new one without a request in the table fails here."""
    assert of_the_staff(rig) == set(REQUESTS)


@pytest.mark.parametrize("row", sorted(REQUESTS), ids=" ".join)
def test_every_action_of_the_staff_is_in_the_audit_log(rig: Rig, row: tuple[str, str]) -> None:
    """A row or two for one action, in an unbroken chain."""
    client = TestClient(rig.app, base_url="http://localhost:7860", headers=OPERATOR)
    assert len(send(rig, client, row)) in (1, 2)
    assert rig.store.desk.first_broken_audit_row() == 0


def test_a_route_that_leaves_no_row_is_noticed(rig: Rig) -> None:
    """The control of the tests above: it is not in the table, and with a request it leaves nothing."""

    def silent() -> str:
        return "done"

    changed: Callable[[], str] = silent
    rig.app.add_api_route("/v1/secret", changed, methods=["POST"])
    assert of_the_staff(rig) - set(REQUESTS) == {("POST", "/v1/secret")}
    before = rig.store.desk.audit(limit=1)[0].seq
    assert TestClient(rig.app, base_url="http://localhost:7860").post("/v1/secret").status_code == 200
    assert rig.store.desk.audit(limit=1)[0].seq == before


@pytest.mark.parametrize("path", sorted(path for method, path in MATRIX if method == "GET"))
def test_to_read_changes_nothing(rig: Rig, path: str) -> None:
    """Nothing is committed by a GET, which a browser may send by itself."""
    client = TestClient(rig.app, base_url="http://localhost:7860", headers=OPERATOR)
    names = {
        "conversation_id": "c1",
        "article_id": "card_arrival",
        "name": "hello",
        "decision_id": "d1",
        "job_id": "none",
    }
    client.get("/health/live")
    with closing(sqlite3.connect(rig.store.path)) as watching:
        before = watching.execute("PRAGMA data_version").fetchone()
        client.get(path.format(number=1, version="v000001", **names), follow_redirects=False)
        changed = watching.execute("PRAGMA data_version").fetchone() != before
        assert changed is (path in READS_THAT_WRITE)


def test_who_takes_what_people_wrote_out_of_the_house_is_in_the_log(rig: Rig) -> None:
    """An export changes nothing, but it is an action; the log holds no word that was searched for."""
    client = TestClient(rig.app, base_url="http://localhost:7860", headers=OPERATOR)
    assert client.get("/v1/inbox/export?format=csv&q=marmalade").status_code == 200
    newest = rig.store.desk.audit(limit=1)[0]
    assert (newest.actor, newest.action, newest.target, newest.after) == (
        "operator:local",
        "export",
        "inbox",
        {"format": "csv"},
    )

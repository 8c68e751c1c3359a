"""The HTTP API: who may what, bodies and errors, signing in, versions, health, headers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from bot.conversation import BASE_VERSION
from bot.errors import ModelError, StoreError
from bot.feedback.desk import Doing
from bot.feedback.store import Store, UpdateRow
from bot.identity import SESSION_COOKIE, SESSION_S
from bot.policy.adapters import Manifest
from tests.builders import make_decision, make_message, make_signal
from tests.route_matrix import MATRIX, routes_of
from tests.service_rig import OPERATOR_KEY, Rig, open_rig

OPERATOR = {"Authorization": f"Bearer {OPERATOR_KEY}"}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with open_rig(tmp_path) as rig:
        yield rig


@pytest.fixture
def client(rig: Rig) -> Iterator[TestClient]:
    with TestClient(rig.app, base_url="http://localhost:7860", raise_server_exceptions=False) as client:
        yield client


def bearer(rig: Rig, person_id: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {rig.parts.identity.person_token(person_id)}"}


PASSWORD = "a long enough password"


def cookie_of(rig: Rig, role: str) -> dict[str, str]:
    """The session of an account with this role, made when it is first needed."""
    staff, name = rig.app.state.service.staff, f"the-{role}"
    if name not in [account.name for account in staff.accounts()]:
        staff.add(Doing("operator:local", 1000.0), name, role, PASSWORD)
    account = next(account for account in staff.accounts() if account.name == name)
    return {"Cookie": f"{SESSION_COOKIE}={rig.parts.identity.session(rig.clock(), name, account.session_epoch)}"}


def add_reply(rig: Rig, conversation_id: str, person_id: str) -> str:
    """Store a question and a chosen reply; returns the reply's message id."""
    ids = rig.parts.ids
    decision = make_decision(id=ids.decision(), conversation_id=conversation_id, person_id=person_id)
    rig.store.add_user_message(make_message(id=ids.message(), conversation_id=conversation_id, client_id="a1"))
    reply = make_message(
        id=ids.message(), conversation_id=conversation_id, role="bot", text="In 5 days.", decision_id=decision.id
    )
    return rig.store.add_reply(reply, decision).id


def start(client: TestClient, rig: Rig) -> tuple[str, str, str]:
    """A conversation with one reply: (conversation id, person id, reply id)."""
    started = client.post("/v1/conversations", json={}).json()
    person_id = rig.parts.identity.person_of(started["token"])
    return started["conversation_id"], person_id, add_reply(rig, started["conversation_id"], person_id)


def publish(rig: Rig, version: str, parent: str = BASE_VERSION) -> None:
    """A sealed version with one small file."""
    staged = rig.versions.stage()
    (staged / "value.safetensors").write_bytes(b"weights")
    lineage = {"num_decisions": 2, "decision_ids": ["d1", "d2"]}
    manifest = Manifest(version, parent, 1000.0, {}, "r1", lineage, {"passed": True}, ())
    rig.versions.publish(staged, manifest)


# --- who may what -----------------------------------------------------------------------------------------------------
def test_every_route_has_a_row_in_the_matrix(rig: Rig) -> None:
    """Trust goal S1: a new route without a row fails here."""
    assert routes_of(rig.app) == set(MATRIX)


def test_a_route_without_a_row_is_noticed(rig: Rig) -> None:
    """The control of the test above."""
    rig.app.add_api_route("/v1/secret", lambda: "x")
    assert routes_of(rig.app) - set(MATRIX) == {("GET", "/v1/secret")}


@pytest.mark.parametrize(("method", "path"), sorted(key for key in MATRIX if key[0] != "WEBSOCKET"))
def test_the_matrix_holds(client: TestClient, rig: Rig, method: str, path: str) -> None:
    """Trust goal S1: 401 without credentials, 403 with somebody else's, neither for those who may."""
    conversation_id, person_id, reply_id = start(client, rig)
    bodies: dict[str, dict[str, Any]] = {
        "/v1/corrections": {"message_id": reply_id, "act": "handoff"},
        "/v1/ratings": {"key": "r1", "message_id": reply_id, "value": 1.0},
        "/v1/drafts": {"message_id": reply_id, "title": "Missing"},
        "/v1/conversations/{conversation_id}/notes": {"text": "a note"},
        "/v1/conversations/{conversation_id}/say": {"key": "k", "text": "Hello"},
        "/v1/pairs": {"versions": ["v000000", "v000001"]},
        "/v1/pairs/{pair_id}": {"verdict": "left"},
        "/v1/macros/{name}": {"text": "One moment."},
        "/v1/accounts": {"name": "new", "role": "operator", "password": PASSWORD},
        "/v1/feedback": {"message_id": reply_id, "thumb": 1},
        "/v1/csat": {"conversation_id": conversation_id, "value": 4},
        "/v1/outcomes": {"conversation_id": conversation_id, "solved": True},
        "/v1/versions/promote": {"version": BASE_VERSION, "reason": "test"},
        "/v1/versions/canary": {"version": BASE_VERSION, "share": 0.1, "reason": "test"},
        "/v1/session": {"key": OPERATOR_KEY},
    }
    because = {"reason": "test"} if "versions" in path else {}
    staff = [cookie_of(rig, role) for role in ("operator", "developer", "admin")]
    callers = [{}, bearer(rig, person_id), bearer(rig, "p_stranger"), *staff]
    # Those who may not come first: there may be nothing left to ask for after one who may.
    in_turn = sorted(zip(callers, MATRIX[method, path], strict=True), key=lambda row: row[1])
    for number, (headers, may) in enumerate(in_turn):
        client.cookies.clear()
        body = because | bodies.get(path, {})
        if path in ("/v1/feedback", "/v1/outcomes", "/v1/csat"):
            body = body | {"key": f"k{number}"}
        names = dict.fromkeys(("name", "case_id", "draft_id", "decision_id", "pair_id", "job_id"), "none")
        names |= {"number": "1", "version": "v000001"}
        url = path.format(conversation_id=conversation_id, article_id="card_arrival", **names)
        data: dict[str, Any] = {"data": {"key": OPERATOR_KEY}} if path == "/login" else {"json": body}
        answer = client.request(
            method, url, headers=headers, follow_redirects=False, **(data if method in ("POST", "PUT", "PATCH") else {})
        )
        refused = 403 if headers else 401
        assert (answer.status_code not in (401, 403)) if may else (answer.status_code == refused), (number, answer.text)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer forged.token"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {OPERATOR_KEY}"},
        {"Cookie": f"{SESSION_COOKIE}=9999999999.ab.cd"},
        {"Host": "localhost:7860", "X-Forwarded-User": "operator"},
    ],
)
def test_made_up_credentials_are_nobody(client: TestClient, headers: dict[str, str]) -> None:
    """Whatever header they come in."""
    answer = client.get("/v1/versions", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "not_allowed")


def test_no_secret_is_taken_from_a_url(client: TestClient) -> None:
    """Trust goal S2: addresses end up in logs."""
    for name in ("token", "key", "access_token"):
        assert client.get(f"/v1/versions?{name}={OPERATOR_KEY}").status_code == 401


# --- signing in -------------------------------------------------------------------------------------------------------
def test_the_login_form_signs_in_and_goes_back(client: TestClient) -> None:
    """A plain form; the cookie is HttpOnly and SameSite=Strict."""
    page = client.get("/login?next=/studio")
    assert 'name="next" value="/studio"' in page.text
    assert not any(outside in page.text for outside in ("http:", "https:", "<script", "src="))
    answer = client.post("/login", data={"key": OPERATOR_KEY, "next": "/studio"}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/studio")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get("/v1/versions").status_code == 200


def test_signing_out_and_time_end_a_session(client: TestClient, rig: Rig) -> None:
    """The cookie is forgotten; an old one is worth nothing."""
    client.post("/v1/session", json={"key": OPERATOR_KEY})
    assert client.get("/v1/versions").status_code == 200
    rig.clock.now += SESSION_S
    assert client.get("/v1/versions").status_code == 401
    rig.clock.now -= SESSION_S
    client.delete("/v1/session")
    assert client.get("/v1/versions").status_code == 401


def test_a_wrong_key_is_refused_and_guessing_is_slow(client: TestClient) -> None:
    """Ten attempts a minute from one address; the page says what is wrong."""
    answers = [client.post("/login", data={"key": f"guess {n}"}) for n in range(11)]
    assert [answer.status_code for answer in answers] == [401] * 10 + [429]
    assert "expected the operator key" in answers[0].text
    assert "guess" not in answers[0].text


def test_a_whole_shift_signs_in_from_one_address_but_guesses_are_counted_between(client: TestClient) -> None:
    """Whoever knows the key takes nothing from the others, and gives a guesser nothing."""
    rightly = [client.post("/v1/session", json={"key": OPERATOR_KEY}).status_code for _ in range(12)]
    assert rightly == [200] * 12
    guesses = []
    for number in range(10):
        guesses.append(client.post("/v1/session", json={"key": f"guess {number}"}).status_code)
        if number < 9:
            client.post("/v1/session", json={"key": OPERATOR_KEY})
    guesses.append(client.post("/v1/session", json={"key": "guess"}).status_code)
    assert guesses == [401] * 10 + [429]


@pytest.mark.parametrize(
    "page", ["//evil.example", "https://evil.example", "/\\evil.example", "/\t/evil.example", "javascript:alert(1)"]
)
def test_the_login_form_leads_to_our_own_pages_only(client: TestClient, page: str) -> None:
    """Otherwise it would vouch for somebody else's page."""
    answer = client.post("/login", data={"key": OPERATOR_KEY, "next": page}, follow_redirects=False)
    assert answer.headers["location"] == "/operator"


def test_what_the_login_page_echoes_is_inert(client: TestClient) -> None:
    """Quotes and tags in `next` stay text."""
    page = client.get("/login", params={"next": '/"><script>alert(1)</script>'}).text
    assert "<script>" not in page


@pytest.mark.parametrize(("origin", "status"), [("http://localhost:7860", 200), ("http://localhost:3000", 401)])
def test_a_cookie_changes_things_only_from_our_own_pages(client: TestClient, origin: str, status: int) -> None:
    """SameSite lets another port of this machine through, so Origin is looked at too."""
    client.post("/v1/session", json={"key": OPERATOR_KEY})
    answer = client.post("/v1/versions/freeze", json={"reason": "test"}, headers={"Origin": origin})
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("origin", "status"), [(None, 200), ("http://localhost:7860", 200), ("https://shop.example", 401), ("null", 401)]
)
def test_a_site_with_the_widget_has_no_share_in_the_staffs_cookie(
    client: TestClient, origin: str | None, status: int
) -> None:
    """Neither to read, nor to watch, nor to sign in; a customer's token is as good there as anywhere: the control."""
    client.post("/v1/session", json={"key": OPERATOR_KEY})
    headers = {"Origin": origin} if origin else {}
    assert client.get("/v1/inbox", headers=headers).status_code == status
    assert client.post("/v1/versions/freeze", json={"reason": "test"}, headers=headers).status_code == status
    started = client.post("/v1/conversations", json={}, headers=headers).json()
    theirs = {"Authorization": f"Bearer {started['token']}"} | headers
    assert client.get(f"/v1/conversations/{started['conversation_id']}", headers=theirs).status_code == 200
    expected = 200 if status == 200 else 403
    assert client.post("/v1/session", json={"key": OPERATOR_KEY}, headers=headers).status_code == expected


def test_operator_pages_send_browsers_to_the_login(client: TestClient, rig: Rig) -> None:
    """Programs get 401; after signing in both get the page; other paths are left alone."""
    for path in ("/operator", "/studio/deep/er", "/operators"):
        rig.app.add_route(path, lambda request: PlainTextResponse("page"))
    html = {"Accept": "text/html,*/*"}
    answer = client.get("/studio/deep/er?x=1", headers=html, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/studio/deep/er%3Fx%3D1")
    answer = client.get(f"/studio/deep/er?x={'1' * 500}", headers=html, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/studio/deep/er")
    assert client.get("/operator").status_code == 401
    assert client.post("/operator", headers=html).status_code == 401
    assert client.get("/operators").text == "page"
    client.post("/v1/session", json={"key": OPERATOR_KEY})
    assert client.get("/operator", headers=html).text == "page"


def test_who_may_not_see_a_page_reads_where_to_go(client: TestClient, rig: Rig) -> None:
    """An operator at the studio: a page with a way out. Programs get the same in JSON."""
    rig.app.add_route("/studio", lambda request: PlainTextResponse("page"))
    ana = cookie_of(rig, "operator")
    page = client.get("/studio", headers=ana | {"Accept": "text/html"})
    assert (page.status_code, page.headers["content-type"]) == (403, "text/html; charset=utf-8")
    assert "This page is for developers and admins" in page.text
    assert '<a href="/operator">' in page.text
    assert client.get("/studio", headers=ana).json()["error"]["code"] == "not_allowed"
    assert client.get("/studio", headers=cookie_of(rig, "developer") | {"Accept": "text/html"}).text == "page"


# --- bodies and errors ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"key": "k1", "message_id": "m", "thumb": 2}, "thumb: expected to be 1, -1 or 0, got 2"),
        ({"key": "k1", "message_id": "m"}, "thumb: expected a value, got nothing"),
        ({"key": "k1", "message_id": "m", "thumb": 1, "weight": 50}, "weight: unknown field, got 50"),
        ({"key": "x" * 65, "message_id": "m", "thumb": 1}, "key: "),
        ({"key": "k1", "message_id": "m", "thumb": 1, "reasons": ["a|b"]}, "reasons.0: "),
    ],
)
def test_a_wrong_body_gets_400_and_one_clear_line(client: TestClient, rig: Rig, body: Any, words: str) -> None:
    """The same words as on the socket."""
    answer = client.post("/v1/feedback", json=body, headers=bearer(rig, "p1"))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "bad_frame")
    assert words in error["message"]
    assert len(error["message"].splitlines()) == 1


@pytest.mark.parametrize(("kind", "kept"), [("macros", {"text": "One moment."}), ("filters", {"thumb": "down"})])
def test_a_kept_name_may_hold_slashes_but_be_no_dots(client: TestClient, rig: Rig, kind: str, kept: Any) -> None:
    """Dots alone are left out of addresses on the way, so they are refused in one line; the other name is kept and goes."""
    ana = cookie_of(rig, "operator") | {"Origin": "http://localhost:7860"}
    for dots in ("%2E", "%2E%2E"):
        answer = client.put(f"/v1/{kind}/{dots}", json=kept, headers=ana)
        assert (answer.status_code, "name: expected one other than . and .." in answer.text) == (400, True)
    name = "Refund%20%2F%20return"
    assert client.put(f"/v1/{kind}/{name}", json=kept, headers=ana).status_code == 204
    assert "Refund / return" in client.get(f"/v1/{kind}", headers=ana).text
    assert client.delete(f"/v1/{kind}/{name}", headers=ana).status_code == 204
    assert "Refund" not in client.get(f"/v1/{kind}", headers=ana).text


def test_broken_json_and_unknown_routes_have_the_same_shape(client: TestClient, rig: Rig) -> None:
    """`{"error": {"code", "message"}}` everywhere."""
    broken = client.post("/v1/feedback", content=b"{", headers=bearer(rig, "p1"))
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "bad_frame")
    assert client.get("/nowhere").json()["error"]["code"] == "not_found"
    assert client.put("/v1/feedback").status_code == 405


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_over_the_limit_is_413(client: TestClient, announced: bool) -> None:
    """Announced or streamed; nothing of it is kept."""
    content: Any = b"x" * 70_000 if announced else (b"x" * 1000 for _ in range(70))
    answer = client.post("/v1/feedback", content=content, headers=OPERATOR)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_much")


def test_votes_over_http_follow_the_same_rules(client: TestClient, rig: Rig) -> None:
    """Stored once, conflict, unknown, own words."""
    conversation_id, person_id, reply_id = start(client, rig)
    headers, body = bearer(rig, person_id), {"key": "k1", "message_id": reply_id, "thumb": 1}
    first = client.post("/v1/feedback", json=body, headers=headers)
    assert client.post("/v1/feedback", json=body, headers=headers).json() == first.json()
    assert client.post("/v1/feedback", json=body | {"thumb": -1}, headers=headers).status_code == 409
    assert client.post("/v1/feedback", json=body | {"message_id": "m_no"}, headers=headers).status_code == 404
    own = rig.store.messages(conversation_id)[1].id
    assert client.post("/v1/feedback", json=body | {"message_id": own}, headers=headers).status_code == 400
    assert [s.seq for s in rig.store.signals(conversation_id)] == [first.json()["seq"]]


def test_over_the_rate_the_answer_says_when_to_come_back(tmp_path: Path) -> None:
    """429 with Retry-After."""
    with open_rig(tmp_path, feedback_per_min=2.0) as rig, TestClient(rig.app) as client:
        _, person_id, reply_id = start(client, rig)
        body = {"key": "k1", "message_id": reply_id, "thumb": 1}
        answers = [client.post("/v1/feedback", json=body, headers=bearer(rig, person_id)) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].headers["retry-after"] == "30"


def test_an_outcome_is_stored_for_the_conversation(client: TestClient, rig: Rig) -> None:
    """By the back office; an unknown conversation is 404."""
    conversation_id, _, _ = start(client, rig)
    body = {"key": "ticket-1", "conversation_id": conversation_id, "solved": True, "comment": "refunded"}
    assert client.post("/v1/outcomes", json=body, headers=OPERATOR).status_code == 200
    stored = rig.store.signals(conversation_id)[0]
    assert (stored.kind, stored.value, stored.source, stored.comment) == ("outcome", 1.0, "backoffice", "refunded")
    assert client.post("/v1/outcomes", json=body | {"conversation_id": "c_no"}, headers=OPERATOR).status_code == 404


class BrokenStore(Store):
    """A store that cannot write."""

    def add_signal(self, signal: Any) -> Any:
        raise StoreError("cannot write: database or disk is full")

    def put_status(self, name: str, value: Any) -> None:
        raise StoreError("cannot write: database or disk is full")


def test_a_store_that_cannot_write_is_503_and_not_ready(tmp_path: Path) -> None:
    """Never a false acknowledgement (trust goal R4)."""
    store = BrokenStore(tmp_path / "rejoinder.db")
    with open_rig(tmp_path, store=store) as rig, TestClient(rig.app) as client:
        _, person_id, reply_id = start(client, rig)
        body = {"key": "k1", "message_id": reply_id, "thumb": 1}
        answer = client.post("/v1/feedback", json=body, headers=bearer(rig, person_id))
        ready = client.get("/health/ready")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert (ready.status_code, ready.json()["reason"]) == (503, "cannot write: database or disk is full")


def test_a_chat_is_rated_over_http_as_over_the_socket(client: TestClient, rig: Rig) -> None:
    """One to five, by its person; the newest counts, a key sent again is one rating, with another body a conflict."""
    conversation_id, person_id, _ = start(client, rig)
    mine, theirs = bearer(rig, person_id), bearer(rig, "p_stranger")
    body = {"key": "k1", "conversation_id": conversation_id, "value": 2, "comment": "slow"}
    seqs = [client.post("/v1/csat", json=body, headers=mine).json()["seq"] for _ in range(2)]
    assert seqs[0] == seqs[1]
    assert client.post("/v1/csat", json=body | {"value": 3}, headers=mine).status_code == 409
    assert client.post("/v1/csat", json=body | {"key": "k2", "value": 5}, headers=mine).status_code == 200
    for value in (0, 6, 2.5):
        assert client.post("/v1/csat", json=body | {"key": "k3", "value": value}, headers=mine).status_code == 400
    assert client.post("/v1/csat", json=body | {"key": "k4"}, headers=theirs).status_code == 403
    assert client.get(f"/v1/conversations/{conversation_id}/download", headers=mine).json()["csat"] == 5
    said = rig.store.signals(conversation_id)
    assert [(signal.kind, signal.value, signal.comment) for signal in said] == [
        ("csat", 2.0, "slow"),
        ("csat", 5.0, "slow"),
    ]


@pytest.mark.parametrize("route", ["/v1/rules/check", "/v1/knowledge/check"])
def test_rules_and_articles_may_be_long_up_to_a_stated_bound(client: TestClient, route: str) -> None:
    """Over the limit of other bodies they are read; over their own, and over it elsewhere, 413 with the bound."""
    text = "# " + "\u00e4" * 100_000 + "\n"
    body = {"text": text} | ({"id": "lockers"} if "knowledge" in route else {})
    assert len(text.encode()) > 3 * 65_536
    read = client.post(route, json=body, headers=OPERATOR)
    assert (read.status_code, read.json()["ok"]) == (200, False)
    answer = client.post(route, json=body | {"text": text * 6}, headers=OPERATOR)
    assert answer.status_code == 413
    assert answer.json()["error"]["message"] == "body: expected at most 1048576 bytes, got more"
    assert client.post("/v1/outcomes", json=body, headers=OPERATOR).status_code == 413
    assert client.post(route, json=body | {"text": "x" * 200_001}, headers=OPERATOR).status_code == 400


# --- reading ----------------------------------------------------------------------------------------------------------
def test_a_transcript_shows_decisions_to_operators_only(client: TestClient, rig: Rig) -> None:
    """Its person sees the messages."""
    conversation_id, person_id, _ = start(client, rig)
    rig.store.add_signal(make_signal(conversation_id=conversation_id, author=person_id, decision_id=""))
    path = f"/v1/conversations/{conversation_id}"
    mine = client.get(path, headers=bearer(rig, person_id)).json()
    whole = client.get(path, headers=OPERATOR).json()
    assert set(mine) == {"conversation", "messages"}
    assert mine["messages"] == whole["messages"]
    assert [len(whole[name]) for name in ("signals", "decisions", "rewards")] == [1, 1, 0]
    assert client.get("/v1/conversations/c_no", headers=OPERATOR).status_code == 404


def test_an_article_is_for_anyone(client: TestClient) -> None:
    """What a source chip opens."""
    assert client.get("/v1/articles/card_arrival").json()["answer"] == "In 5 days."
    assert client.get("/v1/articles/nope").status_code == 404


def test_the_learner_page_reads_updates_and_statistics(client: TestClient, rig: Rig) -> None:
    """As stored."""
    rig.store.commit_update(UpdateRow(1000.0, 3, "k1", "published", "v000001", {"kl": 0.01}))
    state = client.get("/v1/learner", headers=OPERATOR).json()
    assert state["status"] is None
    assert [(u["outcome"], u["version"], u["metrics"]) for u in state["updates"]] == [
        ("published", "v000001", {"kl": 0.01})
    ]


# --- versions ---------------------------------------------------------------------------------------------------------
def test_versions_are_listed_promoted_and_rolled_back(client: TestClient, rig: Rig) -> None:
    """With real folders: the pointer moves, and learning is frozen after a rollback."""
    publish(rig, "v000001")
    publish(rig, "v000002", "v000001")
    for version in ("v000001", "v000002"):
        body = {"version": version, "reason": "by hand"}
        assert client.post("/v1/versions/promote", json=body, headers=OPERATOR).json()["champion"] == version
    back = client.post("/v1/versions/rollback", json={"reason": "worse"}, headers=OPERATOR).json()
    assert back == {"champion": "v000001", "frozen": True}
    assert client.post("/v1/versions/unfreeze", json={"reason": "fixed"}, headers=OPERATOR).json()["frozen"] is False
    listed = client.get("/v1/versions", headers=OPERATOR).json()["versions"]
    assert [(v["version"], v["state"], v["parent"]) for v in listed] == [
        ("v000000", "base", ""),
        ("v000001", "champion", "v000000"),
        ("v000002", "published", "v000001"),
    ]
    assert listed[1]["gate"] == {"passed": True}
    assert listed[1]["lineage"] == {"num_decisions": 2}


def test_a_canary_is_shown_with_what_people_say_of_both_versions(client: TestClient, rig: Rig) -> None:
    """Tried out on a tenth, then withdrawn by hand; a share of 0 is a bad body."""
    publish(rig, "v000001")
    body = {"version": "v000001", "share": 0.1, "reason": "first on a few"}
    assert client.post("/v1/versions/canary", json=body, headers=OPERATOR).json()["champion"] == "v000000"
    listed = client.get("/v1/versions", headers=OPERATOR).json()
    assert [v["state"] for v in listed["versions"]] == ["champion", "canary"]
    canary = listed["canary"]
    assert (canary["version"], canary["share"], canary["verdict"]) == ("v000001", 0.1, "wait")
    assert canary["verdict_reason"] == "0 of 200 conversations"
    nothing = {"conversations": 0, "replies": 0, "rated": 0, "up": None, "up_ci": None}
    nothing |= {"outcomes": 0, "success": None, "success_ci": None}
    assert canary["candidate"] == {"version": "v000001"} | nothing
    assert canary["champion"] == {"version": "v000000"} | nothing
    assert client.post("/v1/versions/canary", json=body | {"share": 0.0}, headers=OPERATOR).status_code == 400
    client.post("/v1/versions/withdraw", json={"reason": "enough"}, headers=OPERATOR)
    assert client.get("/v1/versions", headers=OPERATOR).json()["canary"] is None
    unknown = client.post("/v1/versions/canary", json=body | {"version": "v000009"}, headers=OPERATOR)
    assert unknown.json()["error"]["message"] == "version: expected one of v000001, got 'v000009'"
    again = client.post("/v1/versions/withdraw", json={"reason": "enough"}, headers=OPERATOR)
    assert (again.status_code, again.json()["error"]["message"]) == (404, "withdraw: expected a canary, got none")


def test_a_damaged_version_is_shown_as_such_and_cannot_be_promoted(client: TestClient, rig: Rig) -> None:
    """One flipped byte."""
    publish(rig, "v000001")
    (rig.versions.folder("v000001") / "value.safetensors").write_bytes(b"Weights")
    listed = client.get("/v1/versions", headers=OPERATOR).json()["versions"]
    assert listed[1]["state"] == "damaged"
    body = {"version": "v000001", "reason": "test"}
    assert client.post("/v1/versions/promote", json=body, headers=OPERATOR).status_code == 503
    assert client.get("/v1/versions", headers=OPERATOR).json()["champion"] == BASE_VERSION


def test_an_old_version_is_listed_without_its_weights(client: TestClient, rig: Rig) -> None:
    """Where it comes from can be read; it cannot be promoted."""
    publish(rig, "v000001")
    publish(rig, "v000002", "v000001")
    assert rig.versions.prune(keep=1) == ["v000001"]
    listed = client.get("/v1/versions", headers=OPERATOR).json()["versions"]
    assert [(v["version"], v["state"]) for v in listed[1:]] == [("v000001", "pruned"), ("v000002", "published")]
    assert (listed[1]["parent"], listed[1]["lineage"]) == ("v000000", {"num_decisions": 2})
    body = {"version": "v000001", "reason": "test"}
    refused = client.post("/v1/versions/promote", json=body, headers=OPERATOR)
    assert (refused.status_code, "removed to save space" in refused.text) == (503, True)


@pytest.mark.parametrize("version", ["../../etc", "v1", "v000009", ""])
def test_only_published_versions_can_be_named(client: TestClient, version: str) -> None:
    """Never a path."""
    body = {"version": version, "reason": "test"}
    refused = client.post("/v1/versions/promote", json=body, headers=OPERATOR)
    assert refused.status_code in (400, 404)
    line = refused.json()["error"]["message"]
    assert line.startswith("version: ")
    assert "\n" not in line


# --- for whoever runs it ----------------------------------------------------------------------------------------------
def test_ready_says_what_is_missing_and_recovers(client: TestClient, rig: Rig) -> None:
    """Checked at most once a second."""
    assert client.get("/health/ready").json() == {"ready": True, "learner": "stopped"}
    written = rig.store.status("server")
    assert written is not None
    assert written["version"] == "v000000"
    rig.policy.lease = broken_lease  # type: ignore[method-assign]
    assert client.get("/health/ready").status_code == 200
    rig.ticks.now += 1
    answer = client.get("/health/ready")
    assert (answer.status_code, answer.json()["reason"]) == (503, "no model")


def test_ready_tells_of_the_learner_and_does_without_it(client: TestClient, rig: Rig) -> None:
    """Fresh heartbeat, then 120 s and a moment of silence, then a heartbeat again; the service is ready throughout."""

    def told() -> str:
        rig.ticks.now += 1
        answer = client.get("/health/ready")
        assert (answer.status_code, answer.json()["ready"]) == (200, True)
        state = client.get("/v1/learner", headers=OPERATOR).json()["learner"]
        assert state == answer.json()["learner"]
        return str(state)

    assert told() == "stopped"
    rig.store.put_status("learner", {"state": "waiting", "at": rig.clock.now})
    assert told() == "ok"
    rig.clock.now += 120.0
    assert told() == "ok"
    rig.clock.now += 0.1
    assert told() == "stale"
    rig.store.put_status("learner", {"state": "waiting", "at": rig.clock.now})
    assert told() == "ok"


def test_a_learner_that_was_given_up_is_stopped_until_it_is_heard_of_again(client: TestClient, rig: Rig) -> None:
    """The newer of the supervisor's marker and the heartbeat is right: an old marker says nothing."""
    marker = rig.parts.settings.learner_given_up
    marker.parent.mkdir()
    marker.touch()
    for given_up_at, expected in ((999.0, "ok"), (1001.0, "stopped")):
        rig.store.put_status("learner", {"state": "waiting", "at": 1000.0})
        os.utime(marker, (given_up_at, given_up_at))
        rig.ticks.now += 1
        answer = client.get("/health/ready")
        assert (answer.status_code, answer.json()["learner"]) == (200, expected)


def broken_lease(version: str | None = None) -> Any:
    raise ModelError("no model")


def test_metrics_are_the_apps_own(client: TestClient, rig: Rig, tmp_path: Path) -> None:
    """Two apps in one process do not share a registry; no person's id is shown."""
    _, person_id, reply_id = start(client, rig)
    client.post("/v1/feedback", json={"key": "k", "message_id": reply_id, "thumb": 1}, headers=bearer(rig, person_id))
    text = client.get("/metrics").text
    assert 'rejoinder_votes_total{thumb="up"} 1.0' in text
    assert 'rejoinder_rows{table="signals"} 1.0' in text
    assert person_id not in text
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert [name for name in names if not name.startswith("rejoinder_")] == []
    with open_rig(tmp_path / "other") as other, TestClient(other.app) as second:
        assert 'thumb="up"' not in second.get("/metrics").text


def test_responses_carry_security_headers(client: TestClient, rig: Rig) -> None:
    """API answers may load nothing; pages only from here; nothing is cached that is private."""
    rig.app.add_route("/page", lambda request: PlainTextResponse("page"))
    api, page, refused = client.get("/v1/versions", headers=OPERATOR), client.get("/page"), client.get("/operator")
    for answer in (api, page, refused):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
    assert api.headers["content-security-policy"].startswith("default-src 'none'")
    assert api.headers["cache-control"] == "no-store"
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "http" not in page.headers["content-security-policy"]


def test_openapi_shows_frames_with_examples(client: TestClient) -> None:
    """And no page that loads scripts from elsewhere."""
    schema = client.get("/openapi.json").json()
    schemas = schema["components"]["schemas"]
    assert schemas["Vote"]["examples"][0]["thumb"] == -1
    assert schemas["UserMessage"]["examples"][0]["type"] == "message"
    assert {"Hello", "HelloOut", "DeltaOut", "ErrorOut"} <= set(schemas)
    assert "/v1/feedback" in schema["paths"]
    assert client.get("/docs").status_code == 404


def test_a_bug_in_a_route_is_one_line_and_logged(
    client: TestClient, rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """No traceback leaves the server."""

    def broken() -> None:
        raise KeyError("private detail")

    rig.app.add_api_route("/v1/broken", broken)
    answer = client.get("/v1/broken")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "error")
    assert "private" not in answer.text
    assert "/v1/broken failed" in caplog.text

"""Corrections: in force in the next answer, explained, taken back, and what the learner gets of them."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from bot.conversation import SignalKind
from bot.feedback.desk import Doing
from bot.feedback.desk_records import Case
from bot.feedback.store import UpdateRow
from bot.knowledge.cases import CaseRow
from tests.builders import make_conversation, make_decision, make_message, make_reward
from tests.service_rig import OPERATOR_KEY, Rig, open_rig

OPERATOR = {"Authorization": f"Bearer {OPERATOR_KEY}"}
QUESTION = "Where is my card?"
WATCH = "---\ntitle: Paying by watch\nquestions:\n  - Can I pay with my watch?\n---\nYes, if it is paired.\n"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with open_rig(tmp_path) as rig:
        rig.policy.champion = "v000001"
        yield rig


@pytest.fixture
def client(rig: Rig) -> Iterator[TestClient]:
    with TestClient(rig.app, base_url="http://localhost:7860", headers=OPERATOR) as client:
        yield client


def chat(client: TestClient, text: str = QUESTION, wait_for: str = "bot") -> dict[str, Any]:
    """Ask in a fresh conversation over the socket; the reply."""
    with client.websocket_connect("/ws/chat") as socket:
        socket.send_json({"type": "hello", "protocol": 1})
        hello = socket.receive_json()
        socket.send_json({"type": "message", "client_id": "1", "text": text})
        while True:
            frame = socket.receive_json()
            if frame["type"] == "message" and frame["message"]["role"] == wait_for:
                return frame["message"] | {"conversation_id": hello["conversation_id"]}


def correct(client: TestClient, message_id: str, **body: Any) -> Any:
    return client.post("/v1/corrections", json={"message_id": message_id} | body)


def test_the_right_words_are_the_next_answer_to_the_same_question(client: TestClient, rig: Rig) -> None:
    """At once, in another person's conversation; as a case with the bot's draft kept; taken back as fast."""
    reply = chat(client)
    case = correct(client, reply["id"], text="It is at the post office.").json()
    assert (case["draft"], case["draft_act"], case["question"]) == ("In five days.", "answer:card_arrival", QUESTION)
    again = chat(client)
    assert (again["text"], again["act"]) == ("It is at the post office.", f"answer:{case['id']}")
    assert chat(client, "Another question")["text"] == "In five days."
    assert [found["num_uses"] for found in client.get("/v1/cases").json()] == [1]
    client.delete(f"/v1/cases/{case['id']}")
    assert chat(client)["text"] == "In five days."


def test_the_right_act_becomes_a_case_and_a_lesson(client: TestClient, rig: Rig) -> None:
    """The lesson is the operator's own decision: same question, the right act chosen, rated up, never held out."""
    reply = chat(client)
    case = correct(client, reply["id"], act="handoff").json()
    lesson = rig.store.decision(case["lesson_id"])
    assert (lesson.act, lesson.person_id, lesson.query) == ("handoff", "operator:local", QUESTION)
    assert (lesson.version, lesson.holdout, lesson.train_ok) == ("v000001", False, True)
    assert math.isclose(sum(math.exp(logprob) for logprob in lesson.logprobs), 1.0)
    signals = rig.store.signals(lesson.conversation_id)
    assert [(signal.kind, signal.value, signal.author) for signal in signals] == [("thumb", 1.0, "operator:local")]
    kept = rig.store.signals(reply["conversation_id"])
    assert [(signal.kind, signal.label) for signal in kept] == [(SignalKind.CORRECTION, "handoff")]
    listed = client.get("/v1/inbox").json()["conversations"]
    assert lesson.conversation_id not in [line["id"] for line in listed]


def test_words_with_an_act_are_both_a_case_and_a_lesson(client: TestClient, rig: Rig) -> None:
    """The words speak at once, the act is trained on; words with the bot's own act, or none, are a case alone."""
    case = correct(client, chat(client)["id"], act="handoff", text="Somebody will call you.").json()
    assert (case["act"], case["text"]) == (f"answer:{case['id']}", "Somebody will call you.")
    assert rig.store.decision(case["lesson_id"]).act == "handoff"
    assert chat(client)["text"] == "Somebody will call you."
    for question, body in (("Another question", {"act": "answer:card_arrival"}), ("A third one", {})):
        alone = correct(client, chat(client, question)["id"], text="In two days.", **body).json()
        assert alone["lesson_id"] == ""


def test_a_correction_says_which_version_learned_it(client: TestClient, rig: Rig) -> None:
    """Of those that its lesson is in the lineage of, the first that was published; none before."""
    asked = (QUESTION, "Another question")
    case, other = (correct(client, chat(client, question)["id"], act="handoff").json() for question in asked)
    assert case["taught"] == ""
    outcomes = (("refused", "v000001"), ("published", "v000002"), ("published", "v000003"))
    for number, (outcome, version) in enumerate(outcomes):
        lineage = (case["lesson_id"], "d_other")
        rig.store.commit_update(UpdateRow(2000.0 + number, number, "", outcome, version, {}, lineage))
    found = {one["id"]: one["taught"] for one in client.get("/v1/cases").json()}
    assert found == {case["id"]: "v000002", other["id"]: ""}
    shown = client.get(f"/v1/conversations/{case['conversation_id']}").json()["cases"]
    assert [one["taught"] for one in shown] == ["v000002"]


@pytest.mark.parametrize("body", [{"text": "In five  days."}, {"act": "answer:card_arrival"}, {}])
def test_what_the_bot_said_already_is_no_correction(client: TestClient, body: dict[str, str]) -> None:
    """Its own words unedited, its own act, nothing: refused, and nothing is kept."""
    reply = chat(client)
    answer = correct(client, reply["id"], **body)
    assert (answer.status_code, "the same" in answer.json()["error"]["message"]) == (400, True)
    assert client.get("/v1/cases").json() == []


def test_an_act_that_does_not_exist_is_refused(client: TestClient) -> None:
    """With a word on what was expected."""
    assert correct(client, chat(client)["id"], act="answer:nowhere").status_code == 400


def test_a_conversation_that_is_not_to_be_learned_from_teaches_nothing(client: TestClient, rig: Rig) -> None:
    """Consent is asked before anything is kept."""
    reply = chat(client)
    rig.store.update_conversation(reply["conversation_id"], learn_ok=False)
    assert correct(client, reply["id"], act="handoff").status_code == 403
    assert client.get("/v1/cases").json() == []


def test_a_lesson_goes_when_consent_is_withdrawn_or_its_case_taken_back(client: TestClient, rig: Rig) -> None:
    """Out of the learner's window and count; the control, another correction's lesson, stays."""
    shy, wrong, kept = (chat(client, text) for text in ("One?", "Two?", "Three?"))
    cases = [correct(client, reply["id"], act="handoff").json() for reply in (shy, wrong, kept)]
    lessons = [case["lesson_id"] for case in cases]
    rewards = [
        make_reward(decision_id=lesson, conversation_id=rig.store.decision(lesson).conversation_id)
        for lesson in lessons
    ]
    last = rig.store.put_rewards(rewards, 0)
    assert [rated.decision.id for rated in rig.store.window(last, 9)] == lessons
    rig.store.update_conversation(shy["conversation_id"], learn_ok=False)
    client.delete(f"/v1/cases/{cases[1]['id']}")
    assert [rated.decision.id for rated in rig.store.window(last, 9)] == [lessons[2]]
    assert rig.store.count_fresh(0) == 1
    assert [row.id for row in rig.knowledge.rows] == [cases[2]["id"]]


def test_a_case_falls_silent_as_its_person_says_not_to_learn(client: TestClient) -> None:
    """At once, and speaks again when they allow it."""
    said = "It is at the post office."
    with client.websocket_connect("/ws/chat") as socket:
        socket.send_json({"type": "hello", "protocol": 1})
        socket.receive_json()
        socket.send_json({"type": "message", "client_id": "1", "text": QUESTION})
        while (frame := socket.receive_json())["type"] != "message" or frame["message"]["role"] != "bot":
            pass
        correct(client, frame["message"]["id"], text=said)
        for learn, expected in ((False, "In five days."), (True, said)):
            socket.send_json({"type": "settings", "learn": learn})
            while (heard := socket.receive_json())["type"] != "ack" or heard["kind"] != "settings":
                pass
            assert chat(client)["text"] == expected


def test_a_correction_sent_twice_is_one(client: TestClient, rig: Rig) -> None:
    """The same case and lesson; said anew after it was taken back, or after another one, it is a new one."""
    reply = chat(client)
    first, again = (correct(client, reply["id"], act="handoff").json() for _ in range(2))
    assert again == first
    assert len(rig.store.signals(reply["conversation_id"])) == 1
    client.delete(f"/v1/cases/{first['id']}")
    anew = correct(client, reply["id"], act="handoff").json()
    assert anew["id"] != first["id"]
    rig.clock.now += 1.0
    correct(client, reply["id"], text="It is at the post office.")
    rig.clock.now += 1.0
    assert correct(client, reply["id"], act="handoff").json()["id"] not in (first["id"], anew["id"])


def test_a_held_out_conversation_gives_a_case_but_no_lesson(client: TestClient, rig: Rig) -> None:
    """What the gate judges by is never trained on."""
    rig.store.add_conversation(make_conversation(id="held"))
    decision = make_decision(conversation_id="held", holdout=True)
    reply = make_message(id="r", conversation_id="held", role="bot", decision_id="d1")
    rig.store.add_reply(reply, decision)
    assert correct(client, "r", act="handoff").json()["lesson_id"] == ""


def test_why_shows_what_the_case_and_the_retriever_said(client: TestClient, rig: Rig) -> None:
    """The scripted policy knows priors only: 1 and 0 without the case, and 5 for the case's act with it."""
    before = chat(client)
    case = correct(client, before["id"], text="It is at the post office.").json()
    after = chat(client)
    message = rig.store.message(after["id"])
    why = client.get(f"/v1/decisions/{message.decision_id}/why").json()
    assert (why["moved_by"], why["case"]["case_id"], why["case"]["prior_logit"]) == ("case", case["id"], 5.0)
    shares = {row["act"]: row for row in why["acts"]}
    # Without the case: softmax(1, 0) = 0.7311, 0.2689. With it: e^5 / (e^5 + e + 1) = 0.9756.
    assert shares["answer:card_arrival"]["retriever"] == pytest.approx(0.7311, abs=1e-4)
    assert shares[f"answer:{case['id']}"]["retriever"] == 0.0
    assert shares[f"answer:{case['id']}"]["served"] == pytest.approx(0.9756, abs=1e-4)
    plain = rig.store.message(before["id"]).decision_id
    assert client.get(f"/v1/decisions/{plain}/why").json()["moved_by"] == "retriever"


def test_an_edited_draft_teaches_and_an_unedited_one_does_not(client: TestClient, rig: Rig) -> None:
    """The draft before editing is kept in the case."""
    reply = chat(client)
    where = f"/v1/conversations/{reply['conversation_id']}"
    client.post(f"{where}/takeover", json={})
    draft = client.post(f"{where}/suggest").json()
    assert (draft["act"], draft["text"]) == ("answer:card_arrival", "In 5 days.")
    sent = {"draft": {"act": draft["act"], "text": draft["text"]}, "teach": True}
    same = client.post(f"{where}/say", json={"key": "1", "text": "In 5 days."} | sent).json()
    assert same["case_id"] is None
    edited = client.post(f"{where}/say", json={"key": "2", "text": "In 2 days: we are quick."} | sent).json()
    case = rig.store.desk.case(edited["case_id"])
    assert (case.draft, case.text, case.question) == ("In 5 days.", "In 2 days: we are quick.", QUESTION)
    assert case.draft_act == "answer:card_arrival"
    silent = client.post(f"{where}/say", json={"key": "3", "text": "Bye."}).json()
    assert silent["case_id"] is None


def test_words_that_are_sent_again_teach_once(client: TestClient, rig: Rig) -> None:
    """Under one key: one message, one case, one row in the log; also when the case was taken back meanwhile. Other words
    under it are refused."""
    where = f"/v1/conversations/{chat(client)['conversation_id']}"
    client.post(f"{where}/takeover", json={})
    words = {"key": "1", "text": "In 2 days.", "teach": True}
    first, second = (client.post(f"{where}/say", json=words).json() for _ in range(2))
    assert first == second
    changed = client.post(f"{where}/say", json=words | {"text": "In 3 days."})
    assert (changed.status_code, changed.json()["error"]["code"]) == (409, "conflict")
    assert [case.id for case in rig.store.desk.cases()] == [first["case_id"]]
    assert [row.action for row in rig.store.desk.audit()].count("correct") == 1
    client.delete(f"/v1/cases/{first['case_id']}")
    assert client.post(f"{where}/say", json=words).json() == first
    assert rig.store.desk.cases(in_force=True) == []
    other = client.post(f"{where}/say", json=words | {"key": "2"}).json()
    assert other["case_id"] != first["case_id"]


def test_a_case_is_silent_while_the_article_it_names_is_away(client: TestClient) -> None:
    """Taken away, it is not answered with any more; written again, the case speaks again; no restart."""
    path, body = "/v1/knowledge/articles/watch", {"text": WATCH}
    client.put(path, json=body)
    assert correct(client, chat(client)["id"], act="answer:watch").status_code == 201
    assert chat(client)["act"] == "answer:watch"
    client.delete(path)
    assert chat(client)["act"] == "answer:card_arrival"
    client.put(path, json=body)
    assert chat(client)["act"] == "answer:watch"


async def test_of_two_loads_at_once_the_newer_reading_stays(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one, slow to load, does not put back what it had read before the second one's case was stored."""
    first, second, load = asyncio.Event(), asyncio.Event(), rig.knowledge.load

    async def slow(rows: Sequence[CaseRow]) -> None:
        is_first = not first.is_set()
        (second if first.is_set() else first).set()
        if is_first:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(second.wait(), 0.3)  # Comes only where nothing holds the second one back.
        await load(rows)

    monkeypatch.setattr(rig.knowledge, "load", slow)
    early = asyncio.create_task(rig.parts.teacher.load_cases())
    await first.wait()
    case = Case("case_a", 1.0, "operator:ana", QUESTION, "handoff", "", "", "", "c1")
    rig.store.add_conversation(make_conversation())
    rig.store.desk.add_case(Doing("operator:ana", 1.0), case)
    await asyncio.gather(early, rig.parts.teacher.load_cases())
    assert [row.id for row in rig.knowledge.rows] == ["case_a"]


def test_what_may_not_be_taught_from_is_refused_before_it_is_sent(client: TestClient, rig: Rig) -> None:
    """The customer reads it once, when it is sent again without teaching, under the same key."""
    where = f"/v1/conversations/{chat(client)['conversation_id']}"
    rig.store.update_conversation(where.rpartition("/")[2], learn_ok=False)
    client.post(f"{where}/takeover", json={})
    words = {"key": "1", "text": "In 2 days."}
    assert client.post(f"{where}/say", json=words | {"teach": True}).status_code == 403
    assert "operator" not in [line.role for line in rig.store.messages(where.rpartition("/")[2])]
    assert client.post(f"{where}/say", json=words).status_code == 200


def test_a_missing_article_becomes_a_draft_with_its_question(client: TestClient) -> None:
    """Written on, and published or dropped."""
    reply = chat(client)
    made = client.post("/v1/drafts", json={"message_id": reply["id"], "title": "Lockers"}).json()
    assert (made["question"], made["state"]) == (QUESTION, "draft")
    changed = client.patch(f"/v1/drafts/{made['id']}", json={"answer": "In the hall.", "state": "published"}).json()
    assert (changed["answer"], changed["state"]) == ("In the hall.", "published")
    assert client.get("/v1/drafts").json() == []


def script_modes(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base answers with the article, v000001 with the newest case."""
    modes = {"v000000": "answer:card_arrival", "v000001": rig.store.desk.cases()[0].act}

    async def mode(version: str, decision: Any) -> str:
        return modes[version]

    monkeypatch.setattr(rig.parts.teacher, "_mode", mode)


def test_a_pair_is_judged_blind_and_counted(client: TestClient, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two versions whose modes differ; whose answer is whose is told only after the verdict, which is given once."""
    correct(client, chat(client)["id"], text="Words")
    chat(client)
    script_modes(rig, monkeypatch)
    asked = {"versions": ["v000000", "v000001"]}
    pair = client.post("/v1/pairs", json=asked).json()["pair"]
    assert {pair["left"], pair["right"]} == {"In 5 days.", "Words"}
    assert "v000" not in str(pair)
    assert client.post("/v1/pairs", json=asked).json()["pair"]["id"] == pair["id"]
    added = rig.store.desk.audit(limit=1)[0]
    assert (added.action, added.target, added.after) == ("add pair", pair["id"], asked)
    better = "left" if pair["left"] == "Words" else "right"
    told = client.post(f"/v1/pairs/{pair['id']}", json={"verdict": better}).json()
    assert told[f"{better}_version"] == "v000001"
    assert client.post(f"/v1/pairs/{pair['id']}", json={"verdict": better}).status_code == 409
    assert client.get("/v1/pairs").json() == [
        {"a": "v000000", "b": "v000001", "a_wins": 0, "b_wins": 1, "both": 0, "neither": 0}
    ]


@pytest.mark.parametrize("erased", ["case", "question"])
def test_a_pair_of_which_something_was_erased_gives_way(
    client: TestClient, rig: Rig, monkeypatch: pytest.MonkeyPatch, erased: str
) -> None:
    """Nobody could judge it; it must not stand before those that can be judged."""
    taught = chat(client)
    correct(client, taught["id"], text="Words")
    script_modes(rig, monkeypatch)
    asked = chat(client)
    versions = {"versions": ["v000000", "v000001"]}
    first = client.post("/v1/pairs", json=versions).json()["pair"]
    lost = {"case": taught, "question": asked}[erased]
    assert client.delete(f"/v1/conversations/{lost['conversation_id']}").status_code == 200
    answer = client.post("/v1/pairs", json=versions)
    assert answer.status_code == 200
    assert (answer.json()["pair"] or {}).get("id") != first["id"]


def test_ratings_are_kept_apart_from_the_customers(client: TestClient, rig: Rig) -> None:
    """The same key is one rating."""
    reply = chat(client)
    body = {"key": "r1", "message_id": reply["id"], "value": -1.0}
    first = client.post("/v1/ratings", json=body).json()
    assert client.post("/v1/ratings", json=body).json() == first
    assert client.post("/v1/ratings", json=body | {"value": 1.0}).status_code == 409
    kept = rig.store.signals(reply["conversation_id"])
    assert [(signal.kind, signal.value, signal.source) for signal in kept] == [("rating", -1.0, "operator")]


def test_accounts_sign_in_by_password_and_out_when_they_change(client: TestClient, rig: Rig) -> None:
    """A wrong password and a wrong name are told alike; a changed role ends the session; every step is in the log."""
    new = {"name": "ana", "role": "operator", "password": "correct horse battery"}
    assert client.post("/v1/accounts", json=new).status_code == 201
    assert client.post("/v1/accounts", json=new).status_code == 409
    ana = TestClient(rig.app, base_url="http://localhost:7860")
    wrong = [ana.post("/v1/session", json=new | {"role": None} | change) for change in ({}, {})]
    assert [answer.status_code for answer in wrong] == [400, 400]
    refusals = [
        ana.post("/v1/session", json={"name": name, "password": password})
        for name, password in (("ana", "not hers at all"), ("nobody", "correct horse battery"))
    ]
    assert [answer.status_code for answer in refusals] == [401, 401]
    assert refusals[0].json() == refusals[1].json()
    assert ana.post("/v1/session", json={"name": "ana", "password": new["password"]}).status_code == 200
    assert ana.get("/v1/me").json() == {"name": "ana", "role": "operator"}
    assert ana.get("/v1/accounts").status_code == 403
    client.patch("/v1/accounts/ana", json={"role": "developer"})
    assert ana.get("/v1/me").status_code == 401
    log = client.get("/v1/audit").json()
    assert log["first_broken"] == 0
    assert [(row["actor"], row["action"]) for row in log["rows"]][::-1] == [
        ("operator:local", "add account"),
        ("operator:ana", "sign in"),
        ("operator:local", "change account"),
    ]
    assert "password" not in str([row["before"] for row in log["rows"]])


def test_the_export_holds_what_the_filter_shows_and_runs_no_formula(client: TestClient, rig: Rig) -> None:
    """JSON lines as stored; in CSV a cell that begins like a formula is text."""
    chat(client, "=HYPERLINK(0)")
    rig.store.desk.tag(Doing("operator:ana", 1.0), chat(client, "plain")["conversation_id"], "=1+1", present=True)
    lines = client.get("/v1/inbox/export?format=jsonl&q=HYPERLINK").text.splitlines()
    assert len(lines) == 1
    assert '"=HYPERLINK(0)"' in lines[0]
    sheet = client.get("/v1/inbox/export?format=csv")
    assert sheet.headers["content-disposition"] == 'attachment; filename="conversations.csv"'
    assert "'=1+1" in sheet.text
    assert not any(line.startswith(("=", "+", "@")) for line in sheet.text.splitlines())

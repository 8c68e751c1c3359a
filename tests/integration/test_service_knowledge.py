"""`/v1/knowledge/*`, who taught a version, how articles are taken: over the real app and store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from bot.feedback.desk import Doing
from bot.feedback.desk_records import Case
from bot.feedback.store import UpdateRow
from tests.builders import make_conversation, make_decision, make_message, make_signal
from tests.service_rig import OPERATOR_KEY, Rig, open_rig

OPERATOR = {"Authorization": f"Bearer {OPERATOR_KEY}"}
WATCH = "---\ntitle: Paying by watch\nquestions:\n  - Can I pay with my watch?\n---\nYes, if it is paired.\n"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with open_rig(tmp_path) as rig:
        yield rig


@pytest.fixture
def client(rig: Rig) -> Iterator[TestClient]:
    with TestClient(rig.app, base_url="http://localhost:7860", headers=OPERATOR) as client:
        yield client


def put(client: TestClient, article_id: str = "watch", **overrides: Any) -> Any:
    return client.put(f"/v1/knowledge/articles/{article_id}", json={"text": WATCH} | overrides)


def ask(rig: Rig, name: str, text: str, act: str, thumb: float = 0.0) -> None:
    """A conversation of one question, answered by an act."""
    rig.store.add_conversation(make_conversation(id=name))
    rig.store.add_user_message(make_message(id=f"{name}q", conversation_id=name, text=text, client_id=name))
    decision = make_decision(id=f"{name}d", conversation_id=name)
    reply = make_message(id=f"{name}r", conversation_id=name, role="bot", decision_id=decision.id, act=act)
    rig.store.add_reply(reply, decision)
    if thumb:
        rig.store.add_signal(make_signal(key=name, conversation_id=name, decision_id=decision.id, value=thumb))


def test_an_article_is_written_read_and_taken_away(client: TestClient) -> None:
    """It is in the list, with its source; people read it under its id."""
    before = client.get("/v1/knowledge/articles").json()
    assert [line["id"] for line in before["articles"]] == ["card_arrival"]
    assert put(client, is_new=True).json()["is_own"]
    listed = client.get("/v1/knowledge/articles").json()
    assert (len(listed["articles"]), listed["revision"] == before["revision"]) == (2, False)
    assert client.get("/v1/knowledge/articles/watch").json()["text"] == WATCH
    assert client.get("/v1/articles/watch").json()["answer"] == "Yes, if it is paired."
    assert put(client, is_new=True).status_code == 409
    assert len(client.delete("/v1/knowledge/articles/watch").json()["articles"]) == 1
    assert client.delete("/v1/knowledge/articles/watch").status_code == 404


def test_changes_to_a_text_that_somebody_changed_meanwhile_are_refused(client: TestClient) -> None:
    """And change nothing; to the text as it stands they are taken, and without `based_on`, too."""
    put(client)
    read = client.get("/v1/knowledge/articles/watch").json()["text_hash"]
    faster = WATCH.replace("Yes", "No")
    assert put(client, text=faster, based_on=read).status_code == 200
    refused = put(client, text=WATCH, based_on=read)
    assert (refused.status_code, "somebody changed it meanwhile" in refused.text) == (409, True)
    assert client.get("/v1/knowledge/articles/watch").json()["text"] == faster
    assert put(client, text=WATCH).status_code == 200


def test_a_mistake_is_told_with_its_line_and_without_our_folders(client: TestClient, tmp_path: Path) -> None:
    """The same words while one types and when one saves."""
    text = WATCH.replace("  - Can I pay with my watch?", "  []")
    checked = client.post("/v1/knowledge/check", json={"id": "watch", "text": text}).json()
    saved = put(client, text=text)
    assert (checked["ok"], saved.status_code) == (False, 400)
    assert checked["mistake"].startswith("watch.md:3: expected")
    assert saved.json()["error"]["message"] == checked["mistake"]
    assert str(tmp_path) not in saved.text
    well = client.post("/v1/knowledge/check", json={"id": "watch", "text": WATCH}).json()
    assert (well["ok"], well["title"], well["questions"]) == (True, "Paying by watch", ["Can I pay with my watch?"])
    assert put(client, "..%2Fwatch").status_code in (400, 404)


def test_questions_that_went_wrong_stand_in_groups(client: TestClient, rig: Rig) -> None:
    """Out of scope, handed over, thumb down; a good answer is none. Like words make one group, the largest first."""
    ask(rig, "c1", "may I pay by watch", "handoff")
    ask(rig, "c2", "pay by watch please", "respond:utter_out_of_scope")
    ask(rig, "c3", "where is my card", "answer:card_arrival", thumb=-1.0)
    ask(rig, "c4", "when will it come", "answer:card_arrival", thumb=1.0)
    groups = client.get("/v1/knowledge/gaps").json()["groups"]
    assert [sorted(q["conversation_id"] for q in group["questions"]) for group in groups] == [["c1", "c2"], ["c3"]]
    assert groups[0]["why"] == {"handed over": 1, "out of scope": 1}
    assert (groups[1]["why"], groups[1]["nearest"]) == ({"thumb down": 1}, "card_arrival")


def test_a_draft_is_published_with_its_article(client: TestClient, rig: Rig) -> None:
    """What an operator missed leaves the list once somebody has written it."""
    ask(rig, "c1", "may I pay by watch", "handoff")
    draft = client.post("/v1/drafts", json={"message_id": "c1r", "title": "Watch"}).json()
    assert put(client, draft=draft["id"]).status_code == 200
    assert client.get("/v1/drafts").json() == []


def test_a_server_with_a_fixed_domain_says_so(client: TestClient, rig: Rig) -> None:
    """The control: no library, no editing."""
    object.__setattr__(rig.parts, "library", None)
    assert client.get("/v1/knowledge/articles").status_code == 503


def test_who_taught_a_version_is_told_by_conversation(client: TestClient, rig: Rig) -> None:
    """Two conversations, by their first words; an update that published nothing taught nobody."""
    ask(rig, "c1", "may I pay by watch", "handoff")
    ask(rig, "c2", "where is my card", "answer:card_arrival", thumb=1.0)
    update = UpdateRow(1.0, 0, "checkpoint-000001", "published", "v000001", {}, ("c1d", "c2d"))
    rig.store.commit_update(update)
    lessons = client.get("/v1/versions/v000001/lessons").json()
    assert lessons["num_decisions"] == 2
    assert {line["text"]: line["num_decisions"] for line in lessons["conversations"]} == {
        "may I pay by watch": 1,
        "where is my card": 1,
    }
    assert client.get("/v1/versions/v000002/lessons").status_code == 404


def test_operators_whose_words_taught_a_version_are_told_too(client: TestClient, rig: Rig) -> None:
    """Newest first, and counted apart from the replies; a case that taught nothing is none, one taken back says so."""
    ana = Doing("operator:ana", 7.0)
    ask(rig, "c1", "may I pay by watch", "handoff")
    for i, name in enumerate(("case_a", "case_b", "case_c")):
        case = Case(name, 2.0 + i, ana.actor, "may I pay by watch", "handoff", f"Words of {name}.", "", "", "c1")
        rig.store.desk.add_case(ana, case)
    lineage = ("c1d", "case_a", "case_b")
    rig.store.commit_update(UpdateRow(6.0, 0, "checkpoint-000001", "published", "v000001", {}, lineage))
    rig.store.desk.remove_case(ana, "case_a")
    lessons = client.get("/v1/versions/v000001/lessons").json()
    assert lessons["num_decisions"] == 1
    told = [(line["case_id"], line["text"], line["at"], line["removed_at"]) for line in lessons["words"]]
    assert told == [("case_b", "Words of case_b.", 3.0, 0.0), ("case_a", "Words of case_a.", 2.0, 7.0)]
    asked = {"conversation_id": "c1", "author": "operator:ana", "question": "may I pay by watch"}
    assert all(asked.items() <= line.items() for line in lessons["words"])


def test_how_people_take_an_article_is_told_version_by_version(client: TestClient, rig: Rig) -> None:
    """Only answers count; nothing rated is null, not zero."""
    ask(rig, "c1", "where is my card", "answer:card_arrival", thumb=1.0)
    ask(rig, "c2", "where is it", "answer:card_arrival", thumb=-1.0)
    ask(rig, "c3", "a person please", "handoff")
    (line,) = client.get("/v1/learner/articles").json()["articles"]
    assert (line["article"], line["replies"], line["up"], line["down"]) == ("card_arrival", 2, 1, 1)
    assert (line["mean_reward"], len(line["by_version"])) == (None, 1)


def test_a_comparison_without_any_question_is_refused(client: TestClient) -> None:
    """Nobody has asked anything yet."""
    answer = client.post("/v1/versions/compare", json={"versions": ["v000000", "v000001"]})
    assert (answer.status_code, "nobody has asked" in answer.text) == (400, True)

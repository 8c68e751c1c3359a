"""`/v1/rules*`: what is in force, checking, trying on history in a worker, putting in force."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from bot.domain import load_domain
from bot.feedback.rules import load_rules
from bot.feedback.settle import settle
from tests.history_rig import fill
from tests.service_rig import OPERATOR_KEY, Rig, open_rig

OPERATOR = {"Authorization": f"Bearer {OPERATOR_KEY}"}
BANK = load_domain("bank").rewards_path.read_text()
HEAVIER = BANK.replace("up: 0.5", "up: 0.75")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with open_rig(tmp_path) as rig:
        yield rig


@pytest.fixture
def client(rig: Rig) -> Iterator[TestClient]:
    with TestClient(rig.app, base_url="http://localhost:7860", headers=OPERATOR) as client:
        yield client


def save(client: TestClient, **overrides: Any) -> Any:
    body = {"text": HEAVIER, "reason": "praise more", "based_on": client.get("/v1/rules").json()["rules_hash"]}
    return client.post("/v1/rules", json=body | overrides)


def test_the_domains_own_file_is_in_force_at_first(client: TestClient) -> None:
    """Number 0, with its text and no version."""
    rules = client.get("/v1/rules").json()
    assert (rules["number"], rules["text"], rules["versions"], rules["current"]) == (0, BANK, [], True)


def test_a_mistake_is_marked_with_its_place_and_a_hint(client: TestClient) -> None:
    """`solvd` stands in line 24, behind four blanks."""
    text = BANK.replace("solved: 1.0", "solvd: 1.0")
    line = text.splitlines().index("    solvd: 1.0") + 1
    checked = client.post("/v1/rules/check", json={"text": text}).json()
    found = {name: checked["mistake"][name] for name in ("file", "line", "column", "hint")}
    assert (checked["ok"], found) == (False, {"file": "rewards.yml", "line": line, "column": 5, "hint": "solved"})
    assert {"kind": "removed", "text": "    solved: 1.0"} in checked["diff"]


def test_a_draft_that_is_well_is_compared_with_what_is_in_force(client: TestClient) -> None:
    """One line removed, one added, with lines around them."""
    checked = client.post("/v1/rules/check", json={"text": HEAVIER}).json()
    changed = [line for line in checked["diff"] if line["kind"] in ("added", "removed")]
    assert checked["ok"]
    assert changed == [{"kind": "removed", "text": "    up: 0.5"}, {"kind": "added", "text": "    up: 0.75"}]
    assert client.post("/v1/rules/check", json={"text": BANK}).json()["diff"] == []


def test_a_page_cannot_name_new_code(client: TestClient, rig: Rig) -> None:
    """A scorer that nobody installed is refused at its name; the shell may still do it."""
    text = "version: 2\nscorers:\n  odd: {entry: 'subprocess:run'}\nrules: {outcome: {solved: 1, not_solved: -1}}\n"
    mistake = client.post("/v1/rules/check", json={"text": text}).json()["mistake"]
    assert (mistake["line"], mistake["got"]) == (3, "'subprocess:run'")
    assert save(client, text=text).status_code == 400
    assert client.post("/v1/rules/backtests", json={"text": text}).status_code == 400


def test_saving_makes_a_version_with_author_and_reason(client: TestClient, rig: Rig) -> None:
    """It is in force; the rewards follow with the next settling, and the old ones stay."""
    fill(rig.store, 40)
    file_rules = load_rules(rig.parts.domain.rewards_path)
    settle(rig.store, file_rules, 1e9, 0.0)
    before = rig.store.counts()["rewards"]
    assert save(client).json()["number"] == 1
    rules = client.get("/v1/rules").json()
    assert (rules["number"], rules["text"], rules["current"]) == (1, HEAVIER, False)
    assert (rules["versions"][0]["author"], rules["versions"][0]["reason"]) == ("operator:local", "praise more")
    settle(rig.store, file_rules, 1e9, 0.0)
    rules = client.get("/v1/rules").json()
    assert (rules["current"], rules["versions"][0]["rewards"]) == (True, rig.store.counts()["rewards"] - before)
    assert client.get("/v1/rules/versions/1").json()["text"] == HEAVIER
    assert client.get("/v1/rules/versions/2").status_code == 404


@pytest.mark.parametrize(
    ("change", "status"),
    [({"based_on": "0" * 16}, 409), ({"text": BANK}, 409), ({"text": "version: 1\n"}, 400), ({"reason": "  "}, 400)],
)
def test_what_cannot_be_saved_changes_nothing(
    client: TestClient, rig: Rig, change: dict[str, Any], status: int
) -> None:
    """Somebody was faster; nothing is new; a mistake; no reason."""
    assert save(client, **change).status_code == status
    assert rig.store.rules_versions() == []


def finished(client: TestClient, job: dict[str, Any]) -> dict[str, Any]:
    """The job once it has ended; a loaded machine gets three chances."""
    for _ in range(3):
        job = job if job["state"] != "running" else client.get(f"/v1/jobs/{job['id']}?wait_s=30").json()
    return job


def test_a_backtest_runs_beside_the_server(client: TestClient, rig: Rig) -> None:
    """The same report as from the shell, and progress in decisions."""
    fill(rig.store, 200)
    started = client.post("/v1/rules/backtests", json={"text": HEAVIER})
    job = finished(client, started.json())
    assert (started.status_code, job["state"], job["done"], job["total"]) == (202, "done", 200, 200)
    report = job["result"]
    assert (report["complete"], report["num_decisions"], report["diff"]["num_lowered"]) == (True, 200, 0)
    assert report["diff"]["num_raised"] > 0


def test_a_backtest_can_be_ended(client: TestClient, rig: Rig) -> None:
    """Whatever it had seen by then is its result, or nothing if it had hardly begun."""
    fill(rig.store, 400)
    job = client.post("/v1/rules/backtests", json={"text": HEAVIER}).json()
    assert client.delete(f"/v1/jobs/{job['id']}").json()["state"] in ("done", "failed")
    assert client.get("/v1/jobs/unknown").status_code == 404


def test_the_schema_is_for_editors(client: TestClient) -> None:
    """JSON Schema, as `rejoinder rules schema` writes it."""
    assert client.get("/v1/rules/schema").json()["title"]

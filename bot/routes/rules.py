"""`/v1/rules*`: the reward rules in force, checking a draft, trying it on history, putting it in force. Operators read, developers change."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from starlette.responses import Response

from bot.feedback.desk import Doing
from bot.feedback.rules import RulesError, json_schema
from bot.feedback.rules_draft import diff, in_force, parse_draft, save, warnings_of
from bot.feedback.settle import are_rewards_current
from bot.feedback.store import RulesVersion
from bot.routes.access import DeveloperDep, OperatorDep, ServiceDep
from bot.routes.jobs import JobOut
from bot.routes.parts import AppParts
from bot.wire_errors import BadFrame

router = APIRouter(tags=["rules"])

Text = Annotated[str, Field(max_length=200_000)]
Reason = Annotated[str, Field(min_length=1, max_length=500, pattern=r"\S")]
_RULES = "version: 1\nrules:\n  outcome: {solved: 1.0, not_solved: -1.0}\n"
_VERSION: dict[str, JsonValue] = {
    "number": 3,
    "at": 1.78e9,
    "author": "operator:local",
    "reason": "less praise",
    "rules_hash": "5be1d7c20a94f3e8",
}


class Draft(BaseModel):
    """Rules that are not in force."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"text": _RULES}]})

    text: Text


class NewRules(Draft):
    """Rules to put in force, in place of those with the hash `based_on`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": _RULES, "reason": "less praise", "based_on": "5be1d7c20a94f3e8"}]}
    )

    reason: Reason
    based_on: str


class VersionLine(BaseModel):
    """Rules that somebody put in force; `rewards`: how many stored revisions they gave."""

    model_config = ConfigDict(json_schema_extra={"examples": [_VERSION | {"rewards": 812}]})

    number: int
    at: float
    author: str
    reason: str
    rules_hash: str
    rewards: int = 0


class VersionText(VersionLine):
    """The same with the whole file."""

    model_config = ConfigDict(json_schema_extra={"examples": [_VERSION | {"rewards": 812, "text": _RULES}]})

    text: str


class RulesOut(BaseModel):
    """What is in force. `number` is 0 for the domain's own file. `current`: all rewards were made by these rules."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"rules_hash": "5be1d7c20a94f3e8", "number": 3, "text": _RULES, "current": True, "versions": [_VERSION]}
            ]
        }
    )

    rules_hash: str
    number: int
    text: str
    current: bool
    versions: list[VersionLine]


class Mistake(BaseModel):
    """The first mistake; lines and columns count from 1."""

    file: str
    line: int
    column: int
    expected: str
    got: str
    hint: str


class Checked(BaseModel):
    """What is to be said of a draft. `diff`: against what is in force, lines of kind same, added, removed or gap."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "ok": False,
                    "mistake": {
                        "file": "rewards.yml",
                        "line": 3,
                        "column": 13,
                        "expected": "one of solved, not_solved in outcome",
                        "got": "'solvd'",
                        "hint": "solved",
                    },
                    "diff": [{"kind": "added", "text": "  outcome: {solvd: 1.0}"}],
                }
            ]
        }
    )

    ok: bool
    rules_hash: str = ""
    mistake: Mistake | None = None
    warnings: list[str] = []
    diff: list[dict[str, str]] = []


@router.get("/v1/rules")
async def read_rules(service: ServiceDep, _: OperatorDep) -> RulesOut:
    """The rules in force and every version, newest first."""
    return await asyncio.to_thread(_read, service.parts)


@router.get("/v1/rules/versions/{number}")
async def read_version(service: ServiceDep, _: OperatorDep, number: int) -> VersionText:
    """One version with its text."""
    version = await asyncio.to_thread(service.parts.store.rules_version, number)
    return VersionText(**_fields(version), text=version.text)


@router.get("/v1/rules/schema", response_model=dict[str, Any])
async def read_schema(_: OperatorDep) -> Response:
    """The JSON Schema of rules files, for editors."""
    return Response(json_schema(), media_type="application/schema+json")


@router.post("/v1/rules/check")
async def check(service: ServiceDep, _: DeveloperDep, body: Draft) -> Checked:
    """The draft's first mistake, or what else is to be said of it."""
    return await asyncio.to_thread(_check, service.parts, body.text)


@router.post("/v1/rules/backtests", status_code=202)
async def backtest(service: ServiceDep, doing: DeveloperDep, body: Draft) -> JobOut:
    """Try the draft on the stored history, in a worker; follow it at `/v1/jobs/{id}`. docs/rules.md explains the result."""
    parts = service.parts
    await asyncio.to_thread(_parsed, parts, body.text)
    task = {"database": str(parts.store.path), "rewards": str(parts.domain.rewards_path), "text": body.text}
    return JobOut.of(await service.jobs.start("backtest", "bot.feedback.backtest_worker", task, doing.actor))


@router.post("/v1/rules", status_code=201)
async def apply(service: ServiceDep, doing: DeveloperDep, body: NewRules) -> VersionLine:
    """Put the draft in force: a new version. The learner computes the rewards anew; old ones stay readable."""
    return VersionLine(**_fields(await asyncio.to_thread(_save, service.parts, body, doing)))


def _read(parts: AppParts) -> RulesOut:
    now = in_force(parts.store, parts.domain)
    given = parts.store.rewards_by_rules()
    versions = [VersionLine(**_fields(v), rewards=given.get(v.rules_hash, 0)) for v in parts.store.rules_versions()]
    return RulesOut(
        rules_hash=now.rules.rules_hash,
        number=now.version.number if now.version else 0,
        text=now.text,
        current=are_rewards_current(parts.store, now.rules),
        versions=versions,
    )


def _save(parts: AppParts, body: NewRules, doing: Doing) -> RulesVersion:
    """Raises BadFrame, ConflictError."""
    why = {"based_on": body.based_on, "author": doing.actor, "reason": body.reason.strip()}
    try:
        saved = save(parts.store, parts.domain, body.text, at=doing.at, **why)
    except RulesError as error:
        raise BadFrame(str(error)) from error
    said = {"rules_hash": saved.rules_hash, "reason": saved.reason}
    parts.store.desk.note(doing, "apply rules", f"rules {saved.number}", {"rules_hash": body.based_on}, said)
    return saved


def _fields(version: RulesVersion) -> dict[str, Any]:
    return {name: getattr(version, name) for name in ("number", "at", "author", "reason", "rules_hash")}


def _parsed(parts: AppParts, text: str) -> None:
    """Raises BadFrame."""
    try:
        parse_draft(text, in_force(parts.store, parts.domain), parts.domain)
    except RulesError as error:
        raise BadFrame(str(error)) from error


def _check(parts: AppParts, text: str) -> Checked:
    now = in_force(parts.store, parts.domain)
    changes = [asdict(line) for line in diff(now.text, text)]
    try:
        rules = parse_draft(text, now, parts.domain)
    except RulesError as error:
        mistake = Mistake(
            file=error.source,
            line=error.line,
            column=error.column,
            expected=error.expected,
            got=error.got,
            hint=error.hint,
        )
        return Checked(ok=False, mistake=mistake, diff=changes)
    return Checked(ok=True, rules_hash=rules.rules_hash, warnings=warnings_of(rules, parts.domain), diff=changes)

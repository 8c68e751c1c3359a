"""`/v1/versions*`: which versions there are, which one serves, and the operator's levers. For operators."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Protocol

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from bot.conversation import BASE_VERSION
from bot.errors import AdapterError
from bot.feedback.desk import Doing
from bot.feedback.store import Tally
from bot.policy.adapters import Canary, Champion
from bot.policy.manifest import Manifest
from bot.rollout import interval, success, thumbs, verdict_on
from bot.routes.access import DeveloperDep, OperatorDep, ServiceDep
from bot.routes.jobs import JobOut
from bot.routes.parts import AppParts, Service
from bot.wire_errors import BadFrame

router = APIRouter(tags=["versions"])

NUM_QUESTIONS = 100
"""Newest messages that two versions are compared on when no questions are given."""

Reason = Annotated[str, Field(max_length=500)]
VersionId = Annotated[str, Field(pattern=r"^v\d{6}$", examples=["v000007"])]


class Versions(Protocol):
    """The adapter folder, as these routes use it (`bot.policy.adapters.AdapterStore`)."""

    @property
    def frozen(self) -> bool:
        """Whether the learner may not publish."""

    def versions(self) -> list[str]:
        """Published versions, oldest first."""

    def inspect(self, version: str) -> Manifest:
        """Its signed manifest, for showing. Raises AdapterError, NotFound."""

    def is_pruned(self, version: str) -> bool:
        """Whether its weights were removed."""

    def champion(self) -> Champion:
        """Who serves now."""

    def rollback(self, to: str = "", reason: str = "", by: str = "operator") -> Champion:
        """Back to `to`, or to the version before this one."""

    def promote(self, version: str, reason: str, by: str = "operator") -> Champion:
        """Make a version the champion."""

    def canary(self) -> Canary | None:
        """The candidate that a share of conversations gets."""

    def set_canary(self, version: str, share: float, reason: str, by: str) -> Canary:
        """Let a share of conversations have a version."""

    def withdraw(self, reason: str, by: str = "operator") -> Canary:
        """The champion serves alone again."""

    def freeze(self, reason: str, by: str = "operator") -> None:
        """Stop publishing."""

    def unfreeze(self, reason: str, by: str = "operator") -> None:
        """Allow publishing again."""


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Rollback(_Asked):
    """Go back."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "answers about fees got worse"}]})

    to: VersionId | None = None
    reason: Reason


class Promote(_Asked):
    """Make a version serve."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"version": "v000007", "reason": "read by hand"}]})

    version: VersionId
    reason: Reason


class TryOut(_Asked):
    """Let a share of conversations have a version."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"version": "v000007", "share": 0.1, "reason": "first on a few"}]}
    )

    version: VersionId
    share: Annotated[float, Field(gt=0, le=1)]
    reason: Reason


class Because(_Asked):
    """Why."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "audit"}]})

    reason: Reason


class Comparison(_Asked):
    """Two versions to set side by side; without questions, on the newest that people asked."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"versions": ["v000006", "v000007"], "questions": ["Where is my card?"]}]}
    )

    versions: Annotated[list[VersionId], Field(min_length=2, max_length=2)]
    questions: Annotated[list[Annotated[str, Field(min_length=1, max_length=2000)]], Field(max_length=500)] = []


class Standing(BaseModel):
    """Who serves, and whether learning may publish."""

    champion: str
    frozen: bool


class VersionLine(BaseModel):
    """One version. `state`: champion, canary, published, base, pruned (its weights were removed to save space), or damaged."""

    version: str
    parent: str = ""
    created_at: float = 0.0
    state: str
    gate: dict[str, Any] = {}
    lineage: dict[str, Any] = {}


class Arm(BaseModel):
    """What people said of one version since a canary began. Shares are over conversations; `*_ci` are valid at any time."""

    version: str
    conversations: int
    replies: int
    rated: int
    up: float | None
    up_ci: tuple[float, float] | None
    outcomes: int
    success: float | None
    success_ci: tuple[float, float] | None


class CanaryLine(BaseModel):
    """A candidate beside the champion, and what is to become of it: wait, promote or withdraw."""

    version: str
    since: float
    share: float
    reason: str
    verdict: str
    verdict_reason: str
    candidate: Arm
    champion: Arm


class VersionList(Standing):
    """Oldest first."""

    canary: CanaryLine | None = None
    versions: list[VersionLine]


@router.get("/v1/versions")
async def list_versions(service: ServiceDep, _: OperatorDep) -> VersionList:
    """Every version with its gate report and lineage."""
    return await asyncio.to_thread(_listed, service.parts)


@router.post("/v1/versions/rollback")
async def roll_back(service: ServiceDep, doing: DeveloperDep, body: Rollback) -> Standing:
    """Serve an earlier version again, at once; learning is frozen until unfrozen."""
    versions = service.parts.versions
    return await _moved(
        service, doing, "rollback", body.reason, lambda: versions.rollback(body.to or "", body.reason, doing.actor)
    )


@router.post("/v1/versions/promote")
async def promote(service: ServiceDep, doing: DeveloperDep, body: Promote) -> Standing:
    """Serve a published version."""
    versions = service.parts.versions
    return await _moved(
        service, doing, "promote", body.reason, lambda: versions.promote(body.version, body.reason, doing.actor)
    )


@router.post("/v1/versions/canary")
async def try_out(service: ServiceDep, doing: DeveloperDep, body: TryOut) -> Standing:
    """Serve a published version to a share of conversations; it is promoted or withdrawn by what people say."""

    def move() -> None:
        service.parts.versions.set_canary(body.version, body.share, body.reason, doing.actor)

    return await _moved(service, doing, "canary", body.reason, move)


@router.post("/v1/versions/withdraw")
async def withdraw(service: ServiceDep, doing: DeveloperDep, body: Because) -> Standing:
    """End the canary: the champion serves alone again."""
    versions = service.parts.versions
    return await _moved(service, doing, "withdraw", body.reason, lambda: versions.withdraw(body.reason, doing.actor))


@router.post("/v1/versions/freeze")
async def freeze(service: ServiceDep, doing: DeveloperDep, body: Because) -> Standing:
    """Stop publishing; chat and collecting go on."""
    versions = service.parts.versions
    return await _moved(service, doing, "freeze", body.reason, lambda: versions.freeze(body.reason, doing.actor))


@router.post("/v1/versions/unfreeze")
async def unfreeze(service: ServiceDep, doing: DeveloperDep, body: Because) -> Standing:
    """Let the learner publish again."""
    versions = service.parts.versions
    return await _moved(service, doing, "unfreeze", body.reason, lambda: versions.unfreeze(body.reason, doing.actor))


async def _moved(service: Service, doing: Doing, action: str, reason: str, move: Callable[[], object]) -> Standing:
    """Pull a lever and note it."""
    before = await asyncio.to_thread(_standing, service.parts.versions)
    await asyncio.to_thread(move)
    after = await asyncio.to_thread(_standing, service.parts.versions)
    said = after.model_dump() | {"reason": reason}
    await asyncio.to_thread(service.parts.store.desk.note, doing, action, "versions", before.model_dump(), said)
    return after


@router.post("/v1/versions/compare", status_code=202)
async def compare(service: ServiceDep, doing: DeveloperDep, body: Comparison) -> JobOut:
    """What two versions would do on the same questions, in a worker; follow it at `/v1/jobs/{id}`."""
    parts = service.parts
    questions = body.questions or await asyncio.to_thread(parts.store.newest_questions, NUM_QUESTIONS)
    if not questions:
        raise BadFrame("questions: expected at least one, since nobody has asked anything yet; got none")
    settings = parts.settings.as_flags()
    task = {"settings": settings, "versions": body.versions, "questions": questions}
    return JobOut.of(await service.jobs.start("comparison", "online_learning.compare", task, doing.actor))


def _standing(versions: Versions) -> Standing:
    return Standing(champion=versions.champion().version, frozen=versions.frozen)


def _listed(parts: AppParts) -> VersionList:
    versions = parts.versions
    standing, canary = _standing(versions), versions.canary()
    base = VersionLine(version=BASE_VERSION, state="champion" if standing.champion == BASE_VERSION else "base")
    tried = canary.version if canary else ""
    lines = [base] + [_line(versions, version, standing.champion, tried) for version in versions.versions()]
    shown = _canary(canary, standing.champion, parts) if canary else None
    return VersionList(champion=standing.champion, frozen=standing.frozen, canary=shown, versions=lines)


def _canary(canary: Canary, champion: str, parts: AppParts) -> CanaryLine:
    verdict, candidate, other = verdict_on(canary, champion, parts.store, parts.settings.rollout)
    return CanaryLine(
        version=canary.version,
        since=canary.since,
        share=canary.share,
        reason=canary.reason,
        verdict=verdict.what,
        verdict_reason=verdict.reason,
        candidate=_arm(candidate),
        champion=_arm(other),
    )


def _arm(tally: Tally) -> Arm:
    up, solved = thumbs(tally), success(tally)
    return Arm(
        version=tally.version,
        conversations=tally.conversations,
        replies=tally.replies,
        rated=tally.rated,
        up=up.mean if up.n else None,
        up_ci=interval(up),
        outcomes=tally.outcomes,
        success=solved.mean if solved.n else None,
        success_ci=interval(solved),
    )


def _line(versions: Versions, version: str, champion: str, canary: str) -> VersionLine:
    try:
        manifest = versions.inspect(version)
    except AdapterError as error:
        return VersionLine(version=version, state="damaged", gate={"error": str(error)})
    kept = "pruned" if versions.is_pruned(version) else "published"
    return VersionLine(
        version=version,
        parent=manifest.parent,
        created_at=manifest.created_at,
        state="champion" if version == champion else "canary" if version == canary else kept,
        gate=dict(manifest.gate),
        lineage=_summary(manifest.lineage),
    )


def _summary(lineage: Mapping[str, Any]) -> dict[str, Any]:
    """Without the long lists of ids; `num_words`: how many are of operators' own words."""
    short = {key: value for key, value in lineage.items() if not isinstance(value, list | tuple)}
    return short | {"num_words": len(lineage["case_ids"])} if lineage.get("case_ids") else short

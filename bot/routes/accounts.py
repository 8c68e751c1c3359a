"""`/v1/accounts`, `/v1/me`, `/v1/audit`: who may sign in, who one is, and what was done by whom."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from bot.feedback.desk_records import Account
from bot.routes.access import AdminDep, MemberDep, ServiceDep

router = APIRouter(tags=["accounts"])

Role = Literal["operator", "developer", "admin"]
Password = Annotated[str, Field(min_length=10, max_length=256)]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class NewAccount(_Asked):
    """Somebody who may sign in from now on."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "ana", "role": "operator", "password": "correct horse battery"}]}
    )

    name: Annotated[str, Field(max_length=64)]
    role: Role
    password: Password


class AccountChange(_Asked):
    """What to change; what is left out stays."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"disabled": True}]})

    role: Role | None = None
    password: Password | None = None
    disabled: bool | None = None


class AccountOut(BaseModel):
    """An account, without its password."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "ana",
                    "role": "operator",
                    "created_at": 1767225600.0,
                    "disabled": False,
                    "provider": False,
                    "released": True,
                }
            ]
        }
    )

    name: str
    role: str
    created_at: float
    disabled: bool
    provider: bool
    """It signs in with the provider, which also says its role."""
    released: bool
    """It waits for the provider's next sign-in under its name."""

    @classmethod
    def of(cls, account: Account) -> AccountOut:
        """From the store's record."""
        return cls(
            name=account.name,
            role=account.role,
            created_at=account.created_at,
            disabled=account.disabled,
            provider=bool(account.subject),
            released=account.is_released,
        )


class Me(BaseModel):
    """Who is asking."""

    name: str
    role: str


class AuditLine(BaseModel):
    """One action. `chain` follows from everything before it."""

    seq: int
    at: float
    actor: str
    action: str
    target: str
    before: dict[str, Any]
    after: dict[str, Any]
    chain: str


class AuditPage(BaseModel):
    """Newest first; `first_broken`: the first row that was tampered with, 0 if none was."""

    rows: list[AuditLine]
    first_broken: int


@router.get("/v1/me")
async def read_me(member: MemberDep) -> Me:
    """Name and role of the caller."""
    return Me(name=member.name, role=member.role)


@router.get("/v1/accounts")
async def read_accounts(service: ServiceDep, _: AdminDep) -> list[AccountOut]:
    """By name."""
    return [AccountOut.of(account) for account in service.staff.accounts()]


@router.post("/v1/accounts", status_code=201)
async def add_account(service: ServiceDep, doing: AdminDep, body: NewAccount) -> AccountOut:
    """Let somebody sign in."""
    account = await asyncio.to_thread(service.staff.add, doing, body.name, body.role, body.password)
    return AccountOut.of(account)


@router.patch("/v1/accounts/{name}")
async def change_account(service: ServiceDep, doing: AdminDep, name: str, body: AccountChange) -> AccountOut:
    """Change role or password, or shut somebody out; who was signed in must sign in again."""
    changes = body.model_dump()
    account = await asyncio.to_thread(lambda: service.staff.change(doing, name, **changes))
    return AccountOut.of(account)


@router.post("/v1/accounts/{name}/release")
async def release_account(service: ServiceDep, doing: AdminDep, name: str) -> AccountOut:
    """Give it up to the sign-in provider: its sessions, password and owner there end, and whoever signs in by the provider
    under this name next has it. A password makes it local again."""
    account = await asyncio.to_thread(service.staff.release, doing, name)
    return AccountOut.of(account)


@router.get("/v1/audit")
async def read_audit(
    service: ServiceDep,
    _: AdminDep,
    before: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    target: Annotated[str, Query(max_length=200)] = "",
) -> AuditPage:
    """Who did what, when, and what was there before and after."""
    desk = service.parts.store.desk
    rows = await asyncio.to_thread(desk.audit, before, limit, target)
    broken = await asyncio.to_thread(desk.first_broken_audit_row)
    return AuditPage(rows=[AuditLine(**asdict(row)) for row in rows], first_broken=broken)

"""Who may: dependencies that say who is asking and refuse the rest. Every route names one of them, or is for anyone.

A caller shows `Authorization: Bearer TOKEN` (a person's token or the operator key) or the session cookie of an account. A
cookie counts from our own pages only (Origin), since a browser sends it by itself: not from sites that carry the widget.

    OperatorDep   anybody of the staff: reads                DeskDep    operators and admins: speaks, corrects, claims
    DeveloperDep  developers and admins: what serves         AdminDep   admins: accounts, audit log
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from bot.errors import NotAllowed
from bot.feedback.desk import Doing
from bot.identity import KEY_HOLDER, SESSION_COOKIE, is_allowed_origin, is_own_origin
from bot.routes.parts import Service
from bot.staff import ADMIN, ANYBODY, DEVELOPMENT, SERVICE, Member
from bot.wire_errors import Unauthenticated


@dataclass(frozen=True, slots=True)
class Caller:
    """Exactly one of a person and a member of the staff."""

    person_id: str
    member: Member | None = None

    @property
    def is_operator(self) -> bool:
        """Whether it is somebody of the staff."""
        return self.member is not None


def service_of(connection: HTTPConnection) -> Service:
    """The app's running state."""
    service: Service = connection.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(service_of)]


def caller(connection: HTTPConnection, service: ServiceDep) -> Caller:
    """Who is asking. Raises Unauthenticated."""
    token = _bearer(connection)
    identity = service.parts.identity
    if token:
        if identity.is_operator_key(token):
            return Caller("", Member(KEY_HOLDER, "admin"))
        return Caller(identity.person_of(token))
    member = signed_in(connection, service)
    if member is None:
        raise Unauthenticated("expected Authorization: Bearer TOKEN, or an operator who signed in")
    return Caller("", member)


CallerDep = Annotated[Caller, Depends(caller)]


def _one_of(roles: frozenset[str]) -> Callable[[CallerDep], Member]:
    def check(who: CallerDep) -> Member:
        """The member. Raises Unauthenticated, NotAllowed."""
        if who.member is None:
            raise NotAllowed("expected an operator, got a person's token")
        if who.member.role not in roles:
            raise NotAllowed(f"expected the role {' or '.join(sorted(roles))}, got {who.member.role}")
        return who.member

    return check


MemberDep = Annotated[Member, Depends(_one_of(ANYBODY))]
"""Anybody of the staff."""
AdminMemberDep = Annotated[Member, Depends(_one_of(ADMIN))]


def operator(member: MemberDep) -> str:
    """The author of what somebody of the staff does."""
    return member.author


def desk_doing(member: Annotated[Member, Depends(_one_of(SERVICE))], service: ServiceDep) -> Doing:
    """Who of customer service acts, and when."""
    return Doing(member.author, service.parts.clock())


def developer_doing(member: Annotated[Member, Depends(_one_of(DEVELOPMENT))], service: ServiceDep) -> Doing:
    """Who of the developers acts, and when."""
    return Doing(member.author, service.parts.clock())


def admin_doing(member: AdminMemberDep, service: ServiceDep) -> Doing:
    """Which admin acts, and when."""
    return Doing(member.author, service.parts.clock())


OperatorDep = Annotated[str, Depends(operator)]
DeskDep = Annotated[Doing, Depends(desk_doing)]
DeveloperDep = Annotated[Doing, Depends(developer_doing)]
AdminDep = Annotated[Doing, Depends(admin_doing)]


def person(who: CallerDep) -> str:
    """The person's id. Raises Unauthenticated, NotAllowed."""
    if who.is_operator:
        raise NotAllowed("expected a person's token, got an operator")
    return who.person_id


PersonDep = Annotated[str, Depends(person)]


def address_of(connection: HTTPConnection) -> str:
    """Where somebody without a name comes from. Of an IPv6 address the network: one line has 2^64 addresses in it."""
    host = connection.client.host if connection.client else ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4:
        return str(address)
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))


def signed_in(connection: HTTPConnection, service: Service) -> Member | None:
    """Whose cookie holds here and now, and comes from a page of ours."""
    cookie = connection.cookies.get(SESSION_COOKIE, "")
    session = service.parts.identity.session_of(cookie, service.parts.clock()) if cookie else None
    return service.staff.member(*session) if session and is_own_page(connection, service) else None


def is_own_page(connection: HTTPConnection, service: Service) -> bool:
    """Whether the request comes from a page of ours, or from a program: the staff's cookie counts nowhere else."""
    return is_own_origin(*_origin(connection, service))


def may_chat(connection: HTTPConnection, service: Service) -> bool:
    """Whether it comes from a page on which end users may speak: also those of other sites that carry the widget."""
    return is_allowed_origin(*_origin(connection, service))


def _origin(connection: HTTPConnection, service: Service) -> tuple[str | None, str, str, tuple[str, ...]]:
    headers, settings = connection.headers, service.parts.settings
    return headers.get("origin"), headers.get("host", ""), settings.public_url, settings.allowed_origins


def _bearer(connection: HTTPConnection) -> str:
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""

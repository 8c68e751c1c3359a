"""Who may: dependencies that say who is asking and refuse the rest. Every route names one of them, or is for anyone.

A caller shows `Authorization: Bearer TOKEN` (a person's token or the operator key) or the operator's session cookie. A
cookie alone may change things only from our own pages (Origin), since a browser sends it by itself.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from bot.errors import NotAllowed
from bot.identity import SESSION_COOKIE, is_allowed_origin
from bot.routes.parts import Service
from bot.wire_errors import Unauthenticated

OPERATOR = "operator:local"
"""The author of what an operator does; there is one local operator."""
_READING = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True, slots=True)
class Caller:
    """Exactly one of a person and an operator."""

    person_id: str
    is_operator: bool


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
            return Caller("", is_operator=True)
        return Caller(identity.person_of(token), is_operator=False)
    if is_signed_in(connection, service):
        return Caller("", is_operator=True)
    raise Unauthenticated("expected Authorization: Bearer TOKEN, or an operator who signed in")


CallerDep = Annotated[Caller, Depends(caller)]


def operator(who: CallerDep) -> str:
    """The operator's name. Raises Unauthenticated, NotAllowed."""
    if not who.is_operator:
        raise NotAllowed("expected an operator, got a person's token")
    return OPERATOR


OperatorDep = Annotated[str, Depends(operator)]


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


def is_signed_in(connection: HTTPConnection, service: Service) -> bool:
    """Whether the operator's cookie holds here and now."""
    cookie = connection.cookies.get(SESSION_COOKIE, "")
    if not cookie or not service.parts.identity.is_session(cookie, service.parts.clock()):
        return False
    return connection.scope.get("method", "GET") in _READING or is_own_page(connection, service)


def is_own_page(connection: HTTPConnection, service: Service) -> bool:
    """Whether the request comes from a page we trust, or from a program."""
    headers = connection.headers
    return is_allowed_origin(headers.get("origin"), headers.get("host", ""), service.parts.settings.allowed_origins)


def _bearer(connection: HTTPConnection) -> str:
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""

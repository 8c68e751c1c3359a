"""Signing in with a provider: `/login/oidc` sends the browser there, `/login/oidc/callback` is where it comes back to.

What a browser has begun is kept in a sealed cookie of its own, for ten minutes and this one path: an answer that another
browser began is worth nothing here. How long a session lasts is the same as with a password.
"""

from __future__ import annotations

import asyncio
import html
import json
import logging
from dataclasses import asdict

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from bot.errors import NotAllowed, NotFound, RejoinderError
from bot.feedback.desk import Doing
from bot.feedback.desk_records import Account
from bot.oidc import CALLBACK_PATH, Pending, Person, Provider
from bot.routes.access import ServiceDep, address_of
from bot.routes.parts import Service
from bot.routes.signin import (
    HOME_PAGE,
    PROVIDER_PATH,
    NextPage,
    is_https,
    local_page,
    sign_in_page,
    with_session,
)
from bot.wire_errors import http_status

router = APIRouter()
logger = logging.getLogger(__name__)

PENDING_COOKIE = "rejoinder_signin"
PENDING_S = 600.0
"""How long somebody may take at the provider."""
_PURPOSE = "sign-in"
# A redirect would still belong to the navigation that the provider began, and browsers keep a SameSite=Strict cookie back
# there. A page of ours begins another.
_ONWARD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={page}">
<title>Signed in - Rejoinder</title></head><body><p>You are signed in. <a href="{page}">Go on</a></p></body></html>
"""


@router.get(PROVIDER_PATH, include_in_schema=False)
async def begin(service: ServiceDep, request: Request, next_page: NextPage = HOME_PAGE) -> Response:
    """To the provider."""
    provider = _provider(service)
    try:
        service.logins.take(address_of(request))
        pending, url = await provider.begin(local_page(next_page))
    except RejoinderError as error:
        return sign_in_page(service, next_page, str(error), http_status(error))
    response = RedirectResponse(url, 303)
    ends_at = service.parts.clock() + PENDING_S
    response.set_cookie(
        PENDING_COOKIE,
        service.parts.identity.sealed(_PURPOSE, json.dumps(asdict(pending)), ends_at),
        max_age=int(PENDING_S),
        path=PROVIDER_PATH,
        httponly=True,
        samesite="lax",  # the provider's redirect comes from another site
        secure=is_https(request, service),
    )
    return response


@router.get(CALLBACK_PATH, include_in_schema=False)
async def finish(service: ServiceDep, request: Request) -> Response:
    """Back from the provider: signed in, or one line that says why not."""
    provider, pending = _provider(service), _pending(service, request)
    next_page = pending.next_page if pending else HOME_PAGE
    try:
        service.answers.take(address_of(request))
        person = await provider.finish(pending, request.query_params)
        account = await asyncio.to_thread(_admit, service, person)
    except RejoinderError as error:
        response: Response = sign_in_page(service, next_page, str(error), http_status(error))
    else:
        page = html.escape(local_page(next_page), quote=True)
        signed_in = HTMLResponse(_ONWARD.format(page=page))
        response = with_session(signed_in, service, request, account.name, account.session_epoch)
    response.delete_cookie(PENDING_COOKIE, path=PROVIDER_PATH, httponly=True, samesite="lax")
    return response


def _provider(service: Service) -> Provider:
    if service.provider is None:
        raise NotFound("no sign-in provider is configured (oidc.issuer)")
    return service.provider


def _pending(service: Service, request: Request) -> Pending | None:
    cookie = request.cookies.get(PENDING_COOKIE, "")
    text = service.parts.identity.unsealed(_PURPOSE, cookie, service.parts.clock())
    return Pending(**json.loads(text)) if text else None


def _admit(service: Service, person: Person) -> Account:
    """The account, and a row in the audit log either way. Raises NotAllowed."""
    doing, note = Doing(f"operator:{person.name[:64]}", service.parts.clock()), service.parts.store.desk.note
    try:
        account = service.staff.admit(doing, person)
    except NotAllowed:
        note(doing, "sign in refused", person.name[:64])
        raise
    note(Doing(f"operator:{account.name}", doing.at), "sign in", account.name, {}, {"role": account.role})
    return account

"""Signing in: `/v1/session` for programs, `/login` for people (a plain form: no script, no external file)."""

from __future__ import annotations

import asyncio
import html
from typing import Annotated
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from bot.errors import NotAllowed, RejoinderError
from bot.feedback.desk import Doing
from bot.identity import KEY_HOLDER, SESSION_COOKIE, SESSION_S
from bot.routes.access import ServiceDep, address_of, is_own_page, signed_in
from bot.routes.bodies import SignedIn, SignedOut, SignIn
from bot.routes.parts import Service
from bot.wire_errors import Unauthenticated, http_status

router = APIRouter()

HOME_PAGE = "/operator"
PROVIDER_PATH = "/login/oidc"
MAX_NEXT_CHARS = 500
NextPage = Annotated[str, Query(alias="next", max_length=MAX_NEXT_CHARS)]
"""The page that was asked for."""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in - Rejoinder</title>
<style>
:root {{ color-scheme: light dark; --page: #f6f6f3; --card: #fff; --ink: #1b211f; --soft: #545d59; --line: #c9cac1;
  --accent: #0d6b5c; --on-accent: #fff; --bad: #b3372e; }}
@media (prefers-color-scheme: dark) {{ :root {{ --page: #121615; --card: #1b201f; --ink: #e9eeec; --soft: #b2bbb7;
  --line: #46504d; --accent: #3fb59f; --on-accent: #06201b; --bad: #f0897f; }} }}
* {{ box-sizing: border-box; }}
body {{ font: 1rem/1.5 system-ui, sans-serif; display: grid; place-items: center; min-height: 100vh; margin: 0;
  background: var(--page); color: var(--ink); }}
form {{ width: min(24rem, 92vw); display: grid; gap: .6rem; padding: 1.75rem; border-radius: 1rem;
  background: var(--card); border: 1px solid var(--line); }}
h1 {{ font-size: 1.25rem; margin: 0 0 .4rem; }}
label {{ font-size: .9rem; font-weight: 600; color: var(--soft); margin-bottom: -.35rem; }}
input, button, .provider {{ font: inherit; padding: .6rem .75rem; border-radius: .75rem; border: 1px solid var(--line); }}
input {{ background: var(--page); color: inherit; }}
button {{ background: var(--accent); border-color: var(--accent); color: var(--on-accent); font-weight: 600; cursor: pointer;
  margin-top: .5rem; }}
:focus-visible {{ outline: 2px solid var(--accent); outline-offset: 2px; }}
.problem {{ color: var(--bad); margin: 0; }}
small, .or {{ color: var(--soft); }}
.or {{ margin: 0; text-align: center; }}
.provider {{ text-align: center; color: inherit; text-decoration: none; font-weight: 600; }}
</style></head><body><main>
<form method="post" action="/login">
<h1>Operators sign in here</h1>
{problem}{provider}<label for="name">Name</label>
<input id="name" name="name" autocomplete="username" autocapitalize="none" spellcheck="false" maxlength="64" autofocus>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" maxlength="256">
<p class="or">or</p>
<label for="key">Operator key</label>
<input id="key" name="key" type="password" autocomplete="off">
<small>It is in <code>keys/operator.key</code> in the server's home folder.</small>
<input type="hidden" name="next" value="{next}">
<button type="submit">Sign in</button>
</form></main></body></html>
"""


@router.post("/v1/session", tags=["session"], response_model=SignedIn)
async def sign_in(service: ServiceDep, request: Request, body: SignIn) -> Response:
    """Sign in with an account's name and password, or with the operator key: sets the session cookie."""
    name, epoch = await _check(service, request, body)
    answer = SignedIn(expires_at=service.parts.clock() + SESSION_S)
    return with_session(JSONResponse(answer.model_dump()), service, request, name, epoch)


@router.delete("/v1/session", tags=["session"], status_code=204, responses={200: {"model": SignedOut}})
async def sign_out(service: ServiceDep, request: Request) -> Response:
    """Forget the session cookie. 200 instead of 204: the account is a provider's, which says where to sign out there."""
    member, provider_url = signed_in(request, service), ""
    if member is not None:
        doing = Doing(member.author, service.parts.clock())
        await asyncio.to_thread(service.parts.store.desk.note, doing, "sign out", member.name)
        if service.provider is not None and service.staff.is_providers(member.name):
            provider_url = await service.provider.leave()
    answer = SignedOut(provider_url=provider_url).model_dump()
    response = JSONResponse(answer) if provider_url else Response(status_code=204)
    response.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
    return response


@router.get("/login", include_in_schema=False)
async def login_page(service: ServiceDep, next_page: NextPage = HOME_PAGE) -> HTMLResponse:
    """The form."""
    return sign_in_page(service, next_page)


@router.post("/login", include_in_schema=False)
async def log_in(service: ServiceDep, request: Request) -> Response:
    """What the form sends: back to the page that was asked for, signed in."""
    form = parse_qs((await request.body()).decode(errors="replace"), max_num_fields=10)
    next_page = form.get("next", [HOME_PAGE])[0]
    given = SignIn(**{field: form.get(field, [""])[0].strip() for field in ("key", "name", "password")})
    try:
        name, epoch = await _check(service, request, given)
    except RejoinderError as error:
        return sign_in_page(service, next_page, str(error), http_status(error))
    return with_session(RedirectResponse(local_page(next_page), 303), service, request, name, epoch)


async def _check(service: Service, request: Request, given: SignIn) -> tuple[str, int]:
    """(account, its session epoch). Raises NotAllowed, TooMuch, Unauthenticated."""
    if not is_own_page(request, service):
        raise NotAllowed("origin: expected this server's own page (behind a proxy: public_url), got another")
    address = address_of(request)
    service.logins.take(address)
    if given.key or not given.name:
        if not service.parts.identity.is_operator_key(given.key):
            raise Unauthenticated("key: expected the operator key, got another")
        name, epoch = KEY_HOLDER, 0
    else:
        account = await asyncio.to_thread(service.staff.sign_in, given.name, given.password)
        name, epoch = account.name, account.session_epoch
    # Only guesses count: a whole shift may come from one address.
    service.logins.give_back(address)
    doing = Doing(f"operator:{name}", service.parts.clock())
    await asyncio.to_thread(service.parts.store.desk.note, doing, "sign in", name)
    return name, epoch


def with_session(response: Response, service: Service, request: Request, name: str, epoch: int) -> Response:
    """The response, with a session of its own for SESSION_S: it is not prolonged by use."""
    response.set_cookie(
        SESSION_COOKIE,
        service.parts.identity.session(service.parts.clock(), name, epoch),
        max_age=int(SESSION_S),
        httponly=True,
        samesite="strict",
        secure=is_https(request, service),
    )
    return response


def is_https(request: Request, service: Service) -> bool:
    """Whether browsers reach us under https: a proxy that ends it may not tell us, but the settings may."""
    return request.url.scheme == "https" or service.parts.settings.public_url.startswith("https:")


def sign_in_page(service: Service, next_page: str, problem: str = "", status: int = 200) -> HTMLResponse:
    """The form, with what went wrong; and the provider's door where there is one."""
    shown = f'<p class="problem" role="alert">{html.escape(problem)}</p>\n' if problem else ""
    target = local_page(next_page)
    page = _PAGE.format(problem=shown, provider=_door(service, target), next=html.escape(target, quote=True))
    return HTMLResponse(page, status)


def _door(service: Service, next_page: str) -> str:
    if service.provider is None:
        return ""
    name, address = service.provider.settings.name, f"{PROVIDER_PATH}?{urlencode({'next': next_page})}"
    return (
        f'<a class="provider" href="{html.escape(address, quote=True)}">Sign in with {html.escape(name)}</a>\n'
        '<p class="or">or with an account of this server</p>\n'
    )


def local_page(page: str) -> str:
    """A path on this server, or the operator page: never somebody else's address."""
    # Browsers read a backslash as a slash and drop tabs and newlines, so `/\\evil` and `/<tab>/evil` leave the server.
    is_local = page.startswith("/") and not page.startswith("//") and page.isprintable() and "\\" not in page
    return page if is_local else HOME_PAGE

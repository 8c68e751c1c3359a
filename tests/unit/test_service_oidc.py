"""Signing in with a provider: who gets in, as what, and everything that must not get anybody in."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx
import pytest
from argon2 import PasswordHasher
from starlette.testclient import TestClient

from bot.errors import ConfigError
from bot.feedback.desk import Doing
from bot.identity import SESSION_COOKIE, SESSION_S
from bot.oidc import LEEWAY_S, Person, Provider
from bot.routes.provider import PENDING_COOKIE, PENDING_S
from bot.settings import OidcSettings, Settings, load_settings, secret_of
from bot.staff import Staff
from bot.wire_errors import Unauthenticated
from tests.oidc_provider import (
    CLIENT_ID,
    CLIENT_SECRET,
    ISSUER,
    KEY,
    OTHER_KEY,
    ScriptedProvider,
    signed_with_the_public_key,
    unsigned,
)
from tests.service_rig import Clock, Rig, open_rig

PUBLIC_URL = "http://localhost:7860"
OIDC: dict[str, Any] = {
    "issuer": ISSUER,
    "client_id": CLIENT_ID,
    "client_secret": CLIENT_SECRET,
    "name": "Example <ID>",
    "operators": ("desk",),
    "developers": ("bots",),
    "admins": ("chiefs",),
}


@dataclass(slots=True)
class Desk:
    """A server, its provider and a browser."""

    rig: Rig
    provider: ScriptedProvider
    browser: TestClient

    def sign_in(self, tamper: Callable[[str], str] = lambda url: url) -> httpx.Response:
        """From the sign-in page through the provider and back; `tamper` changes the address on the way back."""
        begun = self.browser.get("/login/oidc?next=/studio", follow_redirects=False)
        assert begun.status_code == 303, begun.text
        return self.browser.get(tamper(self.provider.visit(begun.headers["location"])))

    def me(self) -> tuple[str, str] | int:
        """(name, role) of whoever the browser is signed in as, or the refusal's status."""
        answer = self.browser.get("/v1/me")
        return (answer.json()["name"], answer.json()["role"]) if answer.status_code == 200 else answer.status_code

    def audit(self) -> list[tuple[str, str, str]]:
        """(actor, action, target), newest first."""
        return [(row.actor, row.action, row.target) for row in self.rig.store.desk.audit()]


def connect(rig: Rig, provider: ScriptedProvider, **changes: Any) -> None:
    """Let the rig's staff sign in with this provider."""
    transport = httpx.ASGITransport(provider.app)
    settings = OidcSettings(**OIDC | changes)
    rig.app.state.service.provider = Provider(
        settings, PUBLIC_URL, secret=secret_of(settings), clock=rig.clock, monotonic=rig.ticks, transport=transport
    )


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with open_rig(tmp_path) as rig:
        provider = ScriptedProvider(rig.clock)
        connect(rig, provider)
        yield Desk(rig, provider, TestClient(rig.app, base_url=PUBLIC_URL, raise_server_exceptions=False))


def test_who_the_provider_vouches_for_is_signed_in_with_their_role(desk: Desk) -> None:
    """The account is made on the way, the session is a local one's, and both are in the audit log."""
    answer = desk.sign_in()
    assert (answer.status_code, desk.me()) == (200, ("ana@example.org", "operator"))
    assert 'content="0; url=/studio"' in answer.text
    cookies = [value.lower() for value in answer.headers.get_list("set-cookie")]
    session = next(cookie for cookie in cookies if cookie.startswith(SESSION_COOKIE))
    assert all(word in session for word in ("httponly", "samesite=strict", f"max-age={int(SESSION_S)}"))
    who = "operator:ana@example.org"
    assert desk.audit() == [(who, "sign in", "ana@example.org"), (who, "add account", "ana@example.org")]
    desk.rig.clock.now += SESSION_S
    assert desk.me() == 401


def test_the_browser_is_sent_with_state_nonce_and_a_pkce_challenge(desk: Desk) -> None:
    """And without a secret; each time with others."""
    sent = [desk.browser.get("/login/oidc", follow_redirects=False).headers["location"] for _ in range(2)]
    asked = [{name: value[0] for name, value in parse_qs(urlsplit(url).query).items()} for url in sent]
    assert sent[0].startswith(f"{ISSUER}/authorize?")
    assert asked[0]["redirect_uri"] == f"{PUBLIC_URL}/login/oidc/callback"
    assert asked[0]["code_challenge_method"] == "S256"
    assert all(asked[0][name] != asked[1][name] for name in ("state", "nonce", "code_challenge"))
    assert CLIENT_SECRET not in sent[0]


@pytest.mark.parametrize(
    ("groups", "role"),
    [
        (["desk"], "operator"),
        (["bots", "desk"], "developer"),
        (["desk", "chiefs"], "admin"),
        ("chiefs", "admin"),
        (["Desk"], ""),
        ([], ""),
        (None, ""),
        ({"desk": True}, ""),
    ],
)
async def test_groups_become_roles_and_the_highest_wins(groups: Any, role: str) -> None:
    """An unknown group, or none, is no role."""
    provider = ScriptedProvider(Clock())
    provider.person["groups"] = groups
    assert (await vouched(provider)).role == role


@pytest.mark.parametrize(
    ("claims", "shown"),
    [
        ({"given_name": "Ana", "name": "Ana Meyer"}, "Ana"),
        ({"name": " Ana  Meyer "}, "Ana Meyer"),
        ({"given_name": "ana@example.org", "name": "Ana Meyer"}, "Ana Meyer"),
        ({"given_name": "", "name": "ana@example.org"}, ""),
        ({"given_name": 17, "name": "Ana\nMeyer"}, ""),
        ({"name": "x" * 65}, ""),
        ({}, ""),
    ],
)
def test_end_users_read_a_name_by_the_provider_and_never_an_address(
    desk: Desk, claims: dict[str, Any], shown: str
) -> None:
    """Of the claims that may hold one, the first that does."""
    desk.provider.person |= claims
    desk.sign_in()
    assert desk.me() == ("ana@example.org", "operator")
    assert desk.rig.app.state.service.staff.shown_name("ana@example.org") == shown


def test_without_a_role_the_door_stays_shut(desk: Desk) -> None:
    """And the log says who knocked."""
    desk.provider.person["groups"] = ["elsewhere"]
    answer = desk.sign_in()
    assert (answer.status_code, desk.me()) == (403, 401)
    assert "your account has no role here" in answer.text
    assert desk.audit() == [("operator:ana@example.org", "sign in refused", "ana@example.org")]
    assert desk.rig.app.state.service.staff.accounts() == []


@pytest.mark.parametrize("claims", [{"realm_access": {"roles": ["chiefs"]}}, {"realm_access.roles": ["chiefs"]}])
def test_a_role_claim_may_lie_in_an_object_or_have_dots_in_its_name(desk: Desk, claims: dict[str, Any]) -> None:
    """Both are met in the field."""
    connect(desk.rig, desk.provider, role_claim="realm_access.roles")
    desk.provider.person |= claims
    desk.sign_in()
    assert desk.me() == ("ana@example.org", "admin")


def shift(**claims: float) -> Callable[[ScriptedProvider], None]:
    """Times that are off by these seconds."""

    def change(provider: ScriptedProvider) -> None:
        provider.lies = {name: int(provider.clock()) + seconds for name, seconds in claims.items()}

    return change


def lie(**claims: Any) -> Callable[[ScriptedProvider], None]:
    def change(provider: ScriptedProvider) -> None:
        provider.lies = claims

    return change


def sign(how: Callable[[Any], str]) -> Callable[[ScriptedProvider], None]:
    def change(provider: ScriptedProvider) -> None:
        provider.sign = how

    return change


def forge(provider: ScriptedProvider) -> None:
    """A key that the provider has not published, under the name of one that it has."""
    provider.key = type(OTHER_KEY).import_key(OTHER_KEY.as_dict(private=True) | {"kid": "k1"})


def unpublished(provider: ScriptedProvider) -> None:
    provider.key = OTHER_KEY


HOSTILE: dict[str, Callable[[ScriptedProvider], None]] = {
    "another sign-in's nonce": lie(nonce="another"),
    "no nonce": lie(nonce=None),
    "another audience": lie(aud="another-client"),
    "another audience among several": lie(aud=["another-client", "a-third"]),
    "several audiences, made for another": lie(aud=[CLIENT_ID, "another-client"], azp="another-client"),
    "another issuer": lie(iss="https://evil.example"),
    "no issuer": lie(iss=None),
    "expired": shift(iat=-600, exp=-LEEWAY_S - 1),
    "no expiry": lie(exp=None),
    "from the future": shift(iat=LEEWAY_S + 10, exp=900),
    "not yet valid": shift(nbf=LEEWAY_S + 10),
    "alg none": sign(unsigned),
    "signed with the public key": sign(signed_with_the_public_key),
    "signed by another key": forge,
    "signed by a key it never published": unpublished,
    "no token at all": sign(lambda claims: ""),
    "no subject": lie(sub=None),
    "a subject that is no text": lie(sub=17),
}


async def vouched(provider: ScriptedProvider) -> Person:
    """Whom this provider's token is about."""
    client = Provider(
        OidcSettings(**OIDC),
        PUBLIC_URL,
        secret=CLIENT_SECRET,
        clock=provider.clock,
        transport=httpx.ASGITransport(provider.app),
    )
    pending, url = await client.begin("/studio")
    answer = dict(parse_qsl(urlsplit(provider.visit(url)).query))
    return await client.finish(pending, answer)


@pytest.mark.parametrize("how", HOSTILE)
async def test_a_token_that_does_not_hold_says_nothing(how: str) -> None:
    """The control: the same provider, once the token is right."""
    provider = ScriptedProvider(Clock())
    HOSTILE[how](provider)
    with pytest.raises(Unauthenticated, match=r"^sign-in: "):
        await vouched(provider)
    honest = ScriptedProvider(provider.clock)
    assert await vouched(honest) == Person(f"{ISSUER} u-17", "ana@example.org", "operator")


def test_a_token_that_does_not_hold_lets_nobody_in(desk: Desk) -> None:
    """One line on the sign-in page; the same browser gets in as soon as the token is right."""
    desk.provider.lies = {"nonce": "another"}
    answer = desk.sign_in()
    assert (answer.status_code, desk.me()) == (401, 401)
    assert 'role="alert">sign-in: the provider&#x27;s token does not hold (invalid_claim)' in answer.text
    desk.provider.lies = {}
    desk.sign_in()
    assert desk.me() == ("ana@example.org", "operator")


ON_THE_WAY: dict[str, Callable[[str], str]] = {
    "another state": lambda url: url.replace("state=", "state=x"),
    "no state": lambda url: url.split("&state=", maxsplit=1)[0],
    "no code": lambda url: url.replace("code=", "nothing="),
    "a code of another sign-in": lambda url: url.replace("code=code-", "code=other-"),
    "an answer by another provider (RFC 9207)": lambda url: f"{url}&iss=https%3A%2F%2Fevil.example",
    "a refusal": lambda url: url.replace("code=", "error=access_denied&nothing="),
}


@pytest.mark.parametrize("how", ON_THE_WAY)
def test_an_answer_that_was_tampered_with_lets_nobody_in(desk: Desk, how: str) -> None:
    """The control: the same without tampering."""
    answer = desk.sign_in(ON_THE_WAY[how])
    assert (answer.status_code, desk.me()) == (401, 401), answer.text
    desk.sign_in()
    assert desk.me() == ("ana@example.org", "operator")


def test_another_browsers_answer_signs_nobody_in(desk: Desk) -> None:
    """Otherwise a link could sign an operator in as somebody else."""
    begun = desk.browser.get("/login/oidc", follow_redirects=False)
    back = desk.provider.visit(begun.headers["location"])
    other = TestClient(desk.rig.app, base_url=PUBLIC_URL)
    assert other.get(back).status_code == 401
    assert desk.browser.get(back).status_code == 200


def test_an_answer_counts_once_and_for_ten_minutes(desk: Desk) -> None:
    """What the browser had begun is forgotten when it is done, and in time."""
    addresses: list[str] = []
    desk.sign_in(lambda url: addresses.append(url) or url)  # type: ignore[func-returns-value]
    desk.browser.cookies.delete(SESSION_COOKIE)
    assert PENDING_COOKIE not in desk.browser.cookies
    assert desk.browser.get(addresses[0]).status_code == 401
    begun = desk.browser.get("/login/oidc", follow_redirects=False)
    desk.rig.clock.now += PENDING_S
    assert desk.browser.get(desk.provider.visit(begun.headers["location"])).status_code == 401


@pytest.mark.parametrize("page", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_the_way_leads_back_to_our_own_pages_only(desk: Desk, page: str) -> None:
    """The control: /studio, above."""
    begun = desk.browser.get("/login/oidc", params={"next": page}, follow_redirects=False)
    answer = desk.browser.get(desk.provider.visit(begun.headers["location"]))
    assert 'content="0; url=/operator"' in answer.text
    assert "evil" not in answer.text


def test_whoever_is_demoted_there_is_demoted_here_at_the_next_sign_in(desk: Desk) -> None:
    """Sessions that were begun with the old role end."""
    desk.provider.person["groups"] = ["chiefs"]
    desk.sign_in()
    old = desk.browser.cookies[SESSION_COOKIE]
    desk.provider.person["groups"] = ["desk"]
    desk.sign_in()
    assert desk.me() == ("ana@example.org", "operator")
    elsewhere = TestClient(desk.rig.app, base_url=PUBLIC_URL, cookies={SESSION_COOKIE: old})
    assert elsewhere.get("/v1/me").status_code == 401
    assert ("operator:ana@example.org", "change account", "ana@example.org") in desk.audit()


def test_whoever_lost_every_group_is_signed_out_everywhere(desk: Desk) -> None:
    """And comes back as soon as the provider gives them a group again."""
    desk.sign_in()
    assert desk.me() == ("ana@example.org", "operator")
    desk.provider.person["groups"] = ["elsewhere"]
    assert desk.sign_in().status_code == 403
    assert desk.me() == 401
    desk.provider.person["groups"] = ["bots"]
    desk.sign_in()
    assert desk.me() == ("ana@example.org", "developer")


def test_whom_an_admin_shut_out_the_provider_does_not_let_in(desk: Desk) -> None:
    """The server's own word is the last."""
    desk.sign_in()
    staff = desk.rig.app.state.service.staff
    staff.change(Doing("operator:local", 1000.0), "ana@example.org", disabled=True)
    assert desk.sign_in().status_code == 403
    assert desk.me() == 401
    staff.change(Doing("operator:local", 1000.0), "ana@example.org", disabled=False)
    desk.sign_in()
    assert desk.me() == ("ana@example.org", "operator")


@pytest.mark.parametrize("subject", ["", "https://id.example u-1"])
def test_a_name_that_is_somebody_elses_is_not_taken_over(desk: Desk, subject: str) -> None:
    """Neither a local account nor another person's who had this address before."""
    staff = desk.rig.app.state.service.staff
    if subject:
        desk.provider.person["sub"] = subject.split()[1]
        desk.sign_in()
        desk.provider.person["sub"] = "u-17"
    else:
        staff.add(Doing("operator:local", 1000.0), "ana@example.org", "admin", "a long enough password")
    desk.browser.cookies.clear()
    answer = desk.sign_in()
    assert (answer.status_code, desk.me()) == (403, 401)
    assert "somebody else" in answer.text
    assert [account.subject for account in staff.accounts()] == [subject]


@pytest.mark.parametrize("before", ["a local account", "the same person of a renamed realm"])
def test_an_account_that_an_admin_released_is_taken_over_at_the_next_sign_in(desk: Desk, before: str) -> None:
    """Once, by whoever the provider vouches for under that name, with the provider's role; every step is in the log. The
    control is the test above: without the release the name is a dead end."""
    staff, key = desk.rig.app.state.service.staff, {"Authorization": "Bearer operator-key-for-tests"}
    if before == "a local account":
        staff.add(Doing("operator:local", 1000.0), "ana@example.org", "admin", "a long enough password")
    else:
        desk.provider.person["sub"] = "u-1"
        desk.sign_in()
        desk.provider.person["sub"] = "u-17"
    assert desk.sign_in().status_code == 403
    released = desk.browser.post("/v1/accounts/ana@example.org/release", headers=key).json()
    assert (released["provider"], released["released"]) == (False, True)
    assert desk.me() == 401
    given = {"name": "ana@example.org", "password": "a long enough password"}
    assert desk.browser.post("/v1/session", json=given).status_code == 401
    assert desk.sign_in().status_code == 200
    assert desk.me() == ("ana@example.org", "operator")
    assert [account.subject for account in desk.rig.store.desk.accounts()] == [f"{ISSUER} u-17"]
    done = [action for _, action, _ in desk.audit()]
    assert done[1:3] == ["take over account", "release account"]
    desk.provider.person["sub"] = "u-99"
    assert desk.sign_in().status_code == 403


def test_a_released_account_of_somebody_shut_out_stays_shut(desk: Desk) -> None:
    """And one without a role at the provider takes nothing over; let in again, or given the role, they have it."""
    staff, doing = desk.rig.app.state.service.staff, Doing("operator:local", 1000.0)
    staff.add(doing, "ana@example.org", "admin", "a long enough password")
    staff.change(doing, "ana@example.org", disabled=True)
    staff.release(doing, "ana@example.org")
    assert desk.sign_in().status_code == 403
    staff.change(doing, "ana@example.org", disabled=False)
    desk.provider.person["groups"] = []
    assert desk.sign_in().status_code == 403
    desk.provider.person["groups"] = ["desk"]
    assert desk.sign_in().status_code == 200


def test_a_password_makes_a_released_account_local_again(desk: Desk) -> None:
    """A release is no dead end either."""
    staff, doing = desk.rig.app.state.service.staff, Doing("operator:local", 1000.0)
    desk.sign_in()
    staff.release(doing, "ana@example.org")
    staff.change(doing, "ana@example.org", password="another long password")
    assert desk.sign_in().status_code == 403
    given = {"name": "ana@example.org", "password": "another long password"}
    assert desk.browser.post("/v1/session", json=given).status_code == 200
    assert desk.me() == ("ana@example.org", "operator")


def test_a_person_keeps_their_account_when_their_address_changes(desk: Desk) -> None:
    """It is theirs by the provider's id."""
    desk.sign_in()
    desk.provider.person["email"] = "ana.new@example.org"
    desk.sign_in()
    assert desk.me() == ("ana@example.org", "operator")


@pytest.mark.parametrize("name", ["", "   ", None, 17, "local", "a b", "<script>", "x" * 65])
def test_a_name_that_cannot_be_an_accounts_is_refused(desk: Desk, name: Any) -> None:
    """`local` is whoever holds the operator key."""
    desk.provider.person["email"] = name
    assert desk.sign_in().status_code in (401, 403)
    assert desk.me() == 401
    assert desk.rig.app.state.service.staff.accounts() == []


def test_an_address_that_was_not_verified_is_no_name(desk: Desk) -> None:
    """Anybody could have written it there."""
    desk.provider.person["email_verified"] = False
    assert desk.sign_in().status_code == 401
    desk.provider.person["email_verified"] = True
    assert desk.sign_in().status_code == 200


def test_a_providers_account_has_no_password_here(desk: Desk) -> None:
    """It cannot be given one, nor a role: whoever is removed there could come in by it."""
    desk.sign_in()
    key = {"Authorization": "Bearer operator-key-for-tests"}
    for change in ({"password": "a long enough password"}, {"role": "admin"}):
        answer = desk.browser.patch("/v1/accounts/ana@example.org", json=change, headers=key)
        assert answer.status_code == 400, answer.text
    for password in ("", "a long enough password"):
        answer = desk.browser.post("/v1/session", json={"name": "ana@example.org", "password": password})
        assert answer.status_code == 401


def test_new_keys_of_the_provider_are_fetched_when_they_are_met(desk: Desk) -> None:
    """What it says of itself is asked once an hour, its keys when one is missing."""
    desk.sign_in()
    desk.sign_in()
    assert desk.provider.asked == ["/.well-known/openid-configuration", "/token", "/keys", "/token"]
    desk.provider.key, desk.provider.published = OTHER_KEY, [OTHER_KEY]
    desk.browser.cookies.clear()
    desk.sign_in()
    assert desk.me() == ("ana@example.org", "operator")


def test_signing_out_ends_the_session_here_and_leads_to_the_providers_own(desk: Desk) -> None:
    """With what RP-Initiated Logout 1.0 asks for where no ID token is kept: the client and the way back."""
    desk.sign_in()
    answer = desk.browser.delete("/v1/session")
    url = urlsplit(answer.json()["provider_url"])
    assert (answer.status_code, f"{url.scheme}://{url.netloc}{url.path}") == (200, f"{ISSUER}/end")
    assert dict(parse_qsl(url.query)) == {"client_id": CLIENT_ID, "post_logout_redirect_uri": f"{PUBLIC_URL}/login"}
    assert (desk.me(), desk.audit()[0][1]) == (401, "sign out")


@pytest.mark.parametrize("said", [None, "", 7, "http://id.example/end", "javascript:alert(1)", "https://["])
def test_a_provider_without_a_safe_place_to_sign_out_ends_the_session_here(desk: Desk, said: Any) -> None:
    """The browser is sent nowhere; the control is above."""
    desk.provider.metadata = {"end_session_endpoint": said}
    desk.sign_in()
    assert (desk.browser.delete("/v1/session").status_code, desk.me()) == (204, 401)


def test_a_provider_that_is_down_keeps_nobody_signed_in(desk: Desk) -> None:
    """What it said of itself has become old, and it does not answer."""
    desk.sign_in()

    def down(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("down", request=request)

    provider = Provider(
        OidcSettings(**OIDC), PUBLIC_URL, clock=desk.rig.clock, monotonic=desk.rig.ticks,
        transport=httpx.MockTransport(down),
    )  # fmt: skip
    desk.rig.app.state.service.provider = provider
    assert (desk.browser.delete("/v1/session").status_code, desk.me()) == (204, 401)


def test_local_accounts_are_not_sent_to_the_provider(desk: Desk) -> None:
    """They have no session there."""
    desk.rig.app.state.service.staff.add(Doing("operator:local", 1000.0), "ben", "operator", "a long password")
    assert desk.browser.post("/v1/session", json={"name": "ben", "password": "a long password"}).status_code == 200
    assert (desk.browser.delete("/v1/session").status_code, desk.me()) == (204, 401)


def test_local_accounts_stay(desk: Desk) -> None:
    """Both doors are open."""
    desk.rig.app.state.service.staff.add(Doing("operator:local", 1000.0), "ben", "operator", "a long enough password")
    given = {"name": "ben", "password": "a long enough password"}
    assert desk.browser.post("/login", data=given, follow_redirects=False).status_code == 303
    assert desk.me() == ("ben", "operator")


def test_the_page_has_the_door_only_where_there_is_a_provider(desk: Desk) -> None:
    """Its name is text, whatever it is."""
    page = desk.browser.get("/login?next=/studio").text
    assert '<a class="provider" href="/login/oidc?next=%2Fstudio">Sign in with Example &lt;ID&gt;</a>' in page
    desk.rig.app.state.service.provider = None
    assert "Sign in with" not in desk.browser.get("/login").text
    assert desk.browser.get("/login/oidc").status_code == 404
    assert desk.browser.get("/login/oidc/callback?code=a&state=b").status_code == 404


def test_a_provider_that_cannot_be_reached_is_one_clear_line(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """On the way there as on the way back; nothing secret is logged, and local accounts go on."""
    begun = desk.browser.get("/login/oidc", follow_redirects=False)
    back = desk.provider.visit(begun.headers["location"])

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    transport = httpx.MockTransport(refuse)
    dead = Provider(OidcSettings(**OIDC), PUBLIC_URL, secret=CLIENT_SECRET, clock=desk.rig.clock, transport=transport)
    desk.rig.app.state.service.provider = dead
    with caplog.at_level(logging.DEBUG):
        for url in (back, "/login/oidc"):
            answer = desk.browser.get(url, follow_redirects=False)
            assert (answer.status_code, desk.me()) == (503, 401)
            assert "cannot be reached to sign you in (id.example)" in answer.text
            assert 'name="password"' in answer.text
    assert "cannot be reached" in caplog.text
    assert CLIENT_SECRET not in caplog.text


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"issuer": "https://evil.example"}, "expected the issuer https://id.example, got"),
        ({"token_endpoint": "http://id.example/token"}, "expected token_endpoint to be an https address"),
        ({"jwks_uri": None}, "expected jwks_uri to be an https address"),
    ],
)
def test_what_the_provider_says_of_itself_must_hold(desk: Desk, changes: dict[str, Any], line: str) -> None:
    """Another issuer's document, or an address that anybody on the way could answer for."""
    desk.provider.metadata = changes
    answer = desk.browser.get("/login/oidc", follow_redirects=False)
    assert answer.status_code == 503
    assert line in answer.text


def test_a_wrong_secret_is_refused_by_the_provider_and_one_in_the_form_is_sent_where_it_is_asked_for(
    desk: Desk,
) -> None:
    """client_secret_basic by default, client_secret_post where nothing else is offered."""
    connect(desk.rig, desk.provider, client_secret="a wrong one")
    assert desk.sign_in().status_code == 401
    connect(desk.rig, desk.provider)
    desk.provider.metadata = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    assert desk.sign_in().status_code == 200


class OddKey:
    """What a provider publishes that nobody here knows or needs."""

    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    def as_dict(self, private: bool = False) -> dict[str, Any]:
        return self._fields


@pytest.mark.parametrize(
    "odd",
    [
        OddKey(kty="EC", crv="BP-256", kid="odd", x="AA", y="AA", use="sig"),
        OddKey(kty="EC", crv="P-256", kid="odd", x="AA", y="AA"),
        OddKey(kty="RSA", kid="odd"),
        OddKey(kty="RSA", kid="odd", use="enc", n="AQAB", e="AQAB"),
        OddKey(kty="AKP", alg="ML-DSA-44", kid="odd", pub="AA"),
    ],
)
def test_one_key_that_is_not_known_here_shuts_nobody_out(desk: Desk, odd: Any) -> None:
    """Wherever it stands in the list."""
    desk.provider.published = [odd, KEY, odd]
    assert (desk.sign_in().status_code, desk.me()) == (200, ("ana@example.org", "operator"))


def test_a_key_for_encryption_signs_nobody_in(desk: Desk) -> None:
    """The control: the same key, for signatures."""
    published = KEY.as_dict(private=False)
    desk.provider.published = [OddKey(**published | {"use": "enc"})]  # type: ignore[list-item]
    assert (desk.sign_in().status_code, desk.me()) == (401, 401)
    desk.provider.published = [OddKey(**published | {"use": "sig"})]  # type: ignore[list-item]
    assert desk.sign_in().status_code == 200


def test_a_provider_without_a_signature_that_is_accepted_is_refused(desk: Desk) -> None:
    """At once: an empty list would mean the library's own defaults."""
    desk.provider.metadata = {"id_token_signing_alg_values_supported": ["HS256", "none"]}
    answer = desk.browser.get("/login/oidc", follow_redirects=False)
    assert answer.status_code == 503
    assert "expected signatures by one of RS256" in answer.text


def test_a_wrong_client_secret_is_named_in_the_log(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """By the provider's word for it; the secret is not."""
    connect(desk.rig, desk.provider, client_secret="a wrong one")
    assert desk.sign_in().status_code == 401
    assert "the sign-in provider refused a code: HTTP 401, 'invalid_client'" in caplog.text
    assert "a wrong one" not in caplog.text


def test_a_name_of_the_providers_costs_a_wrong_password_as_much_as_any(desk: Desk) -> None:
    """Else the time of a refusal would list them: each hash that is checked is one of argon2's."""
    checked: list[str] = []

    class Counting(PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:  # noqa: A002 - the library's name
            checked.append(str(hash))
            return super().verify(hash, password)

    desk.sign_in()
    staff = Staff(desk.rig.store.desk, Counting(time_cost=1, memory_cost=8, parallelism=1))
    for name in ("ana@example.org", "nobody"):
        with pytest.raises(Unauthenticated):
            staff.sign_in(name, "not the password")
    assert len(checked) == 2
    assert checked[0] == checked[1]
    assert checked[0].startswith("$argon2id$")


def test_ten_people_behind_one_address_sign_in_within_a_minute(desk: Desk) -> None:
    """One sign-in takes one of the ten: not another one on the way back."""
    assert [desk.sign_in().status_code for _ in range(10)] == [200] * 10
    assert desk.browser.get("/login/oidc", follow_redirects=False).status_code == 429


def test_trying_again_and_again_is_slow(desk: Desk) -> None:
    """Ten attempts a minute from one address, as with passwords."""
    answers = [desk.browser.get("/login/oidc", follow_redirects=False).status_code for _ in range(11)]
    assert answers == [303] * 10 + [429]


def load(home: Path, *, public_url: str = "https://chat.example", **oidc: Any) -> Settings:
    return load_settings({"home": home, "public_url": public_url, "oidc": OIDC | oidc}, {})


@pytest.mark.parametrize(
    ("oidc", "line"),
    [
        ({"issuer": "http://id.example"}, "oidc.issuer: expected https://HOST"),
        ({"issuer": "https://id.example?x=1"}, "oidc.issuer: expected https://HOST"),
        ({"issuer": "https://[id"}, "oidc.issuer: expected https://HOST"),
        ({"public_url": ""}, "public_url: expected https://HOST"),
        ({"public_url": "http://chat.example"}, "public_url: expected https://HOST"),
        ({"client_id": ""}, "oidc.client_id: expected a value"),
        ({"client_secret_file": "secret"}, "oidc.client_secret_file: expected none beside"),
        ({"scopes": "profile"}, "oidc.scopes: expected openid among them"),
        ({"operators": (), "developers": (), "admins": ()}, "oidc.operators: expected who may sign in"),
    ],
)
def test_settings_that_could_let_the_wrong_people_in_are_refused(
    tmp_path: Path, oidc: dict[str, Any], line: str
) -> None:
    """By one line, at the start."""
    assert load(tmp_path).oidc.is_on
    with pytest.raises(ConfigError, match=line):
        load(tmp_path, **oidc)


def test_the_secret_comes_from_a_file_or_a_variable_and_is_shown_nowhere(tmp_path: Path) -> None:
    """Neither in what is printed of the settings nor in what workers are told."""
    (tmp_path / "secret").write_text("from a file\n")
    settings = load(tmp_path, client_secret="", client_secret_file=str(tmp_path / "secret"))
    assert secret_of(settings.oidc) == "from a file"
    variables = {"REJOINDER_OIDC__CLIENT_SECRET": "from a variable"}
    by_variable = load_settings(
        {"home": tmp_path, "public_url": PUBLIC_URL, "oidc": OIDC | {"client_secret": None}}, variables
    )
    assert secret_of(by_variable.oidc) == "from a variable"
    assert "from a variable" not in repr(by_variable) + str(by_variable.as_flags())
    with pytest.raises(ConfigError, match="expected a readable file"):
        secret_of(OidcSettings(client_secret_file=str(tmp_path / "absent")))

"""Signing in with a provider: the authorization code flow with PKCE (OpenID Connect Core 1.0; RFC 7636, RFC 9207).

Owns what the provider is asked and what its answers must be; knows nothing of accounts, cookies and pages.

1. `begin`   state, nonce and a PKCE verifier, and the address the browser goes to
2. `finish`  the code becomes an ID token, whose signature, issuer, audience, times and nonce are checked: who it is
3. `leave`   where a browser ends its session at the provider, too (RP-Initiated Logout 1.0)

The provider is asked at sign-in only; what it says of itself is kept for an hour, its keys until one is missing. authlib
and joserfc are imported when somebody signs in for the first time.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_plus, urlsplit

import httpx

from bot.settings import OidcSettings, is_loopback
from bot.wire_errors import Unauthenticated, Unavailable

logger = logging.getLogger(__name__)

CALLBACK_PATH = "/login/oidc/callback"
TIMEOUT_S = 5.0
"""Of each request to the provider."""
METADATA_S = 3600.0
"""How long what the provider says of itself is believed."""
LEEWAY_S = 60
"""By how much its clock may differ from ours."""
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
"""Signatures by a key that only the provider has: neither `none` nor one made with a secret that we know, too."""
MAX_DISPLAY_CHARS = 64
_KEY_TYPES = ("RSA", "EC")


@dataclass(frozen=True, slots=True)
class Pending:
    """A sign-in that a browser has begun. The provider gives back `state`; `nonce` must be in the token."""

    state: str
    nonce: str
    verifier: str = field(repr=False)
    next_page: str = "/"


@dataclass(frozen=True, slots=True)
class Person:
    """Whom the provider vouches for. `subject`: issuer and its id, which never changes; `role`: empty, none here;
    `display_name`: what end users may read, empty where the provider says nothing fit."""

    subject: str
    name: str
    role: str
    display_name: str = ""


@dataclass(frozen=True, slots=True)
class _Metadata:
    """What the provider says of itself (OpenID Connect Discovery 1.0)."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    algorithms: tuple[str, ...]
    posts_secret: bool
    """It wants the secret in the form, not in the header."""
    names_issuer: bool
    """Its answers carry `iss` (RFC 9207)."""
    end_session_endpoint: str
    """Where people sign out; empty where it says nothing that could be trusted."""


class Provider:
    """One configured provider. `public_url`: where its people come back to; `clock`: epoch s; `monotonic`: for what is kept; `transport` is for tests."""

    def __init__(
        self,
        settings: OidcSettings,
        public_url: str,
        *,
        secret: str = "",
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.settings = settings
        self._public_url = public_url
        self._secret = secret
        self._clock = clock
        self._monotonic = monotonic
        self._transport = transport
        self._metadata: tuple[float, _Metadata] | None = None
        self._keys: list[Any] = []

    @property
    def callback_url(self) -> str:
        """Where the provider sends people back: fixed, never taken from a request."""
        return self._public_url.rstrip("/") + CALLBACK_PATH

    async def begin(self, next_page: str) -> tuple[Pending, str]:
        """What to remember, and where the browser goes. Raises Unavailable."""
        from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
        from authlib.oauth2.rfc7636 import create_s256_code_challenge

        metadata = await self._discovered()
        pending = Pending(secrets.token_urlsafe(24), secrets.token_urlsafe(24), secrets.token_urlsafe(48), next_page)
        url = prepare_grant_uri(
            metadata.authorization_endpoint,
            client_id=self.settings.client_id,
            response_type="code",
            redirect_uri=self.callback_url,
            scope=self.settings.scopes,
            state=pending.state,
            nonce=pending.nonce,
            code_challenge=create_s256_code_challenge(pending.verifier),
            code_challenge_method="S256",
        )
        return pending, url

    async def finish(self, pending: Pending | None, answer: Mapping[str, str]) -> Person:
        """Who signed in, by the parameters the browser came back with. Raises Unauthenticated, Unavailable."""
        if pending is None or not hmac.compare_digest(pending.state.encode(), answer.get("state", "").encode()):
            raise Unauthenticated(
                "sign-in: expected the one this browser began, got another or an old one; begin again"
            )
        if "error" in answer:
            raise Unauthenticated(f"the provider refused: {answer['error'][:80]}")
        metadata = await self._discovered()
        issuer = answer.get("iss", "" if metadata.names_issuer else self.settings.issuer)
        if issuer != self.settings.issuer:
            raise Unauthenticated(f"sign-in: expected an answer by {self.settings.issuer}, got one by another")
        if not answer.get("code"):
            raise Unauthenticated("sign-in: expected a code from the provider, got none")
        token = await self._redeem(metadata, answer["code"], pending.verifier)
        return self._person(await self._claims(metadata, token, pending.nonce))

    async def leave(self) -> str:
        """Where the browser goes to end its session at the provider, and comes back from to our form; empty where it names no
        such place or does not answer: nobody stays signed in here for that."""
        from authlib.common.urls import add_params_to_uri

        with suppress(Unavailable):
            endpoint = (await self._discovered()).end_session_endpoint
            if endpoint:
                back = self._public_url.rstrip("/") + "/login"
                asked = [("client_id", self.settings.client_id), ("post_logout_redirect_uri", back)]
                return str(add_params_to_uri(endpoint, asked))
        return ""

    # --- the provider's answers ---------------------------------------------------------------------------------------
    async def _discovered(self) -> _Metadata:
        now = self._monotonic()
        if self._metadata is None or now >= self._metadata[0] + METADATA_S:
            url = self.settings.issuer.rstrip("/") + "/.well-known/openid-configuration"
            self._metadata = (now, _metadata_from(await self._ask("GET", url), self.settings.issuer))
        return self._metadata[1]

    async def _redeem(self, metadata: _Metadata, code: str, verifier: str) -> str:
        """The ID token for a code (RFC 6749, section 4.1.3)."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.callback_url,
            "code_verifier": verifier,
        }
        client_id, auth = self.settings.client_id, None
        if not self._secret or metadata.posts_secret:
            form |= {"client_id": client_id} | ({"client_secret": self._secret} if self._secret else {})
        else:
            # Both are form-encoded before they become a header: section 2.3.1.
            auth = httpx.BasicAuth(quote_plus(client_id), quote_plus(self._secret))
        found = await self._ask("POST", metadata.token_endpoint, data=form, auth=auth)
        token = found.get("id_token")
        if not isinstance(token, str):
            raise Unauthenticated("sign-in: expected an ID token from the provider, got none")
        return token

    async def _claims(self, metadata: _Metadata, token: str, nonce: str) -> Mapping[str, Any]:
        """The claims of a token that holds (OpenID Connect Core, section 3.1.3.7)."""
        from authlib.oidc.core import CodeIDToken
        from joserfc.errors import JoseError

        expected: dict[str, Any] = {
            "iss": {"essential": True, "value": self.settings.issuer},
            "aud": {"essential": True, "value": self.settings.client_id},
        }
        try:
            found = await self._verified(metadata, token)
            params = {"nonce": nonce, "client_id": self.settings.client_id}
            claims = CodeIDToken(found.claims, found.header, expected, params)
            claims.validate(now=int(self._clock()), leeway=LEEWAY_S)
        except (JoseError, ValueError, TypeError) as error:
            logger.warning("an ID token was refused: %s", error)
            reason = getattr(error, "error", "") or type(error).__name__
            raise Unauthenticated(f"sign-in: the provider's token does not hold ({reason}); begin again") from error
        return dict(claims)

    async def _verified(self, metadata: _Metadata, token: str) -> Any:
        """The token, if one of the provider's keys signed it; they are asked for again when none of ours did."""
        from joserfc.errors import BadSignatureError, InvalidKeyIdError

        if self._keys:
            with suppress(BadSignatureError, InvalidKeyIdError):
                return _signed_by(self._keys, token, metadata.algorithms)
        listed = (await self._ask("GET", metadata.jwks_uri)).get("keys")
        self._keys = _keys_from(_records(listed))
        return _signed_by(self._keys, token, metadata.algorithms)

    def _person(self, claims: Mapping[str, Any]) -> Person:
        given = self.settings
        name = claims.get(given.name_claim)
        if not isinstance(name, str) or not name.strip():
            raise Unauthenticated(f"sign-in: expected the claim {given.name_claim} in the provider's token, got none")
        if given.name_claim == "email" and claims.get("email_verified") is False:
            raise Unauthenticated("sign-in: expected an e-mail address that the provider has verified")
        if not isinstance(claims["sub"], str) or not claims["sub"]:
            raise Unauthenticated("sign-in: expected the claim sub in the provider's token to be text")
        has = _values(claims, given.role_claim)
        wanted = (("admin", given.admins), ("developer", given.developers), ("operator", given.operators))
        role = next((role for role, values in wanted if has & set(values)), "")
        return Person(f"{given.issuer} {claims['sub']}", name.strip().lower(), role, _display_name(claims))

    async def _ask(self, method: str, url: str, **sent: Any) -> Mapping[str, Any]:
        """A JSON object by the provider. Raises Unavailable; Unauthenticated when it says that the request is wrong."""
        try:
            async with httpx.AsyncClient(timeout=TIMEOUT_S, transport=self._transport) as client:
                answer = await client.request(method, url, headers={"Accept": "application/json"}, **sent)
        except httpx.HTTPError as error:
            logger.warning("the sign-in provider cannot be reached: %s %s: %s", method, url, type(error).__name__)
            raise Unavailable(
                f"{self.settings.name} cannot be reached to sign you in ({urlsplit(url).hostname}): try again, "
                "or use an account of this server"
            ) from error
        if answer.status_code in (400, 401) and method == "POST":
            logger.warning("the sign-in provider refused a code: HTTP %d, %s", answer.status_code, _error_in(answer))
            raise Unauthenticated("sign-in: the provider did not take its own code back; begin again")
        try:
            found = answer.json() if answer.status_code == 200 else None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            logger.warning("the sign-in provider: expected JSON from %s, got HTTP %d", url, answer.status_code)
            raise Unavailable(f"{self.settings.name} answered what is no OpenID Connect: try again later")
        return found


def _error_in(answer: httpx.Response) -> str:
    """The `error` of an OAuth refusal (RFC 6749, section 5.2): `invalid_client` is a wrong client_secret."""
    try:
        found = answer.json()
    except ValueError:
        found = None
    return repr(str(found.get("error"))[:80]) if isinstance(found, Mapping) else "no error named"


def _keys_from(listed: list[Mapping[str, Any]]) -> list[Any]:
    """The provider's keys for signatures, of the kinds known here: one that is not must not shut out everybody."""
    from joserfc.errors import JoseError
    from joserfc.jwk import JWKRegistry

    keys = []
    for given in listed:
        if given.get("kty") not in _KEY_TYPES or given.get("use", "sig") != "sig":
            continue
        try:
            key = JWKRegistry.import_key(dict(given))
            key.ensure_kid()
            # A curve or a number that is none shows only when the key is asked for what is behind its fields.
            key.public_key  # noqa: B018
        except (JoseError, ValueError, TypeError, KeyError) as error:
            logger.warning("a key of the sign-in provider is left out (%s): %r", given.get("kid"), error)
        else:
            keys.append(key)
    return keys


def _signed_by(keys: list[Any], token: str, algorithms: tuple[str, ...]) -> Any:
    """The token, if one of the keys signed it. Raises JoseError."""
    from joserfc import jwt
    from joserfc.jwk import KeySet

    return jwt.decode(token, KeySet(keys), algorithms=list(algorithms))


def _metadata_from(found: Mapping[str, Any], issuer: str) -> _Metadata:
    """Raises Unavailable when it is another provider's, or leads to where anybody could listen."""
    if found.get("issuer") != issuer:
        raise Unavailable(f"the sign-in provider: expected the issuer {issuer}, got {str(found.get('issuer'))[:200]!r}")
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
        if not _is_safe(found.get(name)):
            raise Unavailable(f"the sign-in provider: expected {name} to be an https address, got {found.get(name)!r}")
    signing = found.get("id_token_signing_alg_values_supported") or ["RS256"]
    algorithms = tuple(name for name in ALGORITHMS if name in signing)
    if not algorithms:
        # joserfc takes an empty list for its own defaults, shared secrets among them.
        raise Unavailable(
            f"the sign-in provider: expected signatures by one of {', '.join(ALGORITHMS)}, got none of them"
        )
    methods = found.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
    return _Metadata(
        authorization_endpoint=found["authorization_endpoint"],
        token_endpoint=found["token_endpoint"],
        jwks_uri=found["jwks_uri"],
        algorithms=algorithms,
        posts_secret="client_secret_basic" not in methods,
        names_issuer=found.get("authorization_response_iss_parameter_supported") is True,
        end_session_endpoint=str(end) if _is_safe(end := found.get("end_session_endpoint")) else "",
    )


def _is_safe(address: Any) -> bool:
    """https, or http that cannot leave this machine."""
    try:
        parts = urlsplit(address) if isinstance(address, str) else urlsplit("")
    except ValueError:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))


def _display_name(claims: Mapping[str, Any]) -> str:
    """The first of `given_name` and `name` (OpenID Connect Core, section 5.1) that is no address: some providers put one
    into `name` where they know no other."""
    given = (claims.get(claim) for claim in ("given_name", "name"))
    names = (" ".join(name.split()) for name in given if isinstance(name, str) and name.isprintable())
    return next((name for name in names if name and "@" not in name and len(name) <= MAX_DISPLAY_CHARS), "")


def _values(claims: Mapping[str, Any], name: str) -> set[str]:
    """What a claim says, as a set; a name with dots may also lead into objects."""
    found: Any = claims.get(name)
    if found is None:
        found = claims
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    listed = found if isinstance(found, list) else [found]
    return {value for value in listed if isinstance(value, str)}


def _records(listed: Any) -> list[Mapping[str, Any]]:
    return [item for item in listed if isinstance(item, Mapping)] if isinstance(listed, list) else []

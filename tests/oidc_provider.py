"""A small OpenID provider: discovery document, keys, codes and tokens signed by real RSA keys. It can be told to lie."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

ISSUER = "https://id.example"
CLIENT_ID = "rejoinder-desk"
CLIENT_SECRET = "what only the two of us know"
KEY = RSAKey.generate_key(2048, {"kid": "k1"})
OTHER_KEY = RSAKey.generate_key(2048, {"kid": "k2"})


def unsigned(claims: Mapping[str, Any]) -> str:
    """A token with `alg: none` (RFC 7519, section 6)."""
    return ".".join(_encoded(part) for part in ({"alg": "none", "typ": "JWT"}, dict(claims))) + "."


def signed_with_the_public_key(claims: Mapping[str, Any]) -> str:
    """HS256 with what everybody knows of our key: the confusion of RFC 8725, section 2.1. (joserfc refuses to make one.)"""
    body = ".".join(_encoded(part) for part in ({"alg": "HS256", "kid": "k1"}, dict(claims)))
    mac = hmac.new(KEY.as_pem(private=False), body.encode(), hashlib.sha256).digest()
    return f"{body}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


def _encoded(part: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


@dataclass(slots=True)
class ScriptedProvider:
    """What it says is in its fields. `clock`: epoch s."""

    clock: Callable[[], float]
    issuer: str = ISSUER
    person: dict[str, Any] = field(
        default_factory=lambda: {"sub": "u-17", "email": "Ana@example.org", "groups": ["desk"]}
    )
    lies: dict[str, Any] = field(default_factory=dict)
    """Claims that it states wrongly; None: leaves out."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Changes of the discovery document."""
    key: RSAKey = field(default_factory=lambda: KEY)
    published: list[RSAKey] = field(default_factory=lambda: [KEY])
    sign: Callable[[Mapping[str, Any]], str] | None = None
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """Paths that were asked for, in order."""

    @property
    def app(self) -> Starlette:
        """Its five pages."""
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._discovery),
                Route("/keys", self._keys),
                Route("/authorize", self._authorize),
                Route("/token", self._token, methods=["POST"]),
                Route("/end", self._end),
            ]
        )

    def visit(self, url: str) -> str:
        """A person signs in there: the address their browser is sent back to."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert (asked["client_id"], asked["response_type"]) == (CLIENT_ID, "code")
        code = f"code-{len(self.codes)}"
        self.codes[code] = asked
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"

    async def _discovery(self, request: Request) -> Response:
        self.asked.append(request.url.path)
        said = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "end_session_endpoint": f"{self.issuer}/end",
            "id_token_signing_alg_values_supported": ["RS256"],
        }
        return JSONResponse(said | self.metadata)

    async def _keys(self, request: Request) -> Response:
        self.asked.append(request.url.path)
        return JSONResponse({"keys": [key.as_dict(private=False) for key in self.published]})

    async def _authorize(self, request: Request) -> Response:
        return RedirectResponse(self.visit(str(request.url)), 302)

    async def _end(self, request: Request) -> Response:
        """Of a client it knows: back to where that wants to go."""
        self.asked.append(request.url.path)
        assert request.query_params["client_id"] == CLIENT_ID
        return RedirectResponse(request.query_params["post_logout_redirect_uri"], 302)

    async def _token(self, request: Request) -> Response:
        """As RFC 6749 and 7636 say: the code once, to its client, with the verifier it was asked for with."""
        self.asked.append(request.url.path)
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        asked = self.codes.pop(form.get("code", ""), None)
        challenge = (
            base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).decode().rstrip("=")
        )
        if asked is None or challenge != asked["code_challenge"] or form["redirect_uri"] != asked["redirect_uri"]:
            return JSONResponse({"error": "invalid_grant"}, 400)
        if self._client_of(request, form) != (CLIENT_ID, CLIENT_SECRET):
            return JSONResponse({"error": "invalid_client"}, 401)
        now = int(self.clock())
        claims = {"iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": asked["nonce"]}
        claims = {name: value for name, value in (claims | self.person | self.lies).items() if value is not None}
        return JSONResponse({"access_token": "a", "token_type": "Bearer", "id_token": self._signed(claims)})

    def _signed(self, claims: dict[str, Any]) -> str:
        return self.sign(claims) if self.sign else jwt.encode({"alg": "RS256", "kid": self.key.kid}, claims, self.key)

    @staticmethod
    def _client_of(request: Request, form: Mapping[str, str]) -> tuple[str, str]:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if scheme != "Basic":
            return form.get("client_id", ""), form.get("client_secret", "")
        name, _, secret = base64.b64decode(value).decode().partition(":")
        return name, secret.replace("+", " ")

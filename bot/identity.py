"""Who is asking: person tokens, the operator key, the staff's session cookies, ids. Secrets never enter a URL.

    HOME/keys/secret         32 random bytes: signs person tokens, session cookies and adapter manifests, and decides
                             which conversations are held out
    HOME/keys/operator.key   the operator key, in letters, for people to copy into the login page

Both are made on first use, readable by their owner only. Everything is compared in constant time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import os
import random
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import urlsplit

from bot.errors import ConfigError
from bot.wire_errors import Unauthenticated

SESSION_S = 12 * 3600.0
"""How long an operator stays signed in."""
SESSION_COOKIE = "rejoinder_session"
KEY_HOLDER = "local"
"""Account name of whoever signs in with the operator key: an admin who needs no password."""


def home_secret(home: Path) -> bytes:
    """The home's signing secret, made on first use. Raises ConfigError when it cannot be read or is damaged."""
    secret = _read_or_make(home / "keys" / "secret", lambda: secrets.token_bytes(32))
    if len(secret) < 32:
        raise ConfigError(f"{home / 'keys' / 'secret'}: expected 32 bytes, got {len(secret)}")
    return secret


def operator_key(home: Path) -> str:
    """The operator key, made on first use."""
    key = _read_or_make(home / "keys" / "operator.key", lambda: secrets.token_urlsafe(24).encode()).decode().strip()
    if len(key) < 16:
        raise ConfigError(f"{home / 'keys' / 'operator.key'}: expected at least 16 characters, got {len(key)}")
    return key


def holdout_key(home: Path, seed: int | None) -> bytes:
    """The key of `bot.conversation.is_holdout`: of this home alone, or of the seed, so that a seeded run reproduces."""
    secret = home_secret(home) if seed is None else str(seed).encode()
    return hmac.new(secret, b"holdout", hashlib.sha256).digest()


class Identity:
    """Issues and checks everything that proves who somebody is. Times are epoch seconds."""

    def __init__(self, secret: bytes, operator_key: str) -> None:
        self._secret = secret
        self._operator_key = operator_key

    @classmethod
    def open(cls, home: Path) -> Identity:
        """With the keys of this home."""
        return cls(home_secret(home), operator_key(home))

    def person_token(self, person_id: str) -> str:
        """What a person's browser keeps: `PERSON_ID.SIGNATURE`."""
        return f"{person_id}.{self._mac('person', person_id)}"

    def person_of(self, token: str) -> str:
        """The person id of a token. Raises Unauthenticated when we did not issue it."""
        person_id, _, mac = token.rpartition(".")
        if not person_id or not _same(mac, self._mac("person", person_id)):
            raise Unauthenticated("token: expected one that this server issued, got another")
        return person_id

    def is_operator_key(self, key: str) -> bool:
        """Whether this is the operator key."""
        return _same(key, self._operator_key)

    def session(self, now: float, name: str = KEY_HOLDER, epoch: int = 0) -> str:
        """A session cookie's value, good for SESSION_S: `EXPIRY.NONCE.EPOCH.NAME.SIGNATURE`, the name in hex."""
        body = f"{int(now + SESSION_S)}.{secrets.token_hex(8)}.{epoch}.{name.encode().hex()}"
        return f"{body}.{self._session_mac(body)}"

    def session_of(self, cookie: str, now: float) -> tuple[str, int] | None:
        """(account name, its session epoch) of a cookie that is ours and has not ended; None for any other."""
        body, _, mac = cookie.rpartition(".")
        if not _same(mac, self._session_mac(body)):
            return None
        expiry, _, epoch, name = body.split(".")
        return (bytes.fromhex(name).decode(), int(epoch)) if now < int(expiry) else None

    def sealed(self, purpose: str, text: str, ends_at: float) -> str:
        """Text that a browser keeps for us until `ends_at` and cannot change (it can read it)."""
        body = base64.urlsafe_b64encode(json.dumps([int(ends_at), text]).encode()).decode()
        return f"{body}.{self._mac(f'sealed {purpose}', body)}"

    def unsealed(self, purpose: str, value: str, now: float) -> str | None:
        """The text; None when it is not ours, of another purpose, or too old."""
        body, _, mac = value.rpartition(".")
        if not body or not _same(mac, self._mac(f"sealed {purpose}", body)):
            return None
        ends_at, text = json.loads(base64.urlsafe_b64decode(body))
        return str(text) if now < ends_at else None

    def _session_mac(self, body: str) -> str:
        # The key is part of what is signed, so changing it signs everybody out.
        return self._mac("account session", f"{body}\x1f{self._operator_key}")

    def _mac(self, purpose: str, text: str) -> str:
        return hmac.new(self._secret, f"{purpose}\x1f{text}".encode(), hashlib.sha256).hexdigest()


class IdSource:
    """Ids that nobody can guess; with a seed, ids that reproduce.

    A seeded source starts over in every process: give `epoch` another value (the number of rows there are, say) when a
    home is opened again, or its ids come back.
    """

    def __init__(self, seed: int | None = None, epoch: int = 0) -> None:
        self._random = {
            kind: random.SystemRandom() if seed is None else random.Random(f"{seed}:{epoch}:{kind}") for kind in "pcmd"
        }

    def person(self) -> str:
        """`p_` and 24 hex digits."""
        return self._draw("p")

    def conversation(self) -> str:
        """`c_` and 24 hex digits."""
        return self._draw("c")

    def message(self) -> str:
        """`m_` and 24 hex digits."""
        return self._draw("m")

    def decision(self) -> str:
        """`d_` and 24 hex digits."""
        return self._draw("d")

    def _draw(self, kind: str) -> str:
        return f"{kind}_{self._random[kind].getrandbits(96):024x}"


def is_own_origin(origin: str | None, host: str, public_url: str = "", named: Iterable[str] = ()) -> bool:
    """Whether a page of this Origin is one of ours, which may use the staff's cookie.

    No Origin: a program, not a page. Otherwise that of `public_url`, or equal to the Host header, which must be an address,
    localhost, or named: any other name would let a page rebind its own DNS name to us and pass as our own. An origin that is
    named but is not the Host is another site, on which the widget speaks for end users.
    """
    if origin is None:
        return True
    try:
        parts, public = urlsplit(origin), urlsplit(public_url)
        name = (parts.hostname or "").lower()
    except ValueError:
        return False
    if public.netloc and origin == f"{public.scheme}://{public.netloc}":
        return True
    is_plain = origin == f"{parts.scheme}://{parts.netloc}" and "@" not in parts.netloc
    is_same = is_plain and parts.scheme in ("http", "https") and parts.netloc == host
    return is_same and (_is_own_name(name) or origin in named)


def is_allowed_origin(origin: str | None, host: str, public_url: str = "", named: Iterable[str] = ()) -> bool:
    """Whether a page of this Origin may open our websocket as an end user: a page of ours, or one that is named."""
    return is_own_origin(origin, host, public_url, named) or origin in tuple(named)


def _is_own_name(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), expected.encode())


def _read_or_make(path: Path, make: Callable[[], bytes]) -> bytes:
    """The file's content; made whole and private when absent, by whichever process comes first."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ConfigError(f"{path}: expected a readable key file, got {error.strerror}") from error
    try:
        return _make_once(path, make())
    except OSError as error:
        raise ConfigError(f"{path}: expected a folder to write keys to, got {error.strerror}") from error


def _make_once(path: Path, content: bytes) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    try:
        # A hard link fails when the name is taken: the first process wins, a rename would let the last one.
        os.link(aside, path)
    except FileExistsError:
        pass
    finally:
        aside.unlink()
    _fsync_folder(path.parent)
    return path.read_bytes()


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""What the wire says about an error: the codes of docs/protocol.md and their HTTP status, in one place.

Adds to `bot.errors` what only the wire can get wrong: frames, turns, credentials, sizes.
"""

from __future__ import annotations

from bot.errors import RejoinderError, TooMuch


class BadFrame(RejoinderError, ValueError):
    """A frame or body that does not say what the protocol expects."""

    code = "bad_frame"


class OutOfTurn(RejoinderError):
    """A frame that is not allowed now; the socket is closed."""

    code = "protocol"


class Busy(TooMuch):
    """Too many messages wait for a reply already."""

    code = "busy"


class TooLarge(TooMuch):
    """A text, frame or body over its size limit."""


class Unauthenticated(RejoinderError):
    """No credentials, or none that we issued."""

    code = "not_allowed"


class Unavailable(RejoinderError):
    """The server cannot do it now; the same request may work later."""

    code = "unavailable"


_WIRE_CODES = {"store": "unavailable", "model": "unavailable", "adapter": "unavailable"}
_PASSED_ON = {
    "bad_frame",
    "protocol",
    "too_much",
    "conflict",
    "not_found",
    "not_allowed",
    "busy",
    "unavailable",
}
_HTTP_STATUS = {
    "bad_frame": 400,
    "protocol": 400,
    "not_allowed": 403,
    "not_found": 404,
    "conflict": 409,
    "too_much": 429,
    "busy": 429,
    "unavailable": 503,
    "error": 500,
}
WIRE_CODES = tuple(_HTTP_STATUS)
"""Every code that people may see."""


def wire_code(error: RejoinderError) -> str:
    """The code people see: one of docs/protocol.md's."""
    code = _WIRE_CODES.get(error.code, error.code)
    return code if code in _PASSED_ON else "error"


def http_status(error: RejoinderError) -> int:
    """The HTTP status of an error."""
    if isinstance(error, Unauthenticated):
        return 401
    if isinstance(error, TooLarge):
        return 413
    return _HTTP_STATUS[wire_code(error)]

"""Errors a person may see. Each says what was expected, what was got, and where.

RejoinderError
├── ConfigError        wrong settings, flags or environment            (also ValueError)
├── DomainError        a developer's domain folder is wrong            (also ValueError)
├── ModelError         a model is missing, damaged or of another kind
├── AdapterError       an adapter version cannot be trusted or loaded
├── StoreError         the database cannot be used or refused a write
│   └── ConflictError  same idempotency key, another body (HTTP 409)
├── NotFound           no such conversation, message or version        (also LookupError)
├── NotAllowed         it exists, and it is not yours
├── TurnTaken          somebody else speaks in this conversation
└── TooMuch            too large, too fast, too many
"""

from __future__ import annotations


class RejoinderError(Exception):
    """Base of every error that is shown as one clear line instead of a traceback."""

    code = "error"


class ConfigError(RejoinderError, ValueError):
    """Settings, flags or environment variables that cannot be used."""

    code = "config"


class DomainError(RejoinderError, ValueError):
    """A domain folder that does not load: `file:line: expected ..., got ...`."""

    code = "domain"


class ModelError(RejoinderError):
    """A model that is missing, damaged, or not the one the adapter was trained on."""

    code = "model"


class AdapterError(RejoinderError):
    """An adapter version whose manifest, signature, weights or canary do not hold."""

    code = "adapter"


class StoreError(RejoinderError):
    """The database cannot be opened, or a write was not made durable."""

    code = "store"


class ConflictError(StoreError):
    """The idempotency key was used before with another body."""

    code = "conflict"


class NotFound(RejoinderError, LookupError):
    """Nothing is stored under this id."""

    code = "not_found"


class NotAllowed(RejoinderError):
    """The thing exists and this person may not touch it."""

    code = "not_allowed"


class TurnTaken(RejoinderError):
    """Somebody else speaks in this conversation now: the bot while a person does, or the other way round."""

    code = "conflict"


class TooMuch(RejoinderError):
    """Over a size or rate limit; `retry_after_s` says when to come back."""

    code = "too_much"

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

"""The wire, inwards: every frame a client may send (docs/protocol.md) as a pydantic model, and how text becomes one.

Models refuse unknown fields and wrong types. What goes out is `bot.wire`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from bot.wire_errors import BadFrame

ReplyMode = Literal["approved", "generated"]
Thumb = Literal[1, -1, 0]
Key = Annotated[str, Field(min_length=1, max_length=64, examples=["7f3a-1"])]
"""An idempotency key or client id: the sender's own choice."""
Id = Annotated[str, Field(min_length=1, max_length=64)]
Reason = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^|]+$")]
Comment = Annotated[str, Field(max_length=2000)]
Seq = Annotated[int, Field(ge=0, le=2**53)]


# --- from the client --------------------------------------------------------------------------------------------------
class _FromClient(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Hello(_FromClient):
    """Start, or come back."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "hello", "protocol": 1}]})

    type: Literal["hello"] = "hello"
    protocol: Literal[1]
    token: Annotated[str, Field(max_length=256)] | None = None
    conversation_id: Id | None = None
    last_seq: Seq = 0
    """The highest `seq` shown; messages after it are sent again."""
    reply: ReplyMode | None = None


class UserMessage(_FromClient):
    """A user message. Sent twice with the same `client_id`: one message."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"type": "message", "client_id": "m1", "text": "Where is my card?"}]}
    )

    type: Literal["message"] = "message"
    client_id: Key
    text: str


class Vote(_FromClient):
    """A thumb: 1, -1, or 0 to withdraw it."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"key": "k1", "message_id": "m_1", "thumb": -1, "reasons": ["wrong"]}]}
    )

    key: Key
    message_id: Id
    thumb: Thumb
    reasons: Annotated[list[Reason], Field(max_length=10)] = []
    comment: Comment = ""


class Feedback(Vote):
    """A vote as a frame."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"type": "feedback", "key": "k1", "message_id": "m_1", "thumb": 0}]}
    )

    type: Literal["feedback"] = "feedback"


class Outcome(_FromClient):
    """Whether the person's problem is solved."""

    type: Literal["outcome"] = "outcome"
    key: Key
    solved: bool


class Csat(_FromClient):
    """How the whole chat was, 1 (very bad) to 5 (very good)."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "csat", "key": "k2", "value": 4}]})

    type: Literal["csat"] = "csat"
    key: Key
    value: Annotated[int, Field(ge=1, le=5)]
    comment: Comment = ""


class Retry(_FromClient):
    """Another answer in place of the newest reply."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "retry", "key": "k3", "message_id": "m_1"}]})

    type: Literal["retry"] = "retry"
    key: Key
    message_id: Id


class Handover(_FromClient):
    """Talk to a person."""

    type: Literal["handover"] = "handover"
    key: Key


class ChangeSettings(_FromClient):
    """Settings of this conversation. The key, where there is one, comes back in the answer."""

    type: Literal["settings"] = "settings"
    key: Key | None = None
    reply: ReplyMode | None = None
    learn: bool | None = None


class Stop(_FromClient):
    """Cancel the reply being written."""

    type: Literal["stop"] = "stop"


class Ping(_FromClient):
    """Answered by `pong`."""

    type: Literal["ping"] = "ping"


ClientFrame = Hello | UserMessage | Feedback | Outcome | Csat | Retry | Handover | ChangeSettings | Stop | Ping
_CLIENT_FRAME: TypeAdapter[ClientFrame] = TypeAdapter(Annotated[ClientFrame, Field(discriminator="type")])
_CLIENT_TYPES = "hello, message, feedback, outcome, csat, retry, handover, settings, stop or ping"


def parse_client_frame(text: str) -> ClientFrame:
    """A frame from its JSON text. Raises BadFrame with one line: field, what was expected, what was got."""
    try:
        return _CLIENT_FRAME.validate_json(text)
    except ValidationError as error:
        raise BadFrame(complaint(error.errors(include_url=False)[0])) from None


def complaint(first: Mapping[str, Any]) -> str:
    """One line out of one of pydantic's error records: field, what was expected, what was got."""
    kind, got = first["type"], _shown(first["input"])
    if kind == "json_invalid":
        return f"frame: expected JSON, got {_shown(first['input'])} ({first['ctx']['error']})"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return f"type: expected {_CLIENT_TYPES}, got {_shown(first.get('ctx', {}).get('tag', first['input']))}"
    if kind in ("model_attributes_type", "model_type", "dict_type"):
        return f"frame: expected a JSON object, got {got}"
    # The union's tag comes first in `loc`; people know fields, not tags.
    where = ".".join(str(part) for part in first["loc"] if part not in _TAGS) or "frame"
    if kind == "missing":
        return f"{where}: expected a value, got nothing"
    if kind == "extra_forbidden":
        return f"{where}: unknown field, got {got}"
    return f"{where}: {first['msg'].replace('Input should', 'expected to')}, got {got}"


_TAGS = frozenset({*_CLIENT_TYPES.replace(" or", ",").split(", "), "body", "query", "path"})


def _shown(value: object, limit: int = 60) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"

"""The wire: every frame of docs/protocol.md as a pydantic model. (HTTP bodies: `bot.routes.bodies`.)

Client models refuse unknown fields and wrong types; server models are built from the records of `bot.conversation`.
Owns no state and no I/O: text in, model out (`parse_client_frame`), model in, text out (`encode`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from bot.conversation import Conversation, Message, Signal, SignalKind
from bot.domain import Domain
from bot.errors import RejoinderError, TooMuch
from bot.wire_errors import BadFrame, wire_code

PROTOCOL = 1
UP_CHIPS = ("correct", "clear", "friendly", "fast")
DOWN_CHIPS = ("wrong", "off topic", "unclear", "too long", "not friendly")

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


class Handover(_FromClient):
    """Talk to a person."""

    type: Literal["handover"] = "handover"
    key: Key


class ChangeSettings(_FromClient):
    """Settings of this conversation."""

    type: Literal["settings"] = "settings"
    reply: ReplyMode | None = None
    learn: bool | None = None


class Stop(_FromClient):
    """Cancel the reply being written."""

    type: Literal["stop"] = "stop"


class Ping(_FromClient):
    """Answered by `pong`."""

    type: Literal["ping"] = "ping"


ClientFrame = Hello | UserMessage | Feedback | Outcome | Handover | ChangeSettings | Stop | Ping
_CLIENT_FRAME: TypeAdapter[ClientFrame] = TypeAdapter(Annotated[ClientFrame, Field(discriminator="type")])
_CLIENT_TYPES = "hello, message, feedback, outcome, handover, settings, stop or ping"


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


_TAGS = frozenset(
    {"hello", "message", "feedback", "outcome", "handover", "settings", "stop", "ping", "body", "query", "path"}
)


def _shown(value: object, limit: int = 60) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


# --- records as the wire shows them -----------------------------------------------------------------------------------
class _FromServer(BaseModel):
    model_config = ConfigDict(frozen=True)


class SourceOut(_FromServer):
    """An article a reply rests on."""

    id: str
    title: str


class MessageOut(_FromServer):
    """One line of a transcript."""

    id: str
    seq: int
    role: str
    text: str
    created_at: float
    client_id: str = ""
    act: str = ""
    version: str = ""
    sources: list[SourceOut] = []
    quick_replies: list[str] = []
    stop_reason: str = ""
    can_vote: bool = False
    """Whether a thumb on it teaches anything: replies the policy chose."""
    ask_rating: bool = False
    """Whether a thumb on it would teach so much that the person is to be asked for one."""

    @classmethod
    def of(cls, message: Message, domain: Domain) -> MessageOut:
        """As shown to its person."""
        return cls(
            id=message.id,
            seq=message.seq,
            role=message.role,
            text=message.text,
            created_at=message.created_at,
            client_id=message.client_id,
            act=message.act,
            version=message.version,
            sources=[SourceOut(id=source, title=_title(source, domain)) for source in message.sources],
            quick_replies=list(message.quick_replies),
            stop_reason=message.stop_reason,
            can_vote=can_vote(message),
            ask_rating=message.ask_rating,
        )


def can_vote(message: Message) -> bool:
    """Whether a person may put a thumb on it."""
    return message.role == "bot" and bool(message.decision_id)


def _title(article_id: str, domain: Domain) -> str:
    article = domain.articles.get(article_id)
    return article.title if article else article_id.replace("_", " ")


class VoteOut(_FromServer):
    """A vote in force; thumb 0 means withdrawn."""

    thumb: Thumb
    reasons: list[str] = []
    comment: str = ""

    @classmethod
    def of(cls, signal: Signal) -> VoteOut:
        """From the newest thumb of one person on one reply."""
        sign: Thumb = 1 if signal.value > 0 else -1 if signal.value < 0 else 0
        return cls(thumb=sign, reasons=[part for part in signal.label.split("|") if part], comment=signal.comment)


def votes_in_force(signals: Iterable[Signal], messages: Iterable[Message], person_id: str) -> dict[str, VoteOut]:
    """Message id -> the person's newest vote on it. Withdrawn ones are included, as thumb 0."""
    newest = {
        signal.decision_id: signal
        for signal in sorted(signals, key=lambda signal: signal.seq)
        if signal.kind is SignalKind.THUMB and signal.author == person_id
    }
    rated = ((message.id, newest.get(message.decision_id)) for message in messages if message.decision_id)
    return {message_id: VoteOut.of(signal) for message_id, signal in rated if signal}


class PartialOut(_FromServer):
    """A reply being written now; its next deltas continue this text."""

    message_id: str
    text: str
    version: str


# --- from the server --------------------------------------------------------------------------------------------------
class Chips(_FromServer):
    """Reasons offered beside a thumb."""

    up: list[str] = list(UP_CHIPS)
    down: list[str] = list(DOWN_CHIPS)


class HelloOut(_FromServer):
    """The first frame: says that it is an AI and offers a person (DESIGN invariant 10)."""

    type: Literal["hello"] = "hello"
    protocol: int = PROTOCOL
    conversation_id: str
    token: str
    ai_notice: str
    human_offer: str
    assistant: str
    version: str
    reply: str
    learn: bool
    can_write: bool
    status: str
    messages: list[MessageOut]
    votes: dict[str, VoteOut]
    chips: Chips = Chips()
    partial: PartialOut | None = None


class AckOut(_FromServer):
    """What you sent is on disk."""

    type: Literal["ack"] = "ack"
    kind: str
    client_id: str | None = None
    key: str | None = None
    message_id: str | None = None
    seq: int | None = None


class MessageFrame(_FromServer):
    """A whole message; ends a stream of deltas with the same id."""

    type: Literal["message"] = "message"
    message: MessageOut


class DeltaOut(_FromServer):
    """A piece of a reply; `index` counts from 0."""

    type: Literal["delta"] = "delta"
    message_id: str
    index: int
    text: str
    version: str


class FeedbackOut(VoteOut):
    """A vote changed."""

    type: Literal["feedback"] = "feedback"
    message_id: str


class SettingsOut(_FromServer):
    """Settings of the conversation changed."""

    type: Literal["settings"] = "settings"
    reply: str
    learn: bool

    @classmethod
    def of(cls, conversation: Conversation) -> SettingsOut:
        """The conversation's settings now."""
        return cls(reply=conversation.reply_mode, learn=conversation.learn_ok)


class StatusOut(_FromServer):
    """Who is speaking."""

    type: Literal["status"] = "status"
    status: str
    position: int | None = None


class VersionOut(_FromServer):
    """New replies come from this version."""

    type: Literal["version"] = "version"
    version: str


class ErrorOut(_FromServer):
    """One clear line."""

    type: Literal["error"] = "error"
    code: str
    message: str
    client_id: str | None = None
    key: str | None = None
    retry_after_s: float | None = None

    @classmethod
    def of(cls, error: RejoinderError, client_id: str = "", key: str = "") -> ErrorOut:
        """What a person reads about an error of ours."""
        wait_s = round(error.retry_after_s, 1) if isinstance(error, TooMuch) and error.retry_after_s else None
        return cls(
            code=wire_code(error),
            message=str(error),
            client_id=client_id or None,
            key=key or None,
            retry_after_s=wait_s,
        )


class PongOut(_FromServer):
    """The answer to `ping`."""

    type: Literal["pong"] = "pong"


ServerFrame = (
    HelloOut
    | AckOut
    | MessageFrame
    | DeltaOut
    | FeedbackOut
    | SettingsOut
    | StatusOut
    | VersionOut
    | ErrorOut
    | PongOut
)
FRAMES: tuple[type[BaseModel], ...] = (*get_args(ClientFrame), *get_args(ServerFrame))
"""Every frame, for documentation."""


def encode(frame: ServerFrame) -> str:
    """JSON text of a frame; fields that do not apply are left out, except hello's `partial`."""
    return frame.model_dump_json(exclude_none=not isinstance(frame, HelloOut))

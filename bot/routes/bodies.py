"""HTTP bodies of docs/protocol.md that are not frames too, with the examples OpenAPI shows."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from bot.conversation import Conversation
from bot.wire import MessageOut, VoteOut
from bot.wire_client import Comment, Id, Key, ReplyMode


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class ErrorBody(_Answer):
    """One clear line about what went wrong."""

    code: str
    message: str
    retry_after_s: float | None = None


class ErrorAnswer(_Answer):
    """Every error of the HTTP API."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"error": {"code": "not_found", "message": "message: expected a known id"}}]}
    )

    error: ErrorBody


class NewConversation(_Asked):
    """Start a conversation."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reply": "approved"}]})

    reply: ReplyMode | None = None


class StartedConversation(_Answer):
    """Its id, and the token that opens it."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"conversation_id": "c_0123456789abcdef0123", "token": "p_01.4f2c"}]}
    )

    conversation_id: str
    token: str


class ConversationOut(_Answer):
    """A conversation without its messages."""

    id: str
    created_at: float
    domain: str
    reply: str
    learn: bool
    status: str

    @classmethod
    def of(cls, conversation: Conversation) -> ConversationOut:
        """As shown to its person."""
        return cls(
            id=conversation.id,
            created_at=conversation.created_at,
            domain=conversation.domain,
            reply=conversation.reply_mode,
            learn=conversation.learn_ok,
            status=conversation.status,
        )


class Transcript(_Answer):
    """A whole conversation; all but the first two are for the staff."""

    conversation: ConversationOut
    messages: list[MessageOut]
    signals: list[dict[str, Any]] | None = None
    decisions: list[dict[str, Any]] | None = None
    rewards: list[dict[str, Any]] | None = None
    desk: dict[str, Any] | None = None
    """Its line of the inbox."""
    decision_of: dict[str, str] | None = None
    """Message id -> id of the decision behind it."""
    notes: list[dict[str, Any]] | None = None
    cases: list[dict[str, Any]] | None = None
    """What its replies were corrected to."""
    case_uses: list[dict[str, Any]] | None = None
    """Cases that spoke in its choices."""
    action_events: dict[str, list[dict[str, Any]]] | None = None
    """Decision id -> what its step did beside speaking, as Rasa's events."""


class Download(_Answer):
    """Everything a person said in a conversation and was told, and what they said about it."""

    conversation: ConversationOut
    messages: list[MessageOut]
    votes: dict[str, VoteOut]
    """Message id -> the vote in force."""
    solved: bool | None
    csat: int | None
    downloaded_at: float


class Erased(_Answer):
    """What was forgotten. `versions`: versions whose lineage holds one of its decisions; they go on serving."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"conversation_id": "c_01", "messages": 8, "decisions": 3, "versions": []}]}
    )

    conversation_id: str
    messages: int
    decisions: int
    versions: list[str]


class StoredSignal(_Answer):
    """It is on disk; `seq` is its place in the store."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"seq": 17}]})

    seq: int


class CsatReport(_Asked):
    """How a whole chat was to its person, 1 (very bad) to 5 (very good)."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"key": "k2", "conversation_id": "c_0123456789abcdef0123", "value": 4}]}
    )

    key: Key
    conversation_id: Id
    value: Annotated[int, Field(ge=1, le=5)]
    comment: Comment = ""


class OutcomeReport(_Asked):
    """A business outcome from the back office."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"key": "ticket-42", "conversation_id": "c_01", "solved": True}]}
    )

    key: Key
    conversation_id: Id
    solved: bool
    comment: Comment = ""


class ArticleOut(_Answer):
    """A help article."""

    id: str
    title: str
    answer: str


class SignIn(_Asked):
    """Sign in with an account's name and password, or with the operator key."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "ana", "password": "correct horse battery"}]})

    key: Annotated[str, Field(max_length=256)] = ""
    name: Annotated[str, Field(max_length=64)] = ""
    password: Annotated[str, Field(max_length=256)] = ""


class SignedOut(_Answer):
    """The cookie is gone; `provider_url`: where a browser ends its session at the provider, too."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"provider_url": "https://id.example/logout?client_id=rejoinder"}]}
    )

    provider_url: str


class SignedIn(_Answer):
    """The cookie is set; it ends at `expires_at` (epoch s)."""

    expires_at: float

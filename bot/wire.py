"""The wire, outwards: every frame of docs/protocol.md that the server sends, as a pydantic model.

Built from the records of `bot.conversation`. Owns no state and no I/O: model in, text out (`encode`). What clients send is
`bot.wire_client`, HTTP bodies are `bot.routes.bodies`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

from bot.announcements import announcement, event_in
from bot.conversation import Act, ActKind, Conversation, Message, Signal, SignalKind, Standing, public_name
from bot.domain import Domain
from bot.errors import RejoinderError, TooMuch
from bot.wire_client import ClientFrame, Thumb
from bot.wire_errors import wire_code

PROTOCOL = 1
ShownName = Callable[[str], str]
"""Account name -> what the reader may know of it. For end users `Staff.shown_name`, or the stricter `public_name`, which is
what whoever forgets to say gets; for the staff `str`, the account itself."""
_ONLY_WORDS = (ActKind.ANSWER, ActKind.RESPOND, ActKind.CLARIFY, ActKind.SAY)
UP_CHIPS = ("correct", "clear", "friendly", "fast")
DOWN_CHIPS = ("wrong", "off topic", "unclear", "too long", "not friendly")


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
    can_retry: bool = False
    """Whether another answer may be asked for in its place, while it is the newest reply."""
    ask_rating: bool = False
    """Whether a thumb on it would teach so much that the person is to be asked for one."""
    author: str = ""
    """Of an operator's message or an event: who it was; empty where their name is not for its reader."""
    event: str = ""
    """Of a `system` message: what happened (`bot.announcements.EVENTS`), for pages that say it in another language."""

    @classmethod
    def of(cls, message: Message, domain: Domain, shown_name: ShownName = public_name) -> MessageOut:
        """As shown to its person, unless `shown_name` is the staff's."""
        event, who = event_in(message.text) if message.role == "system" else ("", message.author.partition(":")[2])
        # Old announcements name the account, new ones what could be shown of it then.
        author = shown_name(who) if not event or "@" in who else who
        return cls(
            id=message.id,
            seq=message.seq,
            role=message.role,
            text=announcement(event, author) if event else message.text,
            created_at=message.created_at,
            client_id=message.client_id,
            act=message.act,
            version=message.version,
            sources=[SourceOut(id=source, title=_title(source, domain)) for source in message.sources],
            quick_replies=list(message.quick_replies),
            stop_reason=message.stop_reason,
            can_vote=can_vote(message),
            can_retry=can_retry(message),
            ask_rating=message.ask_rating,
            author=author,
            event=event,
        )


def can_vote(message: Message) -> bool:
    """Whether a person may put a thumb on it."""
    return message.role == "bot" and bool(message.decision_id)


def can_retry(message: Message) -> bool:
    """Whether another act may take its place: one that only says something. What an action did, it did."""
    return can_vote(message) and bool(message.act) and Act.parse(message.act).kind in _ONLY_WORDS


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


def newest_value(signals: Iterable[Signal], kind: SignalKind, person_id: str) -> float | None:
    """The value of a person's newest signal of this kind on the whole conversation; None where there is none."""
    own = [
        signal for signal in signals if signal.kind is kind and signal.author == person_id and not signal.decision_id
    ]
    return max(own, key=lambda signal: signal.seq).value if own else None


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
    position: int | None = None
    """Place in the queue of those who wait for a person, from 1."""
    solved: bool | None = None
    """What the person last said of it."""
    csat: int | None = None
    """The person's last rating of the whole chat, 1 to 5."""
    operator: str | None = None
    """While a person speaks: who."""
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
    """While waiting for a person: 1 is next."""
    operator: str | None = None
    """While a person speaks: who, where their name may be shown."""

    @classmethod
    def of(cls, status: str, standing: Standing, shown_name: ShownName = public_name) -> StatusOut:
        """Who speaks now."""
        return cls(status=status, position=standing.position or None, operator=shown_name(standing.operator) or None)


class OutcomeOut(_FromServer):
    """What the person last said of the whole conversation."""

    type: Literal["outcome"] = "outcome"
    solved: bool | None = None
    csat: int | None = None

    @classmethod
    def of(cls, signals: Iterable[Signal], person_id: str) -> OutcomeOut:
        """By the person's newest signals."""
        said = list(signals)
        solved = newest_value(said, SignalKind.OUTCOME, person_id)
        csat = newest_value(said, SignalKind.CSAT, person_id)
        return cls(solved=None if solved is None else solved > 0, csat=None if csat is None else int(csat))


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
    | OutcomeOut
    | VersionOut
    | ErrorOut
    | PongOut
)
FRAMES: tuple[type[BaseModel], ...] = (*get_args(ClientFrame), *get_args(ServerFrame))
"""Every frame, for documentation."""


def encode(frame: ServerFrame) -> str:
    """JSON text of a frame; fields that do not apply are left out, except hello's `partial`."""
    return frame.model_dump_json(exclude_none=not isinstance(frame, HelloOut))

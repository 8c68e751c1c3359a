"""The vocabulary of the loop: acts, states, decisions, signals, rewards.

Owns the frozen records that travel from the browser to the learner. Knows nothing of databases,
models or the web (stdlib only), so every other module may import it.

A message: `State` -> `LegalAct`s -> one chosen act -> `Decision` (a row).
A reward:  `Signal`s about a decision -> reward rules -> `Reward` (a row) -> the learner.

Times are epoch seconds. Log-probabilities are natural logarithms.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any

BASE_VERSION = "v000000"
"""The version of a fresh install: no adapter, the policy is exactly its retriever."""


def digest(*parts: str) -> str:
    """A short stable content hash (16 hex digits) of the parts, in order."""
    joined = "\x1f".join(parts).encode()
    return hashlib.sha256(joined).hexdigest()[:16]


@lru_cache(maxsize=65536)
def _digest_of(texts: tuple[str, ...]) -> str:
    """The same few hundred tuples are asked for at every reply."""
    return digest(*texts)


class ActKind(StrEnum):
    """What the bot can do in one step (DESIGN section 2)."""

    ANSWER = "answer"
    """Show an article's approved answer; target: article id."""
    RESPOND = "respond"
    """Say a response of the domain; target: `utter_x`, variant: which wording."""
    RUN = "run"
    """Run a rasa-sdk action; target: action name."""
    ASK = "ask"
    """Ask for a slot; target: slot name."""
    CLARIFY = "clarify"
    """Offer two articles; target: `first|second`."""
    HANDOFF = "handoff"
    """Offer a person."""
    SAY = "say"
    """Free text by the language model; legal only where the domain allows it."""


@dataclass(frozen=True, slots=True)
class Act:
    """A dialogue act. Its `id` is how it is stored, shown and counted."""

    kind: ActKind
    target: str = ""
    variant: int = 0

    @property
    def id(self) -> str:
        """`answer:card_arrival`, `respond:utter_greet#1`, `clarify:a|b`, `handoff`."""
        tail = f":{self.target}" if self.target else ""
        return f"{self.kind.value}{tail}" + (f"#{self.variant}" if self.variant else "")

    @classmethod
    def parse(cls, act_id: str) -> Act:
        """The inverse of `id`. Raises ValueError on an unknown kind or a bad variant."""
        body, _, variant = act_id.partition("#")
        kind, _, target = body.partition(":")
        return cls(ActKind(kind), target, int(variant or 0))


@dataclass(frozen=True, slots=True)
class LegalAct:
    """An act allowed in this state, with what the policy needs to score it.

    `texts` are embedded (their normalised mean is the act's embedding); no texts means that the act's
    score is its `prior_logit` alone. `prior_logit` is the part of the score that no gradient reaches.
    """

    act: str
    texts: tuple[str, ...] = ()
    prior_logit: float = 0.0

    @property
    def text_digest(self) -> str:
        """Content address of `texts`: what the store keeps once and rows point to."""
        return _digest_of(self.texts)


@dataclass(frozen=True, slots=True)
class Turn:
    """One line of the conversation as the policy may see it."""

    role: str
    """`user`, `bot` or `operator`."""
    text: str
    act: str = ""
    """The bot's act id; empty for people."""


@dataclass(frozen=True, slots=True)
class State:
    """What the policy sees before it acts. The last turn is the user's."""

    conversation_id: str
    turns: tuple[Turn, ...]
    slots: dict[str, Any] = field(default_factory=dict)
    active_form: str = ""
    requested_slot: str = ""


@dataclass(frozen=True, slots=True)
class Generated:
    """Text the causal LM wrote: exactly what was sampled, under the distribution sampled from."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    """Includes the end token when the model chose to stop."""
    logprobs: tuple[float, ...]
    """One per token: after temperature and after the grounding mask."""
    temperature: float
    sources: tuple[str, ...]
    """The texts whose digits, links and amounts the reply may carry."""
    text: str
    stop_reason: str
    """`stop`, `length`, `repetition`, `deadline` or `cancelled`."""
    dtype: str = "float32"
    """The arithmetic it was written in: how far the log-probabilities may be from those of fp32 (`TEXT_ROUNDING`)."""


TEXT_ROUNDING: Mapping[str, float] = {"float32": 0.0, "bfloat16": 0.5}
"""Nats by which a token's log-probability may differ from fp32's for the arithmetic alone. Seen in bfloat16, SmolLM2-135M
at temperature 0.7: 0.03 on average, 0.2 at most."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One choice, with everything the learner needs and nothing it has to guess.

    `logprobs[i]` belongs to `legal[i]`; together they are the whole behaviour distribution, so
    propensity, entropy and KL are exact. Re-scoring with `version` gives the same numbers
    (DESIGN section 6, invariant 1).
    """

    id: str
    conversation_id: str
    person_id: str
    turn: int
    created_at: float
    query: str
    """The rendered state the encoder read."""
    query_ids: tuple[int, ...]
    """Its token ids, as encoded when the choice was made."""
    prompt: str
    """The rendered state the causal part read; empty when it was off."""
    legal: tuple[LegalAct, ...]
    logprobs: tuple[float, ...]
    chosen: int
    """Index into `legal`."""
    mode: int
    """Index of the most probable legal act."""
    value: float
    """V(state) by the version's value head; 0.0 for the base version."""
    version: str
    parts: tuple[str, ...]
    """Which parts of the policy were on: `encoder`, `causal`."""
    temperature: float
    knowledge_revision: str
    generated: Generated | None = None
    train_ok: bool = True
    holdout: bool = False
    """True for the 15 % of conversations that only the gate may see."""
    timings_ms: dict[str, float] = field(default_factory=dict)

    @property
    def act(self) -> str:
        """The chosen act's id."""
        return self.legal[self.chosen].act

    @property
    def logprob(self) -> float:
        """log pi(act | state) of the chosen act under the behaviour policy."""
        return self.logprobs[self.chosen]


class SignalKind(StrEnum):
    """What can happen to a reply or a conversation."""

    THUMB = "thumb"
    """value +1 up, -1 down, 0 withdrawn; label: reason chips joined by `|`; comment."""
    OUTCOME = "outcome"
    """value 1 solved, 0 not solved; from the person or from a back office."""
    CSAT = "csat"
    """value 1..5."""
    HANDOVER = "handover"
    """The user asked for a person."""
    REPHRASE = "rephrase"
    """The user asked nearly the same thing again; value: similarity."""
    RETRY = "retry"
    ABANDON = "abandon"
    RATING = "rating"
    """An operator's rating, -1..1."""
    CORRECTION = "correction"
    """An operator's right act (label: act id) or text (comment)."""


def is_operator(person: str) -> bool:
    """Whether a `person_id` or author is one of the staff."""
    return person.startswith("operator:")


def public_name(name: str) -> str:
    """A name of the staff as end users may read it: empty for an e-mail address, which is nobody's but its owner's."""
    return "" if "@" in name else name


@dataclass(frozen=True, slots=True)
class Signal:
    """Something that happened. Append-only: changing or withdrawing is a new row.

    The newest row of one (kind, decision or conversation, author) is the one in force.
    """

    key: str
    """Idempotency key chosen by the sender, unique per author. Same key twice is one row."""
    conversation_id: str
    kind: SignalKind
    value: float
    author: str
    """person_id of the voter, or `operator:NAME`, or `system`."""
    created_at: float
    decision_id: str = ""
    """Empty when the signal speaks of the whole conversation."""
    source: str = "user"
    """`user`, `operator`, `system` or `backoffice`."""
    label: str = ""
    comment: str = ""
    seq: int = 0
    """Position in the store; 0 until stored."""

    def body_digest(self) -> str:
        """Hash of what the sender said, to tell a retry from a conflict."""
        said = [self.conversation_id, self.kind, self.value, self.decision_id, self.source, self.label, self.comment]
        return digest(json.dumps(said))


@dataclass(frozen=True, slots=True)
class RewardTerm:
    """One rule's share of a reward."""

    rule: str
    value: float
    signal_seq: int


@dataclass(frozen=True, slots=True)
class Reward:
    """What the rules make of the signals about one decision. A change is a new revision.

    `value` None withdraws the reward: the decision is unrated again (masked, never 0).
    `scope` `reply` is credited to that decision alone; `conversation` travels back by GAE.
    """

    decision_id: str
    conversation_id: str
    revision: int
    value: float | None
    scope: str
    terms: tuple[RewardTerm, ...]
    rules_hash: str
    settled_at: float
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """One line of a transcript as stored and shown."""

    id: str
    conversation_id: str
    seq: int
    """Counts the conversation's messages from 1."""
    role: str
    text: str
    created_at: float
    client_id: str = ""
    """The browser's own id of a user message: the same id twice is one message."""
    decision_id: str = ""
    act: str = ""
    version: str = ""
    sources: tuple[str, ...] = ()
    """Article ids the reply rests on."""
    quick_replies: tuple[str, ...] = ()
    stop_reason: str = ""
    ask_rating: bool = False
    """Whether the person is asked to rate it (`bot.policy.asking`)."""
    author: str = ""
    """`operator:NAME` of an operator's message; empty for everybody else's."""


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a reply on its way to the browser; `index` counts from 0."""

    message_id: str
    index: int
    text: str
    version: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat. `status`: `bot`, `waiting` (for a person), `person`, `resolved`."""

    id: str
    person_id: str
    created_at: float
    domain: str
    reply_mode: str = "approved"
    """`approved` or `generated`."""
    learn_ok: bool = True
    status: str = "bot"


@dataclass(frozen=True, slots=True)
class Standing:
    """How a conversation stands with customer service."""

    operator: str = ""
    """Who of the staff speaks, by name; empty: the bot does."""
    position: int = 0
    """In the queue of those who wait for a person, from 1; 0: not in it."""


def is_holdout(conversation_id: str, key: bytes, share: float = 0.15) -> bool:
    """Whether a conversation belongs to the gate: a keyed hash of its id.

    People know the id, but not the key (`bot.identity.holdout_key`), so nobody can tell whether a vote would teach or
    judge. The server alone computes it; everybody else reads the Decision's `holdout`.
    """
    bucket = int(hmac.new(key, conversation_id.encode(), hashlib.sha256).hexdigest()[:8], 16)
    return bucket < share * 0x100000000

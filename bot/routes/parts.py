"""What the routes are given: the parts the composition root connects, and what one app makes of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from bot.domain import Domain
from bot.feedback.store import Store
from bot.hub import Hub, Replier
from bot.identity import Identity, IdSource
from bot.jobs import Jobs
from bot.knowledge.library import Library
from bot.limits import Places, TokenBuckets
from bot.metrics import EngineCounts, Metrics
from bot.oidc import Provider
from bot.policy.types import Policy
from bot.presence import Presence
from bot.settings import Settings, secret_of
from bot.staff import Staff
from bot.teaching import Teacher
from bot.tracing import Span, no_span

if TYPE_CHECKING:
    from bot.routes.versions import Versions

LOGINS_PER_MIN = 10.0
"""Attempts to sign in from one address; of passwords and keys only the wrong ones."""


@dataclass(frozen=True, slots=True)
class AppParts:
    """Everything the service needs, built by the composition root."""

    settings: Settings
    store: Store
    replier: Replier
    policy: Policy
    versions: Versions
    domain: Domain
    identity: Identity
    ids: IdSource
    teacher: Teacher
    clock: Callable[[], float] = time.time
    """Epoch seconds: what is written into rows and cookies."""
    monotonic: Callable[[], float] = time.monotonic
    """What durations and rate limits are measured with."""
    engine_counts: Callable[[], EngineCounts] = dict
    """What the engine counts by itself, under the names of `bot.metrics`."""
    span: Span = no_span
    library: Library | None = None
    """The articles, for editing; None where the server was given a domain that stays as it is."""


LearnerHealth = Literal["ok", "stale", "stopped"]
"""Its heart beats; it was not heard of for a while; it was given up, or none has ever run here."""


@dataclass(slots=True)
class Readiness:
    """The last answer of the readiness check, kept for a moment so that probes cost nothing."""

    checked_at: float = float("-inf")
    problem: str = "not checked yet"
    learner: LearnerHealth = "stopped"
    """Says nothing about being ready: chat does without."""


@dataclass(slots=True)
class Service:
    """One running app: its parts and its own state."""

    parts: AppParts
    hub: Hub
    metrics: Metrics
    messages: TokenBuckets
    address_messages: TokenBuckets
    sockets: Places
    feedback: TokenBuckets
    conversations: TokenBuckets
    logins: TokenBuckets
    answers: TokenBuckets
    """Of the sign-in provider: counted apart, so that one sign-in takes one of `logins`."""
    jobs: Jobs
    staff: Staff
    provider: Provider | None = None
    """Whom the staff may sign in with, too."""
    presence: Presence = field(default_factory=Presence)
    num_sockets: int = 0
    rows_counted_at: float = float("-inf")
    ready: Readiness = field(default_factory=Readiness)

    @classmethod
    def of(cls, parts: AppParts) -> Service:
        """Fresh state around the parts."""
        limits, metrics = parts.settings.limits, Metrics(parts.engine_counts)
        staff = Staff(parts.store.desk)
        messages = TokenBuckets("messages", limits.messages_per_min, parts.monotonic, limits.messages_at_once)
        address_messages = TokenBuckets(
            "messages from your network",
            limits.address_messages_per_min,
            parts.monotonic,
            limits.address_messages_at_once,
        )
        hub = Hub(
            store=parts.store,
            replier=parts.replier,
            domain=parts.domain,
            limits=limits,
            metrics=metrics,
            clock=parts.monotonic,
            span=parts.span,
            shown_name=staff.shown_name,
            is_hasty=lambda person_id, address: messages.is_hasty(person_id) or address_messages.is_hasty(address),
        )
        return cls(
            parts=parts,
            hub=hub,
            metrics=metrics,
            messages=messages,
            address_messages=address_messages,
            sockets=Places("open chats from your network", limits.address_sockets),
            feedback=TokenBuckets("feedback", limits.feedback_per_min, parts.monotonic),
            conversations=TokenBuckets("new conversations", limits.conversations_per_min, parts.monotonic),
            logins=TokenBuckets("sign-ins", LOGINS_PER_MIN, parts.monotonic),
            answers=TokenBuckets("sign-ins", LOGINS_PER_MIN, parts.monotonic),
            staff=staff,
            provider=_provider(parts),
            jobs=Jobs(parts.clock),
        )


def _provider(parts: AppParts) -> Provider | None:
    oidc = parts.settings.oidc
    if not oidc.is_on:
        return None
    return Provider(
        oidc, parts.settings.public_url, secret=secret_of(oidc), clock=parts.clock, monotonic=parts.monotonic
    )

"""Rollout: a share of conversations gets a candidate beside the champion, until what people say decides.

    gate passed -> canary pointer -> each conversation goes one way (keyed hash) -> tallies -> promoted or withdrawn

The rule (`decide`), with both versions serving at the same time:

1. *withdrawn* as soon as the candidate is significantly worse: the 95 % confidence sequence of the difference in thumbs
   (share up, averaged over conversations) or in success (share of conversations solved) lies below 0;
2. otherwise *promoted* when it has spoken in `rollout.min_conversations` conversations and was compared with the champion;
3. *withdrawn* when so few people said anything that it could not be compared in `PATIENCE` times as many.

One that cannot be loaded, or whose words turn out not to be what was trained, is withdrawn at once, for that reason; from the
reply that found it on, everybody gets the champion.

While learning is frozen nothing is promoted.

The sequence is valid at every look (asymptotic confidence sequence, arXiv 2103.06476): looking at each new thumb makes a
false alarm no likelier. Owns the road of a canary; knows nothing of models, sockets or how versions are made.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import math
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Literal, Protocol

from bot.errors import NotFound, RejoinderError
from bot.feedback.store import Store, Tally
from bot.policy.adapters import ROLLOUT as BY
from bot.policy.adapters import Canary, Champion
from bot.policy.types import Policy
from bot.settings import RolloutSettings

log = logging.getLogger(__name__)

ALPHA = 0.05
RHO_SQUARED = 0.022
"""Makes the sequence tightest at about 400 conversations: (-2 ln a + ln(-2 ln a) + 1) / 400."""
MIN_RATED = 30
"""Conversations of each version before a difference is looked at: the sequence is asymptotic."""
PATIENCE = 5
"""Times `rollout.min_conversations`: how long a candidate of whom nobody says anything stays one."""


class Canaries(Protocol):
    """The folder of versions, as a rollout uses it."""

    def canary(self) -> Canary | None:
        """The candidate, if there is one."""

    def champion(self) -> Champion:
        """Who serves everybody else."""

    @property
    def frozen(self) -> bool:
        """Whether an operator stopped publishing."""

    def withdraw(self, reason: str, by: str = "operator") -> Canary:
        """The champion serves alone again."""

    def promote(self, version: str, reason: str, by: str = "operator") -> Champion:
        """Make a version the champion."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A mean of `n` numbers in 0..1, and their variance."""

    n: int
    mean: float
    variance: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a canary now, and why."""

    what: Literal["wait", "promote", "withdraw"]
    reason: str


# --- the rule ---------------------------------------------------------------------------------------------------------
def thumbs(tally: Tally) -> Rate:
    """Share of thumbs up, averaged over rated conversations."""
    return _rate(tally.rated, tally.up, tally.up_squares)


def success(tally: Tally) -> Rate:
    """Share of conversations solved, of those of which it is known."""
    return _rate(tally.outcomes, tally.solved, tally.solved)


def _rate(n: int, total: float, squares: float) -> Rate:
    mean = total / n if n else 0.0
    return Rate(n, mean, max(0.0, squares / n - mean * mean) if n else 0.0)


def half_width(n: int, variance_of_mean: float) -> float:
    """Of the 1 - ALPHA confidence sequence around a mean whose variance (of the mean) is known, after `n` numbers."""
    scaled = n * RHO_SQUARED
    return math.sqrt(variance_of_mean * 2 * (scaled + 1) / scaled * math.log(math.sqrt(scaled + 1) / ALPHA))


def interval(rate: Rate) -> tuple[float, float] | None:
    """Around one version's rate; None before there is any."""
    if not rate.n:
        return None
    half = half_width(rate.n, _smoothed(rate))
    return max(0.0, rate.mean - half), min(1.0, rate.mean + half)


def difference(candidate: Rate, champion: Rate) -> tuple[float, float] | None:
    """Around candidate - champion; None while there is too little of either."""
    if min(candidate.n, champion.n) < MIN_RATED:
        return None
    middle = candidate.mean - champion.mean
    half = half_width(candidate.n + champion.n, _smoothed(candidate) + _smoothed(champion))
    return middle - half, middle + half


def _smoothed(rate: Rate) -> float:
    """Variance of the mean, as if one more number had been as far off as numbers in 0..1 can be on average."""
    return (rate.n * rate.variance + 0.25) / (rate.n + 1) / rate.n


def decide(candidate: Tally, champion: Tally, min_conversations: int) -> Verdict:
    """See the module's rule."""
    compared = False
    for name, rate_of in (("thumbs up", thumbs), ("solved", success)):
        ours, theirs = rate_of(candidate), rate_of(champion)
        ends = difference(ours, theirs)
        compared |= ends is not None
        if ends is not None and ends[1] < 0:
            points = f"95 % interval {100 * ends[0]:+.1f} to {100 * ends[1]:+.1f} points"
            reason = f"{name}: {ours.mean:.0%} of {ours.n} against {theirs.mean:.0%} of {theirs.n}, {points}"
            return Verdict("withdraw", reason)
    if candidate.conversations < min_conversations:
        return Verdict("wait", f"{candidate.conversations} of {min_conversations} conversations")
    if not compared:
        return _uncompared(candidate, champion, PATIENCE * min_conversations)
    return Verdict("promote", f"not worse in {candidate.conversations} conversations")


def _uncompared(candidate: Tally, champion: Tally, limit: int) -> Verdict:
    said = (
        f"expected {MIN_RATED} rated conversations of each, got {candidate.rated} and {champion.rated} of the champion"
    )
    return Verdict("wait" if candidate.conversations < limit else "withdraw", f"never compared: {said}")


def is_chosen(conversation_id: str, version: str, key: bytes, share: float) -> bool:
    """Whether a conversation is among those that get a candidate: always the same answer, and nobody can foresee it."""
    said = f"canary\x1f{version}\x1f{conversation_id}".encode()
    return int(hmac.new(key, said, hashlib.sha256).hexdigest()[:8], 16) < share * 0x100000000


# --- the road ---------------------------------------------------------------------------------------------------------
class Rollout:
    """Follows the canary pointer of a home. A candidate stays leased, thus loaded, while it is one."""

    def __init__(self, policy: Policy, versions: Canaries, store: Store, settings: RolloutSettings, key: bytes) -> None:
        self._policy = policy
        self._versions = versions
        self._store = store
        self._settings = settings
        self._key = key
        self._canary: Canary | None = None
        self._held = AsyncExitStack()

    def version_for(self, conversation_id: str) -> str | None:
        """The candidate for its share of conversations; None: the champion."""
        canary = self._canary
        if canary is None or self._policy.fault(canary.version):
            return None
        if not is_chosen(conversation_id, canary.version, self._key, canary.share):
            return None
        return canary.version

    async def run(self) -> None:
        """Follow and judge until cancelled."""
        try:
            while True:
                try:
                    await self.step()
                except (RejoinderError, OSError) as error:
                    log.warning("canary: %s", error)
                except Exception:  # the learner waits for this task's verdict: it must not end
                    log.exception("canary: this look at it failed")
                await asyncio.sleep(self._settings.poll_s)
        finally:
            self._canary = None
            await self._held.aclose()

    async def step(self) -> None:
        """Take up a new canary, let go of an old one, and judge the one there is."""
        canary = await asyncio.to_thread(self._versions.canary)
        if canary != self._canary:
            await self._follow(canary)
        fault = self._policy.fault(self._canary.version) if self._canary is not None else ""
        if self._canary is not None and fault:
            await self._give_up(self._canary, f"it is not what was trained: {fault}")
        elif self._canary is not None:
            await asyncio.to_thread(self._judge, self._canary)

    async def _follow(self, canary: Canary | None) -> None:
        self._canary = None
        await self._held.aclose()
        if canary is None:
            return
        try:
            await self._held.enter_async_context(self._policy.lease(canary.version))
        except Exception as error:  # whatever a model can raise while it is loaded
            log.warning("canary %s: withdrawn", canary.version, exc_info=error)
            await asyncio.to_thread(self._withdraw, canary, f"it could not be loaded: {error}")
            return
        self._canary = canary
        log.info("canary %s for %.0f %% of conversations", canary.version, 100 * canary.share)

    async def _give_up(self, canary: Canary, reason: str) -> None:
        """Withdraw and let go: the version is freed, and what was known against it forgotten with it."""
        log.warning("canary %s: withdrawn: %s", canary.version, reason)
        await asyncio.to_thread(self._withdraw, canary, reason)
        self._canary = None
        await self._held.aclose()

    def _withdraw(self, canary: Canary, reason: str) -> None:
        """Unless somebody was faster."""
        if self._versions.canary() == canary:
            with suppress(NotFound):
                self._versions.withdraw(reason, BY)

    def _judge(self, canary: Canary) -> None:
        verdict = verdict_on(canary, self._versions.champion().version, self._store, self._settings)[0]
        # An operator who acted meanwhile has the last word.
        waits = verdict.what == "wait" or (verdict.what == "promote" and self._versions.frozen)
        if waits or self._versions.canary() != canary:
            return
        log.info("canary %s: %s (%s)", canary.version, verdict.what, verdict.reason)
        if verdict.what == "promote":
            self._versions.promote(canary.version, verdict.reason, BY)
        else:
            self._withdraw(canary, verdict.reason)


def verdict_on(canary: Canary, champion: str, store: Store, settings: RolloutSettings) -> tuple[Verdict, Tally, Tally]:
    """The verdict now, and the tallies of candidate and champion since the canary began."""
    tallies = store.tallies(canary.version, champion, canary.since)
    candidate, other = tallies[canary.version], tallies[champion]
    return decide(candidate, other, settings.min_conversations), candidate, other

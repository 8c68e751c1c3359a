"""Settling: when signals have had their time to change, turn them into reward revisions.

The rewards at a cursor are a function of the signals up to it, and they are appended in one transaction with the cursor.
So settling twice adds nothing, and being killed at any point loses and doubles nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bot.conversation import Reward, Signal
from bot.feedback.rewards import Credit, rewards_for, slot
from bot.feedback.rules import Rules
from bot.feedback.store import Store

PAGE = 1000
"""Signals settled in one transaction at most."""

RULES_STATUS = "rules"
"""Status record that remembers which rules were applied last."""


def settle(store: Store, rules: Rules, now: float, settle_s: float) -> int:
    """Turn signals older than the settling delay into reward revisions; returns how many were appended.

    The delay is the rules' own `settle_s` where they have one. A signal changed before it settled never becomes a
    reward. Raises ConflictError when another process settled further meanwhile: call again.
    """
    num_appended, settled = 0, store.settled_seq()
    delay_s = _delay_s(rules, settle_s)
    while True:
        ids, upto = store.conversations_to_settle(settled, now - delay_s, PAGE)
        if upto == settled:
            return num_appended
        changed = _changed(store, rules, now, ids, _Settled(upto, delay_s))
        store.put_rewards(changed, upto)
        num_appended, settled = num_appended + len(changed), upto


def resettle_all(store: Store, rules: Rules, now: float, settle_s: float) -> int:
    """Recompute every reward under `rules` from the signals settled so far; returns how many revisions were appended
    (one where the value or a rule's share differs). The cursor stays. Safe to run again after a crash."""
    num_appended, after, settled = 0, 0, store.settled_seq()
    counted = _Settled(settled, _delay_s(rules, settle_s))
    while after < settled:
        ids, after = store.conversations_to_settle(after, math.inf, PAGE)
        changed = _changed(store, rules, now, ids, counted)
        store.put_rewards(changed, settled)
        num_appended += len(changed)
    return num_appended


def apply_rules(store: Store, rules: Rules, now: float, settle_s: float) -> int:
    """`resettle_all` if `rules` are not the ones applied last; call it at start and when the rules file changes."""
    applied = {"rules_hash": rules.rules_hash}
    if store.status(RULES_STATUS) == applied:
        return 0
    num_appended = resettle_all(store, rules, now, settle_s)
    store.put_status(RULES_STATUS, applied)
    return num_appended


def _delay_s(rules: Rules, settle_s: float) -> float:
    return settle_s if rules.settle_s is None else rules.settle_s


@dataclass(frozen=True, slots=True)
class _Settled:
    """Which signals count: those up to seq `upto`, but none that a younger one replaced before it settled."""

    upto: int
    delay_s: float

    def among(self, signals: Sequence[Signal]) -> list[Signal]:
        young = [signal for signal in signals if signal.seq > self.upto]
        return [s for s in signals if s.seq <= self.upto and not any(self._in_time(s, newer) for newer in young)]

    def _in_time(self, signal: Signal, newer: Signal) -> bool:
        return slot(signal) == slot(newer) and newer.created_at - signal.created_at < self.delay_s


def _changed(store: Store, rules: Rules, now: float, ids: Iterable[str], settled: _Settled) -> list[Reward]:
    changed: list[Reward] = []
    for conversation_id in ids:
        signals = settled.among(store.signals(conversation_id))
        earned = rewards_for(store.conversation_decisions(conversation_id), signals, rules)
        changed += revisions(conversation_id, store.rewards_of(conversation_id), earned, rules, now)
    return changed


def revisions(
    conversation_id: str, stored: Sequence[Reward], earned: Sequence[Credit], rules: Rules, now: float
) -> list[Reward]:
    """The revisions that bring what is `stored` (every revision, oldest first) to what was `earned`.

    Only a changed value or rule's share makes one: the same thumb pressed again is not news to the learner.
    """
    last = {(reward.decision_id, reward.scope): reward for reward in sorted(stored, key=lambda r: r.revision)}
    kept = {(credit.decision_id, credit.scope) for credit in earned}
    gone = [Credit(*key, None, ()) for key, reward in last.items() if key not in kept and reward.value is not None]
    return [
        Reward(
            decision_id=credit.decision_id,
            conversation_id=conversation_id,
            revision=before.revision + 1 if before else 1,
            value=credit.value,
            scope=credit.scope,
            terms=credit.terms,
            rules_hash=rules.rules_hash,
            settled_at=now,
        )
        for credit in (*earned, *gone)
        if _says_more(credit, before := last.get((credit.decision_id, credit.scope)))
    ]


def _says_more(credit: Credit, before: Reward | None) -> bool:
    if before is None:
        return True
    shares = [(term.rule, term.value) for term in credit.terms]
    return credit.value != before.value or shares != [(term.rule, term.value) for term in before.terms]

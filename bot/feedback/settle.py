"""Settling: when signals have had their time to change, turn them into reward revisions.

The rewards at a cursor are a function of the signals up to it, and they are appended in one transaction with the cursor.
So settling twice adds nothing, and being killed at any point loses and doubles nothing.

Which rules: the domain's file, unless a version was applied since (`rules_in_force`). When they change, every reward is
computed anew; what comes out different is a new revision, and the old ones stay. Rules with a delay of their own have
cursors of their own behind the first; a conversation is computed again when one of them passes it.
"""

from __future__ import annotations

import fcntl
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from bot.conversation import Decision, Reward, Signal
from bot.feedback.measures import Facts, approved_text, shown_texts
from bot.feedback.rewards import Credit, earn, slot
from bot.feedback.rules import Rules, parse_rules
from bot.feedback.rules_checks import TEXT_NAMES
from bot.feedback.scorers import Scorers
from bot.feedback.store import RulesVersion, Store

log = logging.getLogger(__name__)

PAGE = 1000
"""Signals settled in one transaction at most."""

RULES_STATUS = "rules"
"""Status record that remembers which rules were applied last."""
DELAYS_STATUS = "rules_delays"
"""Status record: delay in seconds -> signal seq up to which rules of that delay have heard."""

_EVERYBODY: Mapping[str, float] = {}
"""Full trust in each author."""


def settle(store: Store, rules: Rules, now: float, settle_s: float, *, trust: Mapping[str, float] = _EVERYBODY) -> int:
    """Turn signals older than the settling delay into reward revisions; returns how many were appended.

    `rules` are the domain's; a version applied since is used in their place. The delay is the rules' own `settle_s` where
    they have one. `trust` (author -> 0..1, 1 where absent) is for rules that weigh by it. A signal changed before it
    settled never becomes a reward. Raises ConflictError when another process settled further meanwhile: call again.
    """
    rules = rules_in_force(store, rules)
    num_appended = apply_rules(store, rules, now, settle_s, trust=trust)
    with closing(_Work(store, rules, now, settle_s, trust)) as work:
        return num_appended + work.settle() + work.settle_delayed()


def resettle_all(
    store: Store, rules: Rules, now: float, settle_s: float, *, trust: Mapping[str, float] = _EVERYBODY
) -> int:
    """Recompute every reward under exactly `rules` from the signals settled so far; returns how many revisions were
    appended (one where the value or a rule's share differs). The cursor stays. Safe to run again after a crash."""
    with closing(_Work(store, rules, now, settle_s, trust)) as work:
        return work.resettle()


def apply_rules(
    store: Store, rules: Rules, now: float, settle_s: float, *, trust: Mapping[str, float] = _EVERYBODY
) -> int:
    """`resettle_all` under the rules in force, if they are not the ones applied last; call it at start and when the
    rules file changes."""
    rules = rules_in_force(store, rules)
    if store.status(RULES_STATUS) == _applied(rules):
        return 0
    num_appended = resettle_all(store, rules, now, settle_s, trust=trust)
    store.put_status(RULES_STATUS, _applied(rules))
    return num_appended


def rules_in_force(store: Store, file_rules: Rules) -> Rules:
    """The version applied last, as long as the domain's own file says what it said then; otherwise the file's."""
    version = version_in_force(store, file_rules)
    return _parsed(version.text, f"rules version {version.number}", file_rules.folder) if version else file_rules


def version_in_force(store: Store, file_rules: Rules) -> RulesVersion | None:
    """None where the domain's own file is in force."""
    newest = next(iter(store.rules_versions(1)), None)
    if newest is None or newest.file_hash != file_rules.rules_hash or newest.rules_hash == file_rules.rules_hash:
        return None
    return newest


def are_rewards_current(store: Store, rules: Rules) -> bool:
    """Whether every stored reward was computed under `rules`, or none was yet."""
    applied = store.status(RULES_STATUS)
    return applied == _applied(rules) or (applied is None and store.last_reward_seq() == 0)


def _applied(rules: Rules) -> dict[str, str]:
    return {"rules_hash": rules.rules_hash}


@contextmanager
def only_settler(store: Store) -> Iterator[bool]:
    """Whether no other process computes rewards here; then none will meanwhile. Nobody waits: who is not the only one
    leaves it to the other. Two at once could append a reward that an older signal speaks for above a newer one."""
    with store.path.with_name("rewards.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def put_in_force(store: Store, text: str, file_rules: Rules, *, author: str, reason: str, now: float) -> RulesVersion:
    """Store `text` as the newest rules version; rewards follow with the next settling. Raises RulesError."""
    rules = _parsed(text, "rules", file_rules.folder)
    version = RulesVersion(now, author, reason, text, rules.rules_hash, file_rules.rules_hash)
    return replace(version, number=store.add_rules_version(version))


@lru_cache(maxsize=8)
def _parsed(text: str, source: str, folder: str) -> Rules:
    return parse_rules(text, source, Path(folder) if folder else None)


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


@dataclass(slots=True)
class _Work:
    """One settling: the rules, the time, the cursors, and the scorers' processes."""

    store: Store
    rules: Rules
    now: float
    settle_s: float
    trust: Mapping[str, float]
    scorers: Scorers = field(init=False)
    said: set[str] = field(default_factory=set)
    """Failures that were logged."""

    def __post_init__(self) -> None:
        self.scorers = Scorers(self.rules)

    def close(self) -> None:
        self.scorers.close()

    @property
    def delay_s(self) -> float:
        return self.settle_s if self.rules.settle_s is None else self.rules.settle_s

    def settle(self) -> int:
        num_appended, settled = 0, self.store.settled_seq()
        while True:
            ids, upto = self.store.conversations_to_settle(settled, self.now - self.delay_s, PAGE)
            if upto == settled:
                return num_appended
            changed = self._changed(ids, upto, self._delayed())
            self.store.put_rewards(changed, upto)
            num_appended, settled = num_appended + len(changed), upto

    def settle_delayed(self) -> int:
        """The same for each delay. Its cursor follows in a write of its own: what is computed twice adds nothing."""
        num_appended, settled = 0, self.store.settled_seq()
        cursors = self._delayed()
        for delay_s in cursors:
            while True:
                before = cursors[delay_s].upto
                ids, upto = self.store.conversations_to_settle(before, self.now - delay_s, PAGE)
                upto = min(upto, settled)
                if upto <= before:
                    break
                cursors[delay_s] = _Settled(upto, delay_s)
                changed = self._changed(ids, settled, cursors)
                self.store.put_rewards(changed, settled)
                self._keep(cursors)
                num_appended += len(changed)
        return num_appended

    def resettle(self) -> int:
        num_appended, after, settled = 0, 0, self.store.settled_seq()
        delayed = {d: _Settled(self._reached(heard, settled), d) for d, heard in self._delayed().items()}
        while after < settled:
            ids, after = self.store.conversations_to_settle(after, math.inf, PAGE)
            changed = self._changed(ids, settled, delayed)
            self.store.put_rewards(changed, settled)
            num_appended += len(changed)
        if delayed:
            self._keep(delayed)
        return num_appended

    def _reached(self, heard: _Settled, settled: int) -> int:
        """How far rules of a delay may hear by now."""
        before, upto = heard.upto, -1
        while upto != before:
            before = max(before, upto)
            _, upto = self.store.conversations_to_settle(before, self.now - heard.delay_s, PAGE)
        return min(upto, settled)

    def _delayed(self) -> dict[float, _Settled]:
        """What rules of each delay have heard; a delay is never shorter than the file's."""
        kept = self.store.status(DELAYS_STATUS) or {} if len(self.rules.delays) > 1 else {}
        longer = [max(delay_s, self.delay_s) for delay_s in self.rules.delays[1:]]
        return {delay_s: _Settled(int(kept.get(str(delay_s), 0)), delay_s) for delay_s in longer}

    def _keep(self, cursors: Mapping[float, _Settled]) -> None:
        kept = {str(delay_s): settled.upto for delay_s, settled in cursors.items()}
        self.store.put_status(DELAYS_STATUS, (self.store.status(DELAYS_STATUS) or {}) | kept)

    def _changed(self, ids: Iterable[str], upto: int, delayed: Mapping[float, _Settled]) -> list[Reward]:
        changed: list[Reward] = []
        for conversation_id in ids:
            signals = self.store.signals(conversation_id)
            decisions = self.store.conversation_decisions(conversation_id)
            counted = _Settled(upto, self.delay_s).among(signals)
            old_enough = {d: delayed[max(d, self.delay_s)].among(signals) for d in self.rules.delays[1:]}
            earned = earn(decisions, counted, self.rules, self._facts(conversation_id, decisions), old_enough)
            self._say(earned.failures)
            stored = self.store.rewards_of(conversation_id)
            changed += revisions(conversation_id, stored, earned.credits, self.rules, self.now)
        return changed

    def _facts(self, conversation_id: str, decisions: Sequence[Decision]) -> Facts:
        if not self.rules.names & {*TEXT_NAMES, *self.rules.scorers}:
            return Facts(trust=self.trust)
        messages = self.store.messages(conversation_id)
        replies = shown_texts((message.decision_id, message.text) for message in messages if message.decision_id)
        texts = {d.id: approved_text(d.act, _sources(d), replies.get(d.id)) for d in decisions}
        return Facts(replies, {id_: text for id_, text in texts.items() if text}, self.trust, self.scorers)

    def _say(self, failures: Iterable[str]) -> None:
        for failure in failures:
            if failure not in self.said:
                self.said.add(failure)
                log.warning("a reward rule gave nothing: %s", failure)


def _sources(decision: Decision) -> tuple[str, ...] | None:
    return decision.generated.sources if decision.generated else None


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

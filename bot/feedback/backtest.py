"""Trying rules on history before they count: what they would have given, beside what the rules in force give.

`backtest` is a function of stored conversations, read one after another, and of two sets of rules. It writes nothing.
Whoever shows progress wraps the iterator; whoever has seen enough ends it, and gets the report of what was read.
All signals count as settled, so delays do not matter here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import fsum
from statistics import fmean

import numpy as np

from bot.conversation import SignalKind
from bot.feedback import text_metrics
from bot.feedback.backtest_report import (
    ACTS,
    Diff,
    Exposure,
    Floats,
    Report,
    Segment,
    Shift,
    Summary,
    auc,
    auc_interval,
    distribution,
    spearman,
)
from bot.feedback.measures import Facts, parsed
from bot.feedback.rewards import REPLY, Earned, earn, outcome_in_force
from bot.feedback.rules import Rules
from bot.feedback.scorers import Scorers
from bot.feedback.store import Past, Store

NUM_SHIFTS = 10
"""Conversations shown that gain, and that lose, most."""
TINY = 1e-9
"""Smaller differences are rounding."""
_BOUNDS = ("clip", "person_cap")
"""Terms that bound a whole and belong to no signal."""


def read_history(store: Store, page: int = 500) -> Iterator[Past]:
    """Every conversation, in the order they began."""
    after = 0
    while True:
        pasts, after = store.history(after, page)
        if not pasts:
            return
        yield from pasts


def backtest(pasts: Iterable[Past], rules: Rules, before: Rules, *, trust: Mapping[str, float] | None = None) -> Report:
    """What `rules` would have given for `pasts`, what `before` gives, and how they differ."""
    log = _Log()
    with Scorers(rules) as scorers, Scorers(before) as scorers_before:
        for past in pasts:
            seen = [
                (used, earn(past.steps, past.signals, used, Facts(past.replies, past.approved, trust or {}, own)))
                for used, own in ((rules, scorers), (before, scorers_before))
            ]
            log.add(past, *(earned for _, earned in seen))
    return log.report(rules, before)


@dataclass(slots=True)
class _Side:
    """What one set of rules gave, decision by decision; NaN: unrated."""

    rewards: list[float] = field(default_factory=list)
    replies: list[float] = field(default_factory=list)
    """Rewards of scope `reply` alone."""
    is_clipped: list[bool] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    """By conversation: mean reward, without what the outcome itself brought; NaN: nothing."""
    scores_with_outcome: list[float] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)
    """By conversation: sum of rewards."""
    num_terms: Counter[str] = field(default_factory=Counter)
    sum_terms: dict[str, float] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)

    def add(self, past: Past, earned: Earned) -> None:
        outcomes = {signal.seq for signal in past.signals if signal.kind == SignalKind.OUTCOME}
        whole: dict[str, float] = {}
        reply: dict[str, float] = {}
        clipped: set[str] = set()
        without = []
        for credit in earned.credits:
            value = credit.value or 0.0
            whole[credit.decision_id] = whole.get(credit.decision_id, 0.0) + value
            if credit.scope == REPLY:
                reply[credit.decision_id] = value
            own = [t.value for t in credit.terms if t.rule not in _BOUNDS and t.signal_seq not in outcomes]
            without += [fsum(own)] if own else []
            for term in credit.terms:
                self.num_terms[term.rule] += 1
                self.sum_terms[term.rule] = self.sum_terms.get(term.rule, 0.0) + term.value
                clipped |= {credit.decision_id} if term.rule == "clip" else set()
        self.rewards += [whole.get(step.id, np.nan) for step in past.steps]
        self.replies += [reply.get(step.id, np.nan) for step in past.steps]
        self.is_clipped += [step.id in clipped for step in past.steps]
        self.scores.append(fmean(without) if without else np.nan)
        self.scores_with_outcome.append(fmean(whole.values()) if whole else np.nan)
        self.totals.append(sum(whole.values()))
        self.failures.update(earned.failures)


@dataclass(slots=True)
class _Log:
    """Both sides, and what is the same for both."""

    after: _Side = field(default_factory=_Side)
    before: _Side = field(default_factory=_Side)
    ids: list[str] = field(default_factory=list)
    solved: list[float] = field(default_factory=list)
    """By conversation: 1, 0, or NaN where nobody said."""
    asked_for_person: int = 0
    acts: list[str] = field(default_factory=list)
    num_words: list[float] = field(default_factory=list)
    chat_of: list[int] = field(default_factory=list)
    """By decision: the place of its conversation."""
    segments: list[tuple[str, ...]] = field(default_factory=list)
    """By conversation."""
    known_people: set[str] = field(default_factory=set)

    def add(self, past: Past, after: Earned, before: Earned) -> None:
        self.after.add(past, after)
        self.before.add(past, before)
        self.chat_of += [len(self.ids)] * len(past.steps)
        self.ids.append(past.conversation.id)
        outcome = outcome_in_force(past.signals)
        self.solved.append(np.nan if outcome is None else float(outcome.value > 0))
        self.asked_for_person += any(s.kind == SignalKind.HANDOVER and s.value for s in past.signals)
        for step in past.steps:
            self.acts.append(parsed(step.act).kind.value)
            reply = past.replies.get(step.id)
            self.num_words.append(np.nan if reply is None else text_metrics.num_words(reply))
        self.segments.append(self._segments_of(past))

    def _segments_of(self, past: Past) -> tuple[str, ...]:
        person = past.conversation.person_id
        visit = "person: came back" if person in self.known_people else "person: first conversation"
        self.known_people.add(person)
        thumbs = {signal.value > 0 for signal in past.signals if signal.kind == SignalKind.THUMB and signal.value}
        voted = {0: "thumbs: none", 2: "thumbs: both"}.get(
            len(thumbs), f"thumbs: only {'up' if True in thumbs else 'down'}"
        )
        learns = "consent: may be learned from" if past.conversation.learn_ok else "consent: not learned from"
        return (visit, voted, f"replies: {past.conversation.reply_mode}", learns)

    def report(self, rules: Rules, before: Rules) -> Report:
        after_D, before_D = np.array(self.after.rewards, dtype=float), np.array(self.before.rewards, dtype=float)
        shifts = np.array(self.after.totals) - np.array(self.before.totals)
        order = np.argsort(shifts, kind="stable")
        return Report(
            rules_hash=rules.rules_hash,
            before_hash=before.rules_hash,
            num_conversations=len(self.ids),
            num_decisions=len(after_D),
            handover_rate=self.asked_for_person / max(1, len(self.ids)),
            after=self._summary(self.after),
            before=self._summary(self.before),
            diff=_diff(after_D, before_D),
            gained=tuple(self._shift(int(i)) for i in order[::-1][:NUM_SHIFTS] if shifts[i] > TINY),
            lost=tuple(self._shift(int(i)) for i in order[:NUM_SHIFTS] if shifts[i] < -TINY),
            segments=tuple(self._by_segment(after_D, before_D)),
            failures=dict(self.after.failures),
        )

    def _shift(self, i: int) -> Shift:
        return Shift(self.ids[i], self.before.totals[i], self.after.totals[i])

    def _summary(self, side: _Side) -> Summary:
        rewards_D = np.array(side.rewards, dtype=float)
        rated_D = ~np.isnan(rewards_D)
        area, positives, negatives = auc(np.array(side.scores, dtype=float), np.array(self.solved, dtype=float))
        with_outcome, *_ = auc(np.array(side.scores_with_outcome, dtype=float), np.array(self.solved, dtype=float))
        return Summary(
            num_rated=int(rated_D.sum()),
            coverage=float(rated_D.mean()) if len(rewards_D) else 0.0,
            num_conversations_rated=len({self.chat_of[i] for i in np.flatnonzero(rated_D)}),
            distribution=distribution(rewards_D[rated_D]),
            clipped=float(np.array(side.is_clipped)[rated_D].mean()) if rated_D.any() else 0.0,
            auc=area,
            auc_ci=auc_interval(area, positives, negatives),
            auc_n=positives + negatives,
            auc_with_outcome=with_outcome,
            length_correlation=spearman(np.array(side.replies, dtype=float), np.array(self.num_words, dtype=float)),
            acts={act: self._exposure(act, rewards_D) for act in ACTS},
            rules={
                name: {"terms": count, "sum": side.sum_terms[name], "mean": side.sum_terms[name] / count}
                for name, count in sorted(side.num_terms.items())
            },
        )

    def _exposure(self, act: str, rewards_D: Floats) -> Exposure:
        is_act_D = np.array([found == act for found in self.acts], dtype=bool)
        rated_D = ~np.isnan(rewards_D)
        best = rewards_D >= np.quantile(rewards_D[rated_D], 0.9) if rated_D.any() else rated_D
        return Exposure(
            rate=float(is_act_D.mean()) if len(is_act_D) else 0.0,
            num_rated=int((is_act_D & rated_D).sum()),
            mean_reward=_mean(rewards_D[is_act_D & rated_D]),
            mean_reward_others=_mean(rewards_D[~is_act_D & rated_D]),
            rate_among_best=_mean(is_act_D[best & rated_D]),
        )

    def _by_segment(self, after_D: Floats, before_D: Floats) -> Iterator[Segment]:
        chat_of_D = np.array(self.chat_of, dtype=int)
        for name in sorted({name for names in self.segments for name in names}):
            inside_C = np.array([name in names for names in self.segments], dtype=bool)
            inside_D = inside_C[chat_of_D]
            yield Segment(
                name,
                num_conversations=int(inside_C.sum()),
                num_decisions=int(inside_D.sum()),
                coverage=_mean(~np.isnan(after_D[inside_D])),
                mean_before=_mean(before_D[inside_D & ~np.isnan(before_D)]),
                mean_after=_mean(after_D[inside_D & ~np.isnan(after_D)]),
            )


def _diff(after_D: Floats, before_D: Floats) -> Diff:
    rated_after, rated_before = ~np.isnan(after_D), ~np.isnan(before_D)
    change = np.where(rated_after & rated_before, after_D - before_D, 0.0)
    both = rated_after & rated_before
    return Diff(
        num_changed=int((np.abs(change) > TINY).sum() + (rated_after != rated_before).sum()),
        num_raised=int((change > TINY).sum()),
        num_lowered=int((change < -TINY).sum()),
        num_newly_rated=int((rated_after & ~rated_before).sum()),
        num_no_longer_rated=int((rated_before & ~rated_after).sum()),
        num_sign_flipped=int((both & (np.sign(after_D) * np.sign(before_D) < 0)).sum()),
        mean_change=_mean(change[both]),
    )


def _mean(values: Iterable[float] | Floats) -> float:
    found = np.asarray(values, dtype=float)
    return float(found.mean()) if found.size else float("nan")

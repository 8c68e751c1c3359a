"""From signals to rewards: pure (but for a developer's scorers), deterministic, explained.

1. Of the signals of one conversation keep those in force: the newest of each (kind, target, author).
2. Each gives terms by the rules that hear it; withdrawn ones and kinds without a rule give none.
3. By default a signal about a reply is a `reply` term of that decision, and a signal about the conversation a
   `conversation` term of the last decision made before it. What came earlier than any decision is nobody's doing.
4. Rules that hear no signal speak of replies that got a `reply` term so far. A reply nobody spoke about stays unrated.
5. Terms of one (decision, scope) are summed under the bound on thumbs, the person cap and the clip. What these take away
   shows as terms of its own, so the terms of a reward always add up to its value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum, inf

from bot.conversation import RewardTerm, Signal, SignalKind
from bot.feedback.measures import Chat, Facts, Step
from bot.feedback.rewards_mixed import Share, ride_along, shares_of_rules
from bot.feedback.rules import Rules, RuleSet
from bot.feedback.rules_checks import success

REPLY = "reply"
CONVERSATION = "conversation"
NO_FACTS = Facts()

_OUTCOME_TRUST = {"system": 0, "user": 1, "operator": 2, "backoffice": 3}
"""Whose word on the outcome counts where several spoke: the highest."""


@dataclass(frozen=True, slots=True)
class Credit:
    """What one decision earned in one scope, and why. `value` is the sum of its terms; None: nothing any more."""

    decision_id: str
    scope: str
    value: float | None
    terms: tuple[RewardTerm, ...]


@dataclass(frozen=True, slots=True)
class Earned:
    """What a conversation's decisions earned, and what could not be computed (one line each)."""

    credits: tuple[Credit, ...]
    failures: tuple[str, ...] = ()


def in_force(signals: Iterable[Signal]) -> list[Signal]:
    """The newest signal of each (kind, target, author), oldest first."""
    newest: dict[tuple[str, str, str, str], Signal] = {}
    for signal in sorted(signals, key=lambda signal: signal.seq):
        newest[slot(signal)] = signal
    return sorted(newest.values(), key=lambda signal: signal.seq)


def slot(signal: Signal) -> tuple[str, str, str, str]:
    """What a newer signal must share to take an older one's place."""
    return (signal.kind, signal.conversation_id, signal.decision_id, signal.author)


def rewards_for(
    decisions: Sequence[Step], signals: Sequence[Signal], rules: Rules, facts: Facts = NO_FACTS
) -> list[Credit]:
    """What the decisions of one conversation earned, in order of the first signal that speaks of each.

    A decision and scope without any term is absent: unrated, which is not 0.
    """
    return list(earn(decisions, signals, rules, facts).credits)


def earn(
    decisions: Sequence[Step],
    signals: Sequence[Signal],
    rules: Rules,
    facts: Facts = NO_FACTS,
    old_enough: Mapping[float, Sequence[Signal]] | None = None,
) -> Earned:
    """As `rewards_for`, and what failed on the way.

    `old_enough`: delay in seconds -> the signals that have waited so long, for rules with a delay; those of a delay that
    is absent hear `signals`.
    """
    heard = {0.0: _heard(in_force(signals))}
    heard |= {delay_s: _heard(in_force(waited)) for delay_s, waited in (old_enough or {}).items()}
    chat = Chat(decisions, {s.decision_id: s.comment for s in heard[0.0] if _is_correction(s)}, facts)
    shares = [share for signal in heard[0.0] if (share := _share(signal, decisions, rules.rules))]
    bound = success(rules) if rules.rewards else inf
    mixed, failures = shares_of_rules(chat, rules, heard, _target, bound)
    shares = _travelling_bounded(sorted([*shares, *mixed], key=lambda share: share.term.signal_seq), bound)
    grouped: dict[tuple[str, str], list[Share]] = {}
    for share in _first_of_each_person(shares, rules.caps.person_conversation):
        grouped.setdefault((share.decision_id, share.scope), []).append(share)
    riding, more_failures = ride_along(chat, rules, [id_ for id_, scope in grouped if scope == REPLY])
    for share in riding:
        grouped[share.decision_id, share.scope].append(share)
    found = tuple(_credit(decision_id, scope, group, rules, bound) for (decision_id, scope), group in grouped.items())
    return Earned(found, (*failures, *more_failures))


def _is_correction(signal: Signal) -> bool:
    return signal.kind == SignalKind.CORRECTION and bool(signal.decision_id and signal.comment)


def outcome_in_force(signals: Iterable[Signal]) -> Signal | None:
    """The word on the outcome that counts: of the most trusted source, the last."""
    outcomes = [signal for signal in signals if signal.kind == SignalKind.OUTCOME]
    return max(outcomes, key=lambda signal: (_OUTCOME_TRUST[signal.source], signal.seq), default=None)


def _heard(signals: Sequence[Signal]) -> list[Signal]:
    """All but the outcomes that a more trusted source, or the same source later, has overruled."""
    best = outcome_in_force(signals)
    return [signal for signal in signals if signal.kind != SignalKind.OUTCOME or signal is best]


def _share(signal: Signal, decisions: Sequence[Step], rules: RuleSet) -> Share | None:
    worth = _WORTH.get(signal.kind)
    value = worth(signal, rules) if worth else None
    place = _target(signal, decisions) if value else None
    if not value or place is None:
        return None
    scope = REPLY if signal.decision_id else CONVERSATION
    term = RewardTerm(signal.kind.value, value, signal.seq)
    return Share(decisions[place].id, scope, signal.author, term, signal.kind == SignalKind.THUMB)


def _target(signal: Signal, decisions: Sequence[Step]) -> int | None:
    """The place of the decision that a signal speaks of."""
    if signal.decision_id:
        return next((i for i, decision in enumerate(decisions) if decision.id == signal.decision_id), None)
    before = [i for i, decision in enumerate(decisions) if decision.created_at <= signal.created_at]
    return before[-1] if before else None


def _first_of_each_person(shares: Iterable[Share], cap: int) -> list[Share]:
    """Drop what a person says about more than `cap` (decision, scope) pairs of the conversation."""
    spoken: dict[str, set[tuple[str, str]]] = {}
    kept = []
    for share in shares:
        pairs, pair = spoken.setdefault(share.author, set()), (share.decision_id, share.scope)
        if pair in pairs or len(pairs) < cap:
            pairs.add(pair)
            kept.append(share)
    return kept


def _credit(decision_id: str, scope: str, shares: Sequence[Share], rules: Rules, bound: float) -> Credit:
    shares = _thumbs_bounded(shares, bound)
    terms = [share.term for share in shares]
    for author in dict.fromkeys(share.author for share in shares if share.author):
        cap = rules.caps.person_reward
        terms += _bounded("person_cap", [share.term for share in shares if share.author == author], -cap, cap)
    terms += _bounded("clip", terms, rules.clip.low, rules.clip.high)
    return Credit(decision_id, scope, fsum(term.value for term in terms), tuple(terms))


def _thumbs_bounded(shares: Sequence[Share], bound: float) -> list[Share]:
    """Thumbs on one reply together weigh no more than task success (DESIGN section 6, invariant 6)."""
    return [*shares, *_taken([share for share in shares if share.is_thumb], bound)]


def _travelling_bounded(shares: Sequence[Share], bound: float) -> list[Share]:
    """Thumbs that speak of the conversation meet at its first turns: praise as a whole is bounded, and blame as a whole."""
    thumbs = [share for share in shares if share.is_thumb and share.scope == CONVERSATION]
    praise = [share for share in thumbs if share.term.value > 0]
    blame = [share for share in thumbs if share.term.value < 0]
    return [*shares, *_taken(praise, bound), *_taken(blame, bound)]


def _taken(thumbs: Sequence[Share], bound: float) -> list[Share]:
    """Shares that bring the sum of these back to the bound, each in proportion."""
    total = abs(fsum(share.term.value for share in thumbs))
    if total <= bound:
        return []
    factor = bound / total - 1
    terms = [RewardTerm("thumb_cap", share.term.value * factor, share.term.signal_seq) for share in thumbs]
    return [replace(share, term=term) for share, term in zip(thumbs, terms, strict=True)]


def _bounded(name: str, terms: Sequence[RewardTerm], low: float, high: float) -> list[RewardTerm]:
    """The term that brings the sum back between the bounds, if it is outside."""
    total = fsum(term.value for term in terms)
    excess = min(max(total, low), high) - total
    return [RewardTerm(name, excess, 0)] if excess else []


def _thumb(signal: Signal, rules: RuleSet) -> float | None:
    if rules.thumb is None or signal.value == 0:
        return None
    if signal.value > 0:
        return max(rules.thumb.up + _adjustment(signal, rules.thumb.up_reasons), 0.0)
    return min(rules.thumb.down + _adjustment(signal, rules.thumb.down_reasons), 0.0)


def _adjustment(signal: Signal, reasons: Mapping[str, float]) -> float:
    """The sum over the chips that have a rule; a chip sent twice counts once."""
    return fsum(reasons.get(chip, 0.0) for chip in set(signal.label.split("|")))


def _outcome(signal: Signal, rules: RuleSet) -> float | None:
    if rules.outcome is None:
        return None
    return rules.outcome.solved if signal.value > 0 else rules.outcome.not_solved


def _handover(signal: Signal, rules: RuleSet) -> float | None:
    return rules.handover.value if rules.handover and signal.value else None


def _rephrase(signal: Signal, rules: RuleSet) -> float | None:
    if rules.rephrase is None or signal.value < rules.rephrase.min_similarity:
        return None
    return rules.rephrase.value


def _csat(signal: Signal, rules: RuleSet) -> float | None:
    if rules.csat is None or not 1 <= signal.value <= 5:
        return None
    share = (signal.value - 1) / 4
    return rules.csat.worst * (1 - share) + rules.csat.best * share


_WORTH: Mapping[SignalKind, Callable[[Signal, RuleSet], float | None]] = {
    SignalKind.THUMB: _thumb,
    SignalKind.OUTCOME: _outcome,
    SignalKind.HANDOVER: _handover,
    SignalKind.REPHRASE: _rephrase,
    SignalKind.CSAT: _csat,
}
"""What a signal of each kind is worth; kinds that are absent carry no reward."""

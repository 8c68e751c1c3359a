"""Rules of format 2: who hears what, what they pay, to which decisions. `rewards` puts it together with the rest.

A rule that cannot be computed (a formula that divides by 0, a scorer that failed) gives nothing and one line; the other
rules are not touched by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from bot.conversation import RewardTerm, Signal, SignalKind
from bot.feedback.expressions import ExpressionError
from bot.feedback.measures import Chat, Step, Unmeasured, articles_of, measure, parsed, slots_of
from bot.feedback.rules_records import Reach, Rule, RuleCap, Rules, When
from bot.feedback.scorers import ScorerError, ScorerOff

Target = Callable[[Signal, Sequence[Step]], int | None]
"""The place of the decision that a signal speaks of."""


@dataclass(frozen=True, slots=True)
class Share:
    """One rule's term for one signal and decision, before the caps of the whole."""

    decision_id: str
    scope: str
    author: str
    """Empty where no signal is behind it."""
    term: RewardTerm
    is_thumb: bool = False


def shares_of_rules(
    chat: Chat, rules: Rules, heard: Mapping[float, Sequence[Signal]], target: Target, bound: float
) -> tuple[list[Share], list[str]]:
    """The terms of all rules that hear signals, and what failed. `heard`: by delay, 0 for those without. A
    thumb pays no more than `bound` in sum."""
    shares: list[Share] = []
    failures: list[str] = []
    for name, weight, rule in rules.each_rule():
        found: list[Share] = []
        for signal in heard.get(rule.delay_s, heard[0.0]) if rule.when.signal else ():
            place = target(signal, chat.steps)
            if place is None or _is_withdrawn(signal):
                continue
            paid = _attempt(name, rule, chat, chat.steps[place], signal, failures)
            paid *= _trust(signal, rules, chat) if rule.weight_by_trust else 1.0
            if signal.kind == SignalKind.THUMB:
                most = bound / (weight * rule.spread)
                paid = min(max(paid, -most), most)
            found += _spread(name, rule, paid, chat, place, signal)
        shares += _weighted(_capped(name, found, rule.cap), weight)
    return shares, failures


def ride_along(chat: Chat, rules: Rules, rated: Iterable[str]) -> tuple[list[Share], list[str]]:
    """The terms of rules that hear no signal, for the replies that others rated."""
    shares: list[Share] = []
    failures: list[str] = []
    ids = set(rated)
    steps = [step for step in chat.steps if step.id in ids]
    for name, weight, rule in rules.each_rule():
        if rule.when.signal:
            continue
        paid = [(step, _attempt(name, rule, chat, step, None, failures)) for step in steps]
        found = [Share(step.id, "reply", "", RewardTerm(name, amount, 0)) for step, amount in paid if amount]
        shares += _weighted(_capped(name, found, rule.cap), weight)
    return shares, failures


def _is_withdrawn(signal: Signal) -> bool:
    return not signal.value and signal.kind in {SignalKind.THUMB, SignalKind.HANDOVER}


def _attempt(name: str, rule: Rule, chat: Chat, step: Step, signal: Signal | None, failures: list[str]) -> float:
    """What a rule pays; 0 where it does not apply, or cannot be computed."""
    try:
        return _pay(rule, chat, step, signal)
    except (Unmeasured, ScorerOff):
        return 0.0
    except (ExpressionError, ScorerError) as error:
        failures.append(f"{name}: {error}")
        return 0.0


def _pay(rule: Rule, chat: Chat, step: Step, signal: Signal | None) -> float:
    if not _matches(rule.when, step, signal):
        return 0.0
    condition = rule.when.expression
    if condition and not condition.holds(measure(condition.names, chat, step, signal)):
        return 0.0
    return rule.reward.number(measure(rule.reward.names, chat, step, signal))


def _matches(when: When, step: Step, signal: Signal | None) -> bool:
    if signal is not None and not _hears(when, signal):
        return False
    if not (when.act or when.article or when.slot):
        return True
    act = parsed(step.act)
    return (
        _any_of(when.act, (step.act, act.kind.value))
        and _any_of(when.article, articles_of(act))
        and _any_of(when.slot, slots_of(act))
    )


def _hears(when: When, signal: Signal) -> bool:
    return (
        _any_of(when.signal, (signal.kind.value,))
        and (when.value is None or when.value.holds(signal.value))
        and _any_of(when.label, signal.label.split("|"))
        and _any_of(when.role, (signal.source,))
    )


def _any_of(patterns: Sequence[str], words: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(word, pattern) for word in words for pattern in patterns)


def _trust(signal: Signal, rules: Rules, chat: Chat) -> float:
    return rules.trust.get(signal.source, 1.0) * chat.facts.trust.get(signal.author, 1.0)


def _spread(name: str, rule: Rule, paid: float, chat: Chat, place: int, signal: Signal) -> list[Share]:
    """To the decision that the signal speaks of, and to those before it as far as the rule reaches."""
    reach = rule.applies_to or Reach("reply" if signal.decision_id else "conversation")
    return [
        Share(
            chat.steps[place - back].id,
            reach.stored_scope,
            signal.author,
            RewardTerm(name, paid * rule.decay**back, signal.seq),
            signal.kind == SignalKind.THUMB,
        )
        for back in range(min(reach.replies, place + 1) if paid else 0)
    ]


def _capped(name: str, shares: Sequence[Share], cap: RuleCap) -> list[Share]:
    """Each share, and where it leads a sum over its cap, a share that takes the excess away."""
    given: dict[str, float] = {}
    total = 0.0
    kept = []
    for share in shares:
        value, mine = share.term.value, given.get(share.author, 0.0)
        if cap.user is not None and share.author:
            value = min(max(mine + value, -cap.user), cap.user) - mine
        if cap.conversation is not None:
            value = min(max(total + value, -cap.conversation), cap.conversation) - total
        given[share.author], total = mine + value, total + value
        kept.append(share)
        if value != share.term.value:
            taken = RewardTerm(f"{name} cap", value - share.term.value, share.term.signal_seq)
            kept.append(replace(share, term=taken))
    return kept


def _weighted(shares: Iterable[Share], weight: float) -> list[Share]:
    if weight == 1:
        return list(shares)
    return [replace(share, term=replace(share.term, value=share.term.value * weight)) for share in shares]

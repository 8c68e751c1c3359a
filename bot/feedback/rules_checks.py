"""What must hold between the values of a rules file, beyond each value's type. Pure.

`problems` gives (path of the key to blame, what was expected, what was got, hint). Above all: a thumb may never
outweigh task success (DESIGN section 6, invariant 6). Constants are added up here; what a formula pays for thumbs is
known only when it is evaluated, and is held to the same bound (`success`) there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase

from bot.conversation import ActKind, SignalKind
from bot.feedback.expressions import nearest
from bot.feedback.rules_records import FORMATS, OUTCOME, ROLES, THUMB, WORDS, Rule, Rules, RuleSet, ScorerSpec, When

SIGNAL_NAMES = ("signal", "value", "label", "role", "age_s")
"""What a formula may read of the signal: kind, value, chips joined by `|`, sender, seconds since the reply."""
REPLY_NAMES = ("act", "kind", "article", "slot", "turn", "turns", "probability")
"""Of the decision: act id, its kind, article, slot asked for, number of its turn, of turns so far, pi(act | state)."""
TEXT_NAMES = (
    *("num_words", "num_questions", "repetition"),
    *("bleu_approved", "bleu_correction", "rouge_l_approved", "rouge_l_correction"),
)
"""Measured on the reply's text: see `text_metrics`."""
KNOWN_NAMES = SIGNAL_NAMES + REPLY_NAMES + TEXT_NAMES

MAX_REPLIES = 20
"""How far back `applies_to: {last: n}` may reach."""

Problem = tuple[str, str, object, str]


def problems(rules: Rules) -> Iterator[Problem]:
    """Everything that does not hold, in the order of the file."""
    for path, holds, expected, got in _plain(rules):
        if not holds:
            yield path, expected, got, ""
    yield from _trust_and_scorers(rules)
    seen: set[str] = set()
    for name, reward in rules.rewards.items():
        if not 0 < reward.weight <= 10:
            yield f"rewards.{name}.weight", "a weight above 0, up to 10", reward.weight, ""
        for i, rule in enumerate(reward.rules):
            at = f"rewards.{name}.rules.{i}"
            if f"{name}/{rule.name}" in seen:
                yield f"{at}.name", "each rule's name once", repr(rule.name), ""
            seen.add(f"{name}/{rule.name}")
            yield from ((f"{at}.{path}", *rest) for path, *rest in _rule(rule))  # type: ignore[misc]
    yield from _thumbs_stay_lighter(rules)


def _plain(rules: Rules) -> list[tuple[str, bool, str, object]]:
    clip, caps, given = rules.clip, rules.caps, rules.rules
    checks: list[tuple[str, bool, str, object]] = [
        ("version", rules.version in FORMATS, f"version: {' or '.join(map(str, FORMATS))}", rules.version),
        ("clip", -1 <= clip.low < 0 < clip.high <= 1, "-1 <= low < 0 < high <= 1", f"{clip.low} and {clip.high}"),
        ("caps.person_reward", caps.person_reward > 0, "a positive person_reward", caps.person_reward),
        ("caps.person_conversation", caps.person_conversation > 0, "a positive count", caps.person_conversation),
        ("settle_s", rules.settle_s is None or rules.settle_s >= 0, "settle_s of at least 0", rules.settle_s),
    ]
    for name, bad, good in _opposites(given):
        checks.append((f"rules.{name}", bad < 0 < good, f"{name}: bad < 0 < good", f"{bad} and {good}"))
    for name, rule in (("handover", given.handover), ("rephrase", given.rephrase)):
        if rule is not None:
            checks.append((f"rules.{name}", rule.value <= 0, f"{name}: a value of at most 0", rule.value))
    return checks


def _opposites(given: RuleSet) -> list[tuple[str, float, float]]:
    thumb, outcome, csat = given.thumb, given.outcome, given.csat
    found = [("thumb", thumb.down, thumb.up)] if thumb else []
    found += [("outcome", outcome.not_solved, outcome.solved)] if outcome else []
    return found + ([("csat", csat.worst, csat.best)] if csat else [])


def _trust_and_scorers(rules: Rules) -> Iterator[Problem]:
    for role, trust in rules.trust.items():
        if role not in ROLES:
            yield f"trust.{role}", f"one of {', '.join(ROLES)}", repr(role), nearest(role, ROLES)
        if not 0 <= trust <= 1:
            yield f"trust.{role}", "a trust from 0 to 1", trust, ""
    for name, spec in rules.scorers.items():
        yield from ((f"scorers.{name}{path}", *rest) for path, *rest in _scorer(name, spec))  # type: ignore[misc]


def _scorer(name: str, spec: ScorerSpec) -> Iterator[Problem]:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in (*KNOWN_NAMES, "min", "max", "abs"):
        yield "", "a new name of a-z, 0-9 and _", repr(name), ""
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", spec.entry):
        yield ".entry", "package.module:function", repr(spec.entry), ""
    if not 0 < spec.timeout_s <= 60:
        yield ".timeout_s", "seconds above 0, up to 60", spec.timeout_s, ""


def _rule(rule: Rule) -> Iterator[Problem]:
    yield from _when(rule.when)
    yield from _reach(rule)
    if rule.reward.constant == 0:
        yield "reward", "a reward other than 0", 0, ""
    for name in ("user", "conversation"):
        if (cap := getattr(rule.cap, name)) is not None and not cap > 0:
            yield f"cap.{name}", "a positive cap", cap, ""
    if not 0 <= rule.delay_s <= 365 * 86400:
        yield "delay_s", "seconds from 0 to a year", rule.delay_s, ""
    if not rule.when.signal:
        yield from _without_signal(rule)


def _when(when: When) -> Iterator[Problem]:
    yield from _words("signal", when.signal, [kind.value for kind in SignalKind])
    yield from _words("role", when.role, ROLES)
    for i, pattern in enumerate(when.act):
        yield from _words(f"act.{i}", (pattern.partition(":")[0].partition("#")[0],), [k.value for k in ActKind])
    low, high = (when.value.low, when.value.high) if when.value else (None, None)
    if low is not None and high is not None and low > high:
        yield "when.value", "min of at most max", f"{low} and {high}", ""


def _without_signal(rule: Rule) -> Iterator[Problem]:
    """A rule that hears no signal rides on replies that others rated, and cannot ask about what it does not hear."""
    when = rule.when
    if when.value or when.label or when.role:
        yield "when", "`signal` beside value, label and role", "none", ""
    reaches_others = rule.applies_to is not None and rule.applies_to.scope != WORDS
    if reaches_others or rule.delay_s or rule.weight_by_trust or rule.cap.user:
        yield (
            "",
            "applies_to (but for words), delay_s, cap.user and weight_by_trust only where there is a `signal`",
            "none",
            "",
        )
    for path, formula in (("reward", rule.reward), ("when.expression", when.expression)):
        if formula and (unheard := formula.names & set(SIGNAL_NAMES)):
            yield path, "`signal` under `when` beside the names of a signal", ", ".join(sorted(unheard)), ""


def _reach(rule: Rule) -> Iterator[Problem]:
    replies = rule.applies_to.replies if rule.applies_to else 1
    if not 1 <= replies <= MAX_REPLIES:
        yield "applies_to", f"last: 1 to {MAX_REPLIES}", replies, ""
    if not 0 < rule.decay <= 1:
        yield "decay", "a factor above 0, up to 1", rule.decay, ""
    if rule.decay != 1 and replies == 1:
        yield "decay", "decay only with applies_to: {last: n}", rule.decay, ""


def _words(path: str, words: tuple[str, ...], known: list[str] | tuple[str, ...]) -> Iterator[Problem]:
    for word in words:
        if not any(fnmatchcase(name, word) for name in known):
            yield f"when.{path}", f"one of {', '.join(known)}", repr(word), nearest(word, known)


def unknown_words(rules: Rules, articles: Collection[str], slots: Collection[str]) -> list[str]:
    """Articles and slots that a domain does not have: a condition on them never holds. One line each, with a hint."""
    asked = [
        (name, word, known)
        for name, _, rule in rules.each_rule()
        for words, known in ((rule.when.article, articles), (rule.when.slot, slots))
        for word in words
        if not any(fnmatchcase(here, word) for here in known)
    ]
    hints = [(name, word, nearest(word, known)) for name, word, known in asked]
    return [
        f"{name}: no {word!r} in this domain" + (f" (did you mean {hint}?)" if hint else "")
        for name, word, hint in hints
    ]


# --- invariant 6 ------------------------------------------------------------------------------------------------------
def success(rules: Rules) -> float:
    """What task success weighs at least: the smaller of what a solved and an unsolved conversation bring.

    Only what is always due counts: constants of rules on the outcome alone, without trust, within their caps.
    """
    given = rules.rules.outcome
    solved, not_solved = (given.solved, given.not_solved) if given else (0.0, 0.0)
    for _, weight, rule in rules.each_rule():
        if _always_due(rule) and rule.reward.constant is not None:
            bound = min(
                (cap for cap in (rule.cap.user, rule.cap.conversation) if cap is not None), default=float("inf")
            )
            due = weight * max(-bound, min(bound, rule.reward.constant))
            solved += due * (rule.when.value is None or rule.when.value.holds(1))
            not_solved += due * (rule.when.value is None or rule.when.value.holds(0))
    return max(0.0, min(solved, -not_solved))


def _always_due(rule: Rule) -> bool:
    when = rule.when
    asks_more = when.label or when.role or when.act or when.article or when.slot or when.expression
    return when.signal == (OUTCOME,) and not asks_more and not rule.weight_by_trust


def hears_thumbs(rule: Rule) -> bool:
    """Whether a thumb can set this rule off."""
    return any(fnmatchcase(THUMB, kind) for kind in rule.when.signal)


def _thumbs_stay_lighter(rules: Rules) -> Iterator[Problem]:
    weight = success(rules)
    praise = blame = rules.rules.thumb.heaviest() if rules.rules.thumb else 0.0
    blamed = "rules.thumb"
    heard = praise > 0
    for name, reward in rules.rewards.items():
        for i, rule in enumerate(reward.rules):
            if not hears_thumbs(rule):
                continue
            due = reward.weight * rule.spread * (rule.reward.constant or 0.0)
            praise, blame = praise + max(due, 0.0), blame + max(-due, 0.0)
            heard, blamed = True, f"rewards.{name}.rules.{i}.reward"
    heaviest = max(praise, blame)
    if heard and (heaviest > weight + 1e-9 or weight == 0):
        yield blamed, f"thumbs (reasons included) no heavier than the outcome rule ({weight:g})", f"{heaviest:g}", ""

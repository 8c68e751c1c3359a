"""What a rules file says, as frozen records. Data only: `rules` reads them, `rewards` applies them.

Format 1 has one rule for each kind of signal (`rules:`). Format 2 adds `rewards:`, several named rewards, each a list of
rules with conditions and formulas, mixed with weights. docs/rules.md is the guide for those who write them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import fsum

from bot.conversation import digest
from bot.feedback.expressions import Expression

FORMATS = (1, 2)
"""The `version:` values of rules files that this release reads."""

ROLES = ("user", "operator", "system", "backoffice")
"""Who may have sent a signal (`Signal.source`)."""
THUMB, OUTCOME = "thumb", "outcome"
WORDS = "words"
"""Reach of rules that speak of what was written, not of the act."""


@dataclass(frozen=True, slots=True)
class ThumbRule:
    """A thumb on one reply. A withdrawn thumb (0) is no reward at all: the reply is unrated again."""

    up: float
    down: float
    up_reasons: Mapping[str, float] = field(default_factory=dict)
    """Reason chip -> what it adds to a thumb up. It can cancel the thumb, never turn it round."""
    down_reasons: Mapping[str, float] = field(default_factory=dict)
    """The same for a thumb down."""

    def heaviest(self) -> float:
        """The largest absolute value that this rule can give."""
        praise = sum(change for change in self.up_reasons.values() if change > 0)
        blame = sum(change for change in self.down_reasons.values() if change < 0)
        return max(self.up + praise, -(self.down + blame))


@dataclass(frozen=True, slots=True)
class OutcomeRule:
    """Whether the conversation solved the person's problem. A back office's word replaces the person's."""

    solved: float
    not_solved: float


@dataclass(frozen=True, slots=True)
class HandoverRule:
    """The person asked for a human being."""

    value: float


@dataclass(frozen=True, slots=True)
class RephraseRule:
    """The person asked nearly the same again: the answer before was probably wrong."""

    value: float
    min_similarity: float = 0.0
    """Weaker similarities (0..1) count for nothing."""


@dataclass(frozen=True, slots=True)
class CsatRule:
    """A score of 1 to 5 for the conversation: linear from `worst` at 1 to `best` at 5."""

    worst: float
    best: float


@dataclass(frozen=True, slots=True)
class Caps:
    """How much one person can move."""

    person_reward: float = 1.0
    """Largest absolute sum of one person's terms in one reward."""
    person_conversation: int = 50
    """Rewards of one conversation that one person can take part in; the first ones count."""


@dataclass(frozen=True, slots=True)
class Clip:
    """Bounds of a whole reward."""

    low: float = -1.0
    high: float = 1.0


@dataclass(frozen=True, slots=True)
class RuleSet:
    """One rule per kind of signal; a kind without a rule gives no reward."""

    thumb: ThumbRule | None = None
    outcome: OutcomeRule | None = None
    handover: HandoverRule | None = None
    rephrase: RephraseRule | None = None
    csat: CsatRule | None = None


# --- format 2 ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Span:
    """Numbers from `low` to `high`, both included; None: no bound."""

    low: float | None = None
    high: float | None = None

    def holds(self, number: float) -> bool:
        """Whether a number lies within."""
        return (self.low is None or number >= self.low) and (self.high is None or number <= self.high)


@dataclass(frozen=True, slots=True)
class When:
    """What must hold, all of it. A field left out asks nothing. Lists: any of them; `*` and `?` are wildcards."""

    signal: tuple[str, ...] = ()
    """Kinds of signal. None at all: the rule speaks of every reply that some other rule has rated."""
    value: Span | None = None
    """Of the signal."""
    label: tuple[str, ...] = ()
    """Reason chips; or an operator's right act."""
    role: tuple[str, ...] = ()
    """Who sent the signal."""
    act: tuple[str, ...] = ()
    """Act ids (`handoff`, `answer:card_*`) or their kinds (`answer`)."""
    article: tuple[str, ...] = ()
    """Ids of the article that was answered with, or of one offered to choose from."""
    slot: tuple[str, ...] = ()
    """Slots that the reply asked for."""
    expression: Expression | None = None


@dataclass(frozen=True, slots=True)
class Reach:
    """Which decisions get the reward, and what of them."""

    scope: str
    """`reply`, `conversation` (which travels back over the turns when the learner gives credit), or `words`: of the reply
    only what the language model wrote, not that its act was chosen."""
    replies: int = 1
    """With scope `reply`: the one it speaks of and those before it, so many in all."""

    @property
    def stored_scope(self) -> str:
        """Of the reward that its terms are part of: the words' is the reply's."""
        return "reply" if self.scope == WORDS else self.scope


@dataclass(frozen=True, slots=True)
class RuleCap:
    """Largest absolute sum of one rule's terms in one conversation."""

    user: float | None = None
    """From one author."""
    conversation: float | None = None
    """From everybody."""


@dataclass(frozen=True, slots=True)
class Rule:
    """When something holds, a reward is due."""

    name: str
    reward: Expression
    """A number, or a formula over the names in `rules_checks`."""
    when: When = field(default_factory=When)
    applies_to: Reach | None = None
    """None: a signal about a reply to that reply, a signal about the conversation to the conversation."""
    decay: float = 1.0
    """Factor for each reply further back (`applies_to: {last: n}`)."""
    cap: RuleCap = field(default_factory=RuleCap)
    delay_s: float = 0.0
    """How old a signal must be for this rule; never less than the settling delay of the file or the settings."""
    weight_by_trust: bool = False
    """Multiply by the trust in the author (0..1, kept outside the file) and in their role (`trust:`)."""

    @property
    def spread(self) -> float:
        """What a reward of 1 is in sum over the decisions it reaches."""
        return fsum(self.decay**back for back in range(self.applies_to.replies if self.applies_to else 1))


@dataclass(frozen=True, slots=True)
class NamedReward:
    """Rules that belong together; their sum is multiplied by the weight."""

    rules: tuple[Rule, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ScorerSpec:
    """A developer's own function of one reply, run in a process of its own. Its name can be used in formulas."""

    entry: str
    """`package.module:function`, as packaging's entry points are written; it is looked for beside the rules file too."""
    timeout_s: float = 1.0
    """Of one call."""


@dataclass(frozen=True, slots=True)
class Rules:
    """A whole rules file."""

    version: int
    rules: RuleSet = field(default_factory=RuleSet)
    clip: Clip = field(default_factory=Clip)
    caps: Caps = field(default_factory=Caps)
    settle_s: float | None = None
    """How long a signal may still be changed before it counts; None leaves it to the settings."""
    rewards: Mapping[str, NamedReward] = field(default_factory=dict)
    """Mixed: their weighted sum, together with what `rules` give."""
    trust: Mapping[str, float] = field(default_factory=dict)
    """Role -> 0..1 (1 where absent), for rules with `weight_by_trust`."""
    scorers: Mapping[str, ScorerSpec] = field(default_factory=dict)
    folder: str = field(default="", compare=False)
    """Where the file lies; scorers are looked for there."""

    @property
    def rules_hash(self) -> str:
        """Content hash: the same for files that differ in comments, order or spelling of numbers only."""
        said = asdict(self)
        hidden = ("folder", *(FORMAT_2_ONLY if self.version == 1 else ()))
        return digest(json.dumps({key: value for key, value in said.items() if key not in hidden}, sort_keys=True))

    def each_rule(self) -> list[tuple[str, float, Rule]]:
        """(name as terms show it, weight, rule) of format 2, in the order of the file."""
        return [
            (f"{name}/{rule.name}", reward.weight, rule)
            for name, reward in self.rewards.items()
            for rule in reward.rules
        ]

    @property
    def word_terms(self) -> frozenset[str]:
        """The names of terms that speak of words alone, caps on them included."""
        told = {name for name, _, rule in self.each_rule() if rule.applies_to and rule.applies_to.scope == WORDS}
        return frozenset(told | {f"{name} cap" for name in told})

    @property
    def delays(self) -> tuple[float, ...]:
        """The different delays of rules, shortest first; 0 is always there."""
        return tuple(sorted({0.0, *(rule.delay_s for _, _, rule in self.each_rule())}))

    @property
    def names(self) -> frozenset[str]:
        """The names that its formulas read."""
        given = (formula for _, _, rule in self.each_rule() for formula in (rule.reward, rule.when.expression))
        return frozenset(name for formula in given if formula for name in formula.names)


FORMAT_2_ONLY = ("rewards", "trust", "scorers")
"""Keys that a file of format 1 may not have; they are outside its hash."""

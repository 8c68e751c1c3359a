"""Reward rules, version 1: what a domain's `rewards.yml` says a signal is worth. Data only; `rewards` applies them.

Loading refuses what it does not know, with `file:line: expected ..., got ...`, and refuses rules under which a thumb
could outweigh task success (DESIGN section 6, invariant 6).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml

from bot.conversation import digest
from bot.errors import DomainError

T = TypeVar("T")

FORMAT = 1
"""The only `version:` of rules file this release reads."""


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


@dataclass(frozen=True, slots=True)
class Rules:
    """A whole rules file."""

    version: int
    rules: RuleSet
    clip: Clip = field(default_factory=Clip)
    caps: Caps = field(default_factory=Caps)
    settle_s: float | None = None
    """How long a signal may still be changed before it counts; None leaves it to the settings."""

    @property
    def rules_hash(self) -> str:
        """Content hash: the same for files that differ in comments, order or spelling of numbers only."""
        return digest(json.dumps(asdict(self), sort_keys=True))


def load_rules(path: Path) -> Rules:
    """Read a rules file. Raises DomainError `file:line: expected ..., got ...`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DomainError(f"{path}:1: expected a rules file in UTF-8, got {error}") from error
    return parse_rules(text, str(path))


def parse_rules(text: str, source: str = "rewards.yml") -> Rules:
    """Read rules from YAML text; `source` names the file in errors. Raises DomainError."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise DomainError(f"{source}:{line}: expected YAML, got a mistake: {problem}") from error
    if root is None:
        raise DomainError(f"{source}:1: expected rules, got an empty file")
    rules = _Reader(source).record(Rules, root, "rules file")
    _check_meaning(rules, source, _lines(root))
    return rules


class _Reader:
    """Builds frozen records out of YAML nodes, which still know their lines."""

    def __init__(self, source: str) -> None:
        self._source = source

    def record(self, kind: type[T], node: yaml.Node, name: str) -> T:
        """A dataclass from a mapping: every key known, every value of the declared type, nothing required missing."""
        hints = get_type_hints(kind)
        known: dict[str, Field[Any]] = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
        values: dict[str, Any] = {}
        for key, child in self._items(node, name):
            if key.value not in known:
                self._refuse(key, f"one of {', '.join(known)} in {name}", repr(key.value))
            values[key.value] = self.value(hints[key.value], child, key.value)
        for missing in (f.name for f in known.values() if f.name not in values and _required(f)):
            self._refuse(node, f"`{missing}` in {name}", "nothing")
        return kind(**values)

    def value(self, kind: Any, node: yaml.Node, name: str) -> Any:
        """One value of a declared type."""
        options = get_args(kind)
        if type(None) in options:
            return None if node.tag == _NULL else self.value(options[0], node, name)
        if kind == Mapping[str, float]:
            return {key.value: self._number(child, f"{name}.{key.value}") for key, child in self._items(node, name)}
        if kind is float:
            return self._number(node, name)
        if kind is int:
            return self._whole(node, name)
        return self.record(kind, node, name)

    def _items(self, node: yaml.Node, name: str) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode):
            self._refuse(node, f"a mapping for {name}", _shown(node))
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._refuse(key, f"a plain key in {name}", _shown(key))
            if key.value in seen:
                self._refuse(key, f"each key of {name} once", f"{key.value!r} twice")
            seen.add(key.value)
        return list(node.value)

    def _number(self, node: yaml.Node, name: str) -> float:
        try:
            number = float(node.value) if node.tag in (_INT, _FLOAT) else math.nan
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            self._refuse(node, f"a number for {name}", _shown(node))
        return number

    def _whole(self, node: yaml.Node, name: str) -> int:
        number = self._number(node, name)
        if not number.is_integer():
            self._refuse(node, f"a whole number for {name}", _shown(node))
        return int(number)

    def _refuse(self, node: yaml.Node, expected: str, got: str) -> None:
        raise DomainError(f"{self._source}:{node.start_mark.line + 1}: expected {expected}, got {got}")


_INT, _FLOAT, _NULL = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "null"))


def _required(declared: Field[Any]) -> bool:
    return declared.default is MISSING and declared.default_factory is MISSING


def _shown(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return repr(node.value)
    return "a mapping" if isinstance(node, yaml.MappingNode) else "a list"


def _lines(root: yaml.Node) -> dict[str, int]:
    """Line of each key, two levels deep: `clip`, `rules.thumb`."""
    lines: dict[str, int] = {}
    for key, child in root.value:
        lines[key.value] = key.start_mark.line + 1
        if isinstance(child, yaml.MappingNode):
            lines |= {f"{key.value}.{inner.value}": inner.start_mark.line + 1 for inner, _ in child.value}
    return lines


def _check_meaning(rules: Rules, source: str, lines: Mapping[str, int]) -> None:
    for key, holds, expected, got in _meanings(rules):
        if not holds:
            raise DomainError(f"{source}:{lines.get(key, 1)}: expected {expected}, got {got}")


def _meanings(rules: Rules) -> list[tuple[str, bool, str, object]]:
    """(key to blame, whether it holds, what was expected, what was got)."""
    clip, caps, given = rules.clip, rules.caps, rules.rules
    checks: list[tuple[str, bool, str, object]] = [
        ("version", rules.version == FORMAT, f"version: {FORMAT}", rules.version),
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
    return checks + _thumbs_stay_lighter(given)


def _opposites(given: RuleSet) -> list[tuple[str, float, float]]:
    thumb, outcome, csat = given.thumb, given.outcome, given.csat
    found = [("thumb", thumb.down, thumb.up)] if thumb else []
    found += [("outcome", outcome.not_solved, outcome.solved)] if outcome else []
    return found + ([("csat", csat.worst, csat.best)] if csat else [])


def _thumbs_stay_lighter(given: RuleSet) -> list[tuple[str, bool, str, object]]:
    if given.thumb is None:
        return []
    success = min(given.outcome.solved, -given.outcome.not_solved) if given.outcome else 0.0
    heaviest = given.thumb.heaviest()
    expected = f"thumbs (reasons included) no heavier than the outcome rule ({success:g})"
    return [("rules.thumb", heaviest <= success, expected, f"{heaviest:g}")]

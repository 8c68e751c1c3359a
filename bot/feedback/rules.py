"""Reward rules: reading a domain's `rewards.yml`, which says what a signal is worth.

1. The text becomes YAML nodes, which know their places (`rules_reader`).
2. Nodes become records (`rules_records`): every key known, every value of its type, every formula checked.
3. What must hold between values is checked (`rules_checks`): a thumb may never outweigh task success.

The first mistake is a RulesError: `file:line:column: expected ..., got ... (did you mean ...?)`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, replace
from functools import partial
from importlib import resources
from pathlib import Path

import yaml

from bot.feedback.expressions import Expression, ExpressionError
from bot.feedback.rules_checks import KNOWN_NAMES, problems
from bot.feedback.rules_reader import Reader, RulesError, compose, find, shown
from bot.feedback.rules_records import (
    FORMAT_2_ONLY,
    WORDS,
    Caps,
    Clip,
    CsatRule,
    HandoverRule,
    NamedReward,
    OutcomeRule,
    Reach,
    RephraseRule,
    Rule,
    RuleCap,
    Rules,
    RuleSet,
    ScorerSpec,
    Span,
    ThumbRule,
    When,
)

__all__ = [
    "Caps",
    "Clip",
    "CsatRule",
    "HandoverRule",
    "NamedReward",
    "OutcomeRule",
    "Reach",
    "RephraseRule",
    "Rule",
    "RuleCap",
    "RuleSet",
    "Rules",
    "RulesError",
    "ScorerSpec",
    "Span",
    "ThumbRule",
    "When",
    "json_schema",
    "load_rules",
    "parse_rules",
    "read_rules",
]


def load_rules(path: Path) -> Rules:
    """Read a rules file. Raises RulesError."""
    return parse_rules(read_rules(path), str(path), path.parent)


def read_rules(path: Path) -> str:
    """The text of a rules file. Raises RulesError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RulesError(str(path), 1, 1, "a rules file in UTF-8", str(error)) from error


def parse_rules(text: str, source: str = "rewards.yml", folder: Path | None = None) -> Rules:
    """Read rules from YAML text; `source` names the file in errors, `folder` is where scorers are looked for.

    Raises RulesError at the first mistake.
    """
    root = compose(text, source)
    scorers = find(root, "scorers", inside=True)
    own = [key.value for key, _ in scorers.value] if isinstance(scorers, yaml.MappingNode) else []
    reader = Reader(source, {Expression: partial(_formula, [*KNOWN_NAMES, *own]), Span: _span, Reach: _reach})
    rules = reader.record(Rules, root, "rules file", _keys(root))
    if rules.version == 1 and find(root, "rules") is root:
        reader.refuse(root, "`rules` in rules file", "nothing")
    for path, expected, got, hint in problems(rules):
        reader.refuse(find(root, path), expected, str(got), hint)
    return replace(rules, folder=str(folder.resolve())) if folder else rules


def json_schema() -> str:
    """The JSON Schema of rules files, for editors that complete and check them."""
    return (resources.files("bot.feedback") / "rewards.schema.json").read_text(encoding="utf-8")


def _keys(root: yaml.Node) -> list[str]:
    """The keys that a file of this format may have."""
    version = find(root, "version", inside=True)
    is_first = isinstance(version, yaml.ScalarNode) and version.value == "1"
    hidden = ("folder", *(FORMAT_2_ONLY if is_first else ()))
    return [field.name for field in fields(Rules) if field.name not in hidden]


def _formula(known: Collection[str], reader: Reader, node: yaml.Node, name: str) -> Expression:
    if reader.is_number(node):
        return Expression.of(reader.number(node, name))
    try:
        return Expression.parse(reader.word(node, name), known)
    except ExpressionError as error:
        style = node.style if isinstance(node, yaml.ScalarNode) else None
        offset = 0 if style in {"|", ">"} else error.column + (style is not None)
        reader.refuse(node, f"{error.expected} in {name}", error.got, error.hint, offset)


def _span(reader: Reader, node: yaml.Node, name: str) -> Span:
    """`1`, or `{min: 1, max: 3}` with either left out."""
    if not isinstance(node, yaml.MappingNode):
        number = reader.number(node, name)
        return Span(number, number)
    bounds = {key.value: reader.number(child, key.value) for key, child in reader.items(node, name)}
    for key, _ in node.value:
        if key.value not in {"min", "max"}:
            reader.refuse(key, f"min or max in {name}", repr(key.value))
    return Span(bounds.get("min"), bounds.get("max"))


def _reach(reader: Reader, node: yaml.Node, name: str) -> Reach:
    """`reply`, `words`, `conversation`, or `{last: n}`."""
    if isinstance(node, yaml.ScalarNode) and node.value in {"reply", WORDS, "conversation"}:
        return Reach(node.value)
    items = reader.items(node, name) if isinstance(node, yaml.MappingNode) else []
    if len(items) != 1 or items[0][0].value != "last":
        reader.refuse(node, f"reply, words, conversation or {{last: n}} for {name}", shown(node))
    return Reach("reply", reader.value(int, items[0][1], "last"))

"""Rules somebody is writing in a page: checked, compared with those in force, put in force.

A page may name only scorers that the domain's file or the rules in force already name: a scorer is code, and whoever may
edit rules need not be somebody who may install code.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

from bot.domain import Domain
from bot.errors import ConflictError
from bot.feedback.rules import Rules, RulesError, load_rules, parse_rules, read_rules
from bot.feedback.rules_checks import unknown_words
from bot.feedback.rules_reader import compose, find
from bot.feedback.settle import put_in_force, rules_in_force, version_in_force
from bot.feedback.store import RulesVersion, Store

SOURCE = "rewards.yml"
"""How a draft is called in errors."""


@dataclass(frozen=True, slots=True)
class InForce:
    """The rules that rewards are made by, and where they come from."""

    rules: Rules
    text: str
    version: RulesVersion | None
    """None: the domain's own file."""
    file_rules: Rules


@dataclass(frozen=True, slots=True)
class DiffLine:
    """One line of a comparison. `kind`: same, added, removed, or gap (lines left out; no text)."""

    kind: str
    text: str = ""


def in_force(store: Store, domain: Domain) -> InForce:
    """Raises RulesError when the domain's file became unreadable."""
    file_rules = load_rules(domain.rewards_path)
    version = version_in_force(store, file_rules)
    text = version.text if version else read_rules(domain.rewards_path)
    return InForce(rules_in_force(store, file_rules), text, version, file_rules)


def parse_draft(text: str, now: InForce, domain: Domain) -> Rules:
    """Raises RulesError at the first mistake."""
    rules = parse_rules(text, SOURCE, domain.folder)
    known = {spec.entry for used in (now.rules, now.file_rules) for spec in used.scorers.values()}
    for name, spec in rules.scorers.items():
        if spec.entry not in known:
            mark = find(compose(text, SOURCE), f"scorers.{name}").start_mark
            expected = "a scorer that the domain's file names (a new one is code: `rejoinder rules apply`)"
            raise RulesError(SOURCE, mark.line + 1, mark.column + 1, expected, repr(spec.entry))
    return rules


def warnings_of(rules: Rules, domain: Domain) -> list[str]:
    """What cannot be wrong by itself, but never happens in this domain."""
    return unknown_words(rules, domain.articles, domain.slots)


def save(
    store: Store, domain: Domain, text: str, *, based_on: str, author: str, reason: str, at: float
) -> RulesVersion:
    """Put a draft in force. Raises RulesError; ConflictError when others are in force than those it was made from."""
    now = in_force(store, domain)
    if now.rules.rules_hash != based_on:
        raise ConflictError(f"rules: expected {based_on} in force, got {now.rules.rules_hash}: somebody was faster")
    if parse_draft(text, now, domain).rules_hash == based_on:
        raise ConflictError("rules: expected a change, got what is in force")
    return put_in_force(store, text, now.file_rules, author=author, reason=reason, now=at)


def diff(before: str, after: str, context: int = 2) -> list[DiffLine]:
    """Line by line, as `diff -u` shows it."""
    return list(_lines(before, after, context))


def _lines(before: str, after: str, context: int) -> Iterator[DiffLine]:
    kinds = {" ": "same", "+": "added", "-": "removed"}
    for line in list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=context, lineterm=""))[2:]:
        if line.startswith("@@"):
            yield DiffLine("gap")
        else:
            yield DiffLine(kinds[line[0]], line[1:])

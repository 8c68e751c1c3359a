"""YAML nodes to frozen records, strictly: every key known, every value of the declared type. Knows no rule.

A mistake is a `RulesError`: `file:line:column: expected ..., got ... (did you mean ...?)`. `yaml.compose` only builds
nodes, which still know their places; no object is ever constructed from a tag.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import yaml

from bot.errors import DomainError
from bot.feedback.expressions import nearest

T = TypeVar("T")

MAX_CHARS = 100_000
"""Of a rules file."""
MAX_ITEMS = 100
"""Of one list or mapping: aliases could otherwise make a small file endless."""

_INT, _FLOAT, _NULL, _STR, _BOOL = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "null", "str", "bool"))


class RulesError(DomainError):
    """A mistake in a rules file, in parts, for whoever marks it in an editor. Lines and columns count from 1."""

    def __init__(self, source: str, line: int, column: int, expected: str, got: str, hint: str = "") -> None:
        self.source, self.line, self.column = source, line, column
        self.expected, self.got, self.hint = expected, got, hint
        tail = f" (did you mean {hint}?)" if hint else ""
        super().__init__(f"{source}:{line}:{column}: expected {expected}, got {got}{tail}")


def compose(text: str, source: str) -> yaml.Node:
    """The root node. Raises RulesError."""
    if len(text) > MAX_CHARS:
        raise RulesError(source, 1, 1, f"at most {MAX_CHARS} characters", str(len(text)))
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RulesError(source, line, column, "YAML", f"a mistake: {problem}") from error
    if root is None:
        raise RulesError(source, 1, 1, "rules", "an empty file")
    return root


def shown(node: yaml.Node) -> str:
    """A node as an error shows it."""
    if isinstance(node, yaml.ScalarNode):
        return repr(node.value)
    return "a mapping" if isinstance(node, yaml.MappingNode) else "a list"


def find(root: yaml.Node, path: str, *, inside: bool = False) -> yaml.Node:
    """The key or item at a dotted path (`rewards.style.rules.0`), or the nearest there is above it.

    `inside` gives the value instead, and a null node where there is none.
    """
    place, value = root, root
    for name in filter(None, path.split(".")):
        below = _below(value, name)
        if below is None:
            return yaml.ScalarNode(_NULL, "") if inside else place
        place, value = below
    return value if inside else place


def _below(node: yaml.Node, name: str) -> tuple[yaml.Node, yaml.Node] | None:
    """(what to point at, the value) of one key or item."""
    if isinstance(node, yaml.MappingNode):
        return next(((key, child) for key, child in node.value if key.value == name), None)
    if isinstance(node, yaml.SequenceNode) and name.isdigit() and int(name) < len(node.value):
        return (node.value[int(name)],) * 2
    return None


class Reader:
    """Builds records. `kinds` says how values of types that are no plain records are read."""

    def __init__(self, source: str, kinds: Mapping[Any, Callable[[Reader, yaml.Node, str], Any]]) -> None:
        self._source = source
        self._kinds = kinds

    def record(self, kind: type[T], node: yaml.Node, name: str, allowed: Collection[str] = ()) -> T:
        """A dataclass from a mapping; `allowed` are the keys that may stand there, where not all of its fields may."""
        hints = get_type_hints(kind)
        known: dict[str, Field[Any]] = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
        names = [field for field in known if not allowed or field in allowed]
        values: dict[str, Any] = {}
        for key, child in self.items(node, name):
            if key.value not in names:
                self.refuse(key, f"one of {', '.join(names)} in {name}", repr(key.value), nearest(key.value, names))
            values[key.value] = self.value(hints[key.value], child, key.value)
        for missing in (f.name for f in known.values() if f.name not in values and _required(f)):
            self.refuse(node, f"`{missing}` in {name}", "nothing")
        return kind(**values)

    def value(self, kind: Any, node: yaml.Node, name: str) -> Any:
        """One value of a declared type."""
        if kind in self._kinds:
            return self._kinds[kind](self, node, name)
        options = get_args(kind)
        if type(None) in options:
            return None if node.tag == _NULL else self.value(options[0], node, name)
        if get_origin(kind) is tuple:
            return self._list(options[0], node, name)
        if options and get_origin(kind) is not None:
            return {
                key.value: self.value(options[1], child, f"{name}.{key.value}") for key, child in self.items(node, name)
            }
        plain = {float: self.number, int: self._whole, str: self.word, bool: self._flag}
        return plain[kind](node, name) if kind in plain else self.record(kind, node, name)

    def items(self, node: yaml.Node, name: str) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
        """The keys and values of a mapping, each key once."""
        if not isinstance(node, yaml.MappingNode):
            self.refuse(node, f"a mapping for {name}", shown(node))
        self._bound(node, name)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.refuse(key, f"a plain key in {name}", shown(key))
            if key.value in seen:
                self.refuse(key, f"each key of {name} once", f"{key.value!r} twice")
            seen.add(key.value)
        return list(node.value)

    def number(self, node: yaml.Node, name: str) -> float:
        """A finite number."""
        try:
            number = float(node.value) if node.tag in (_INT, _FLOAT) else math.nan
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            self.refuse(node, f"a number for {name}", shown(node))
        return number

    def word(self, node: yaml.Node, name: str) -> str:
        """Text that is not empty."""
        if not isinstance(node, yaml.ScalarNode) or node.tag == _NULL or not node.value.strip():
            self.refuse(node, f"text for {name}", shown(node))
        return str(node.value)

    def is_number(self, node: yaml.Node) -> bool:
        """Whether it is written as one."""
        return node.tag in (_INT, _FLOAT)

    def refuse(self, node: yaml.Node, expected: str, got: str, hint: str = "", offset: int = 0) -> NoReturn:
        """Raise RulesError at a node; `offset` characters into it where that is known."""
        mark = node.start_mark
        raise RulesError(self._source, mark.line + 1, mark.column + 1 + offset, expected, got, hint)

    def _list(self, kind: Any, node: yaml.Node, name: str) -> tuple[Any, ...]:
        """A list, or one item without the brackets."""
        if not isinstance(node, yaml.SequenceNode):
            return (self.value(kind, node, name),)
        self._bound(node, name)
        return tuple(self.value(kind, child, name) for child in node.value)

    def _bound(self, node: yaml.CollectionNode, name: str) -> None:
        if len(node.value) > MAX_ITEMS:
            self.refuse(node, f"at most {MAX_ITEMS} items in {name}", str(len(node.value)))

    def _whole(self, node: yaml.Node, name: str) -> int:
        number = self.number(node, name)
        if not number.is_integer():
            self.refuse(node, f"a whole number for {name}", shown(node))
        return int(number)

    def _flag(self, node: yaml.Node, name: str) -> bool:
        if node.tag != _BOOL:
            self.refuse(node, f"true or false for {name}", shown(node))
        return str(node.value).lower() in ("true", "yes", "on")


def _required(declared: Field[Any]) -> bool:
    return declared.default is MISSING and declared.default_factory is MISSING

"""Checked reading of a domain's files: YAML with line numbers, and small shapes to check it against.

Owns how a file becomes plain data and how a mistake becomes `path:line: expected ..., got ...`.
Knows nothing of what a domain means. Aliases and duplicate keys are refused: a domain says each thing once.

A shape is `str`, `bool`, `float` (whole numbers too), `ANY`, `[shape]` (a list), `Each(shape)` (a mapping with free
keys), `OneOf(...)` (one of some words) or `Keys(required, optional)` (a mapping with known keys).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bot.errors import DomainError

ANY = object()
"""A shape that accepts every value."""

At = tuple[Hashable, ...]
"""Where a value is inside a document: keys and list positions from the top."""

_MAX_SHOWN_CHARS = 80


@dataclass(frozen=True)
class Each:
    """A mapping from any text to one shape."""

    shape: Any


@dataclass(frozen=True)
class OneOf:
    """One of these words."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class Keys:
    """A mapping with these keys and no others."""

    required: Mapping[str, Any] = field(default_factory=dict)
    optional: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Document:
    """Plain data read from a file, and the line where each value starts."""

    path: Path
    data: Any
    lines: Mapping[At, int]

    def line(self, at: At) -> int:
        """The line of a value, or of the nearest thing around it."""
        while at and at not in self.lines:
            at = at[:-1]
        return self.lines.get(at, 1)

    def error(self, at: At, expected: str, got: object) -> DomainError:
        """The mistake at `at`; for the caller to raise."""
        return mistake(self.path, self.line(at), expected, got)


def mistake(path: Path, line: int, expected: str, got: object) -> DomainError:
    """`path:line: expected ..., got ...`, with a long value cut short."""
    return DomainError(f"{path}:{line}: expected {expected}, got {got if isinstance(got, _Word) else _shown(got)}")


def _shown(value: object) -> str:
    said = repr(value)
    return said if len(said) <= _MAX_SHOWN_CHARS else said[: _MAX_SHOWN_CHARS - 3] + "..."


class _Word(str):
    """Text shown in a message as it is, without quotes."""

    __slots__ = ()


NOTHING = _Word("nothing")


def word(text: str) -> str:
    """Text that a message shows without quotes: `got a list`, not `got 'a list'`."""
    return _Word(text)


def read_text(path: Path) -> str:
    """A UTF-8 file. Raises DomainError where it is missing or is not UTF-8."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise mistake(path, 1, "a readable file", word(error.strerror or "an error")) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise mistake(path, line, "UTF-8 text", word(f"byte 0x{content[error.start]:02x}")) from error


def parse_yaml(path: Path, text: str, first_line: int = 1) -> Document:
    """Parse YAML whose first line is line `first_line` of the file. Raises DomainError."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[At, int] = {}
        data = None if node is None else _Walk(path, first_line, lines).value(node, ())
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line if error.problem_mark else 0
        raise mistake(path, line + first_line, "YAML", word(f"a mistake in it ({error.problem})")) from error
    except DomainError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a scalar that looks like a date and is none
        raise mistake(path, first_line, "YAML", word(str(error).splitlines()[0])) from error
    return Document(path, data, lines)


class _Walk:
    """Turns YAML nodes into plain data, noting lines and refusing what a reader would overlook."""

    def __init__(self, path: Path, first_line: int, lines: dict[At, int]) -> None:
        self._path, self._first_line, self._lines = path, first_line, lines
        self._seen: set[int] = set()
        self._scalars = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, at: At) -> Any:
        self._lines.setdefault(at, self._line(node))
        if id(node) in self._seen:
            raise mistake(self._path, self._line(node), "each thing written out", word("an alias"))
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, at)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*at, i)) for i, item in enumerate(node.value)]
        return self._scalars.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, at: At) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = self._line(key_node)
            is_scalar = isinstance(key_node, yaml.ScalarNode)
            key = self._scalars.construct_object(key_node) if is_scalar else None
            if not isinstance(key, str):
                raise mistake(self._path, line, "a text key (quote it)", key)
            if key in found:
                raise mistake(self._path, line, "each key once", word(f"{key!r} twice"))
            self._lines[(*at, key)] = line
            found[key] = self.value(value_node, (*at, key))
        return found

    def _line(self, node: yaml.Node) -> int:
        return int(node.start_mark.line) + self._first_line


def check(document: Document, shape: Any, at: At = (), value: Any = ANY) -> None:
    """Compare a document with a shape. Raises DomainError at the first difference."""
    if value is ANY:
        value = document.data
    if shape is ANY:
        return
    if isinstance(shape, Keys):
        _check_keys(document, shape, at, _mapping(document, at, value))
    elif isinstance(shape, Each):
        for key, item in _mapping(document, at, value).items():
            check(document, shape.shape, (*at, key), item)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise document.error(at, f"a list{_of(at)}", _kind(value))
        for i, item in enumerate(value):
            check(document, shape[0], (*at, i), item)
    else:
        _check_scalar(document, shape, at, value)


def _mapping(document: Document, at: At, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise document.error(at, f"a mapping{_of(at)}", _kind(value))
    return value


def _check_keys(document: Document, shape: Keys, at: At, value: dict[str, Any]) -> None:
    known = {**shape.required, **shape.optional}
    for key, item in value.items():
        if key not in known:
            raise document.error((*at, key), f"one of {', '.join(known)}{_of(at)}", key)
        check(document, known[key], (*at, key), item)
    for key in shape.required:
        if key not in value:
            raise document.error(at, f"{key!r}{_of(at)}", NOTHING)


def _check_scalar(document: Document, shape: Any, at: At, value: Any) -> None:
    if isinstance(shape, OneOf):
        if value not in shape.words:
            raise document.error(at, f"one of {', '.join(shape.words)}{_of(at)}", value)
    elif shape is str:
        if not isinstance(value, str):
            raise document.error(at, f"text{_of(at)}", _kind(value))
        if not value.strip():
            raise document.error(at, f"text{_of(at)}", word("an empty one"))
    elif shape is bool and not isinstance(value, bool):
        raise document.error(at, f"true or false{_of(at)}", _kind(value))
    elif shape is float and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise document.error(at, f"a number{_of(at)}", _kind(value))


def _of(at: At) -> str:
    names = [key for key in at if isinstance(key, str)]
    return f" in {'.'.join(names)}" if names else ""


def _kind(value: Any) -> object:
    if value is None:
        return NOTHING
    if isinstance(value, dict | list):
        return word("a mapping" if isinstance(value, dict) else "a list")
    return value


def one_line(text: str) -> str:
    """The text with every run of white space made one space."""
    return " ".join(text.split())


def numbered(key: str, texts: tuple[str, ...]) -> Iterator[tuple[At, str]]:
    """Each text of a list with its place."""
    return (((key, i), text) for i, text in enumerate(texts))


def refuse_repeat(document: Document, at: At, text: str, seen: dict[str, str]) -> None:
    """Note a text in `seen` (text -> where). Raises DomainError when it is there already, whatever its case."""
    key = one_line(text).casefold()
    if key in seen:
        raise document.error(at, "each title and question once", word(f"{text!r} as in {seen[key]}"))
    seen[key] = f"{document.path}:{document.line(at)}"

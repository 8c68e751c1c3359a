"""Expressions of a rules file: one short formula over named values, evaluated by simpleeval. Never `eval`.

1. `Expression.parse` reads the text once. Only what the grammar below names may occur; the rest is refused with the
   place of the mistake and, for a misspelt name, the nearest known one.
2. `Expression.number` and `Expression.holds` evaluate it over plain numbers and strings.

The grammar: numbers, strings, names, `+ - * /`, comparisons, `in (...)`, `and or not`, `a if b else c`, and calls of
`min`, `max` and `abs`. No attribute, index, power, loop or keyword, so the cost is bounded by the length of the text, and
the holes that simpleeval had (they went through attributes, modules and functions given to it) have nothing to go through.
"""

from __future__ import annotations

import ast
import math
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache

from simpleeval import DEFAULT_OPERATORS, EvalWithCompoundTypes, InvalidExpression

MAX_CHARS = 300
"""Of one expression."""
MAX_DEPTH = 20
"""Of nested parts."""

Value = float | int | str | bool

_FUNCTIONS = {"min": min, "max": max, "abs": abs}
_ALLOWED: tuple[type[ast.AST], ...] = (
    *(ast.Expression, ast.Name, ast.Load, ast.Constant, ast.Tuple, ast.Call, ast.IfExp),
    *(ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.UAdd),
    *(ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div),
    *(ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn),
)
_OPERATORS = {op: function for op, function in DEFAULT_OPERATORS.items() if op in _ALLOWED}


class ExpressionError(ValueError):
    """What was expected and got, at which column (from 0) of the text, and which name was probably meant."""

    def __init__(self, expected: str, got: str, column: int = 0, hint: str = "") -> None:
        super().__init__(f"expected {expected}, got {got}")
        self.expected, self.got = expected, got
        self.column = column
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Expression:
    """A formula that has been checked. Two of the same text are equal."""

    text: str

    @classmethod
    def parse(cls, text: str, known: Collection[str]) -> Expression:
        """Check `text` against the grammar and the `known` names. Raises ExpressionError."""
        text = text.strip()
        tree = _tree(text)
        for node in ast.walk(tree):
            _check_node(node, known)
        return cls(text)

    @classmethod
    def of(cls, number: float) -> Expression:
        """A constant; `0.50` and `.5` are the same."""
        return cls(repr(float(number)))

    @property
    def constant(self) -> float | None:
        """Its value if it is a plain number, with or without a sign."""
        try:
            return float(self.text)
        except ValueError:
            return None

    @property
    def names(self) -> frozenset[str]:
        """The values it reads."""
        return _names(self.text)

    def number(self, values: Mapping[str, Value]) -> float:
        """Its value, a finite number. Raises ExpressionError."""
        if (constant := self.constant) is not None:
            return constant
        found = self._evaluate(values)
        if not isinstance(found, int | float) or not math.isfinite(found):
            raise ExpressionError(f"a finite number from {self.text}", repr(found))
        return float(found)

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Whether it is true (a number: whether it is not 0). Raises ExpressionError."""
        return bool(self._evaluate(values))

    def _evaluate(self, values: Mapping[str, Value]) -> object:
        sandbox = _SANDBOX.evaluator
        sandbox.names = dict(values)
        try:
            return sandbox.eval(self.text, previously_parsed=_tree(self.text).body)
        except (InvalidExpression, ArithmeticError, TypeError, ValueError) as error:
            said = str(error) or type(error).__name__
            raise ExpressionError(f"a value of {self.text}", said.splitlines()[0]) from error


class _Sandbox(threading.local):
    """One evaluator a thread: it keeps the names it was given last."""

    def __init__(self) -> None:
        self.evaluator = EvalWithCompoundTypes(operators=_OPERATORS, functions=_FUNCTIONS)


_SANDBOX = _Sandbox()


@lru_cache(maxsize=1024)
def _tree(text: str) -> ast.Expression:
    if len(text) > MAX_CHARS:
        raise ExpressionError(f"at most {MAX_CHARS} characters", str(len(text)))
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        column = getattr(error, "offset", None) or 1
        message = getattr(error, "msg", None) or str(error)
        raise ExpressionError("a formula", f"a mistake: {message}", column - 1) from error
    if _depth(tree) > MAX_DEPTH:
        raise ExpressionError(f"at most {MAX_DEPTH} nested parts", "more")
    return tree


def _depth(node: ast.AST) -> int:
    deepest, level = 0, [node]
    while level and deepest <= MAX_DEPTH:
        deepest, level = deepest + 1, [child for parent in level for child in ast.iter_child_nodes(parent)]
    return deepest


@lru_cache(maxsize=1024)
def _names(text: str) -> frozenset[str]:
    return frozenset(node.id for node in ast.walk(_tree(text)) if isinstance(node, ast.Name)) - _FUNCTIONS.keys()


def _check_node(node: ast.AST, known: Collection[str]) -> None:
    column = getattr(node, "col_offset", 0)
    match node:
        case ast.Constant(value=value) if not isinstance(value, int | float | str):
            raise ExpressionError("a number or a string", repr(value), column)
        case ast.Constant(value=float(value)) if not math.isfinite(value):
            raise ExpressionError("a finite number", repr(value), column)
        case ast.Call(func=ast.Name(id=name), args=[_, *_], keywords=[]) if name in _FUNCTIONS:
            return
        case ast.Call():
            raise ExpressionError("min, max or abs with plain arguments", "another call", column)
        case ast.Name(id=name) if name not in known and name not in _FUNCTIONS:
            raise ExpressionError(f"one of {', '.join(known)}", repr(name), column, nearest(name, known))
    if not isinstance(node, _ALLOWED):
        expected = "numbers, strings, names, + - * /, comparisons, and, or, not, if, min, max, abs"
        raise ExpressionError(expected, type(node).__name__, column)


def nearest(word: str, known: Collection[str]) -> str:
    """The known word that was probably meant, or empty."""
    return next(iter(get_close_matches(word, sorted(known), n=1)), "")

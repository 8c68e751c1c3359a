"""Formulas: what they may say, what they are refused, and that refusing costs nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.feedback.expressions import MAX_CHARS, Expression, ExpressionError

KNOWN = ("value", "num_words", "label", "act")


def formula(text: str) -> Expression:
    return Expression.parse(text, KNOWN)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.5", 0.5),
        ("-0.5", -0.5),
        ("0.5 * value - 1 / 4", 0.75),
        ("min(1, num_words / 100) + abs(-1) * max(2, 3)", 3.3),
        ("1 if num_words > 20 and not value < 0 else -1", 1.0),
        ("0.2 * (label == 'wrong')", 0.2),
        ('0.2 * (act in ("handoff", "clarify"))', 0.0),
    ],
)
def test_a_formula_is_arithmetic_over_names(text: str, expected: float) -> None:
    """With value 2, 30 words, label wrong, act answer."""
    values = {"value": 2.0, "num_words": 30, "label": "wrong", "act": "answer"}
    assert formula(text).number(values) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "().__class__.__bases__[0].__subclasses__()",
        "value.__class__",
        "label.format(value)",
        "label[0]",
        "'%s' % value",
        "f'{value}'",
        "9 ** 9 ** 9",
        "1 << 100000",
        "[value for value in (1, 2)]",
        "(lambda: 1)()",
        "open('x')",
        "min(*act)",
        "max(value, key=abs)",
        "min()",
        "abs",
        "b'x'",
        "None",
        "1j",
        "value := 2",
        "value; value",
        "value\nvalue",
        "import os",
        "",
        "(" * 250 + "1" + ")" * 250,
        "abs(" * 30 + "1" + ")" * 30,
        "1e999",
        "-" * 200 + "1",
        "1" * (MAX_CHARS + 1),
        "\0",
    ],
)
def test_what_is_no_arithmetic_is_refused_before_it_runs(text: str) -> None:
    """Attributes, indices, powers, calls, loops, and texts without end."""
    with pytest.raises(ExpressionError):
        formula(text).number({"value": 1.0, "label": "a", "act": "b", "num_words": 1})


def test_a_misspelt_name_is_shown_with_its_place_and_the_nearest_one() -> None:
    """Column 8 of `0.5 if num_word > 3 else 0`, counted from 0, is 7."""
    with pytest.raises(ExpressionError) as caught:
        formula("0.5 if num_word > 3 else 0")
    assert (caught.value.column, caught.value.hint) == (7, "num_words")


@pytest.mark.parametrize("text", ["1 / value", "label * 2", "label + 1", "label", "1e308 * 10", "-label", "label < 1"])
def test_what_has_no_finite_number_is_an_error_of_its_own(text: str) -> None:
    """Value 0, label a word: nothing but ExpressionError comes out."""
    with pytest.raises(ExpressionError):
        formula(text).number({"value": 0.0, "label": "word"})


def test_a_word_cannot_be_repeated_without_end() -> None:
    """simpleeval bounds the length of what is built; the control is that the same multiplication of numbers is fine."""
    with pytest.raises(ExpressionError):
        formula("'aaaaaaaaaa' * 999999999 == label").holds({"label": ""})
    assert formula("10 * 999999999 > value").holds({"value": 1.0})


def test_constants_are_known_and_equal_however_they_are_spelt() -> None:
    """`0.50` and `.5`; a formula is none."""
    assert Expression.of(0.50) == Expression.of(0.5)
    assert (Expression.of(-1).constant, formula("value").constant) == (-1.0, None)


def test_a_formula_names_what_it_reads() -> None:
    """Functions are no names."""
    assert formula("max(value, num_words) if label == 'a' else 0").names == {"value", "num_words", "label"}


@given(st.text(max_size=60))
def test_whatever_is_written_either_counts_or_is_refused(text: str) -> None:
    """No other exception, whatever the text."""
    try:
        number = formula(text).number({"value": 1.0, "num_words": 3, "label": "a", "act": "b"})
    except ExpressionError:
        return
    assert isinstance(number, float)

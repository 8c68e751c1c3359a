"""Filling a response: placeholders, braces, and values that are not there."""

from __future__ import annotations

from typing import Any

import pytest

from bot.actions.responses import fill_response, fill_text
from bot.domain import Variant


@pytest.mark.parametrize(
    ("text", "values", "shown"),
    [
        ("Hi {name}!", {"name": "Ada"}, "Hi Ada!"),
        ("Hi {name}!", {"name": None}, "Hi!"),
        ("Hi {name}!", {}, "Hi!"),
        ("Card {last4} is frozen", {"last4": None}, "Card is frozen"),
        ("{a}{b}", {"a": 1, "b": 2.5}, "12.5"),
        ("Say {{name}}", {"name": "Ada"}, "Say {name}"),
        ("{flag} and {items}", {"flag": True, "items": ["a", "b"]}, "yes and a, b"),
        ("{name}", {"name": "{other}", "other": "x"}, "{other}"),
        ("{name.__class__} {0} {not this}", {"name": "Ada"}, "{name.__class__} {0} {not this}"),
    ],
)
def test_a_placeholder_shows_its_value_and_nothing_when_there_is_none(
    text: str, values: dict[str, Any], shown: str
) -> None:
    """Never "None", never a second round of filling, never an attribute of a value."""
    assert fill_text(text, values) == shown


def test_buttons_are_filled_too() -> None:
    """A button may name a slot."""
    assert fill_response(Variant("Sure?", ("Freeze {card}",)), {"card": "4412"}) == Variant("Sure?", ("Freeze 4412",))

"""Responses of a domain, made ready to show: placeholders filled from variables and slots.

`{name}` is replaced, `{{` and `}}` are braces. A value that is missing or None leaves no trace (no "None", no double
space). Standard library only: no rasa-sdk.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bot.domain import Variant

_PLACEHOLDER = re.compile(r"\{\{|\}\}|(?P<space>[ \t]*)\{(?P<name>[A-Za-z_]\w*)\}")


def fill_text(text: str, values: Mapping[str, Any]) -> str:
    """The text with each `{name}` replaced by `values[name]`."""

    def filled(found: re.Match[str]) -> str:
        if found["name"] is None:
            return found[0][0]
        value = values.get(found["name"])
        return "" if value is None else f"{found['space']}{_said(value)}"

    return _PLACEHOLDER.sub(filled, text).strip()


def fill_response(variant: Variant, values: Mapping[str, Any]) -> Variant:
    """A wording with text and buttons filled."""
    return Variant(fill_text(variant.text, values), tuple(fill_text(title, values) for title in variant.buttons))


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

"""HTML for the operator's pages, built from text that nobody trusts. Every value passes through `text`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from html import escape
from typing import Any, TypeGuard

# Gradio puts HTML through a template engine: its own signs must be inert too.
_TEMPLATE_SIGNS = str.maketrans({"$": "&#36;", "{": "&#123;", "}": "&#125;", "`": "&#96;", "\\": "&#92;", "@": "&#64;"})


def text(value: object) -> str:
    """Any value as inert text, for element content and quoted attributes."""
    return escape(str(value), quote=True).translate(_TEMPLATE_SIGNS)


def when(at: object) -> str:
    """Epoch seconds as a short UTC time; anything else as a dash."""
    if not is_number(at) or not 0 < at < 1e11:
        return "–"
    return datetime.fromtimestamp(at, UTC).strftime("%d %b %Y, %H:%M UTC")


def is_number(value: object) -> TypeGuard[float]:
    """Whether it can be shown as a number: neither true or false, nor NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: object, digits: int = 2, *, signed: bool = False) -> str:
    """A number as people read it; anything else as a dash."""
    if not is_number(value):
        return "–"
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def percent(value: object) -> str:
    """A share as a percentage; anything else as a dash."""
    return f"{100 * value:.0f} %" if is_number(value) else "–"


def pill(label: object, tone: str = "") -> str:
    """A small label; `tone`: good, bad, warn, accent or empty."""
    return f'<span class="dk-pill {text(tone)}">{text(label)}</span>'


def mono(value: object) -> str:
    """An id or a version."""
    return f'<code class="dk-mono">{text(value)}</code>'


def empty(line: str) -> str:
    """What stands where there is nothing."""
    return f'<div class="dk-empty">{text(line)}</div>'


def problem(line: str) -> str:
    """One clear line about what went wrong; empty: nothing."""
    return f'<div class="dk-problem" role="alert">{text(line)}</div>' if line else ""


def table(heads: Iterable[str], rows: Iterable[Iterable[str]], css: str = "") -> str:
    """A table; cells are markup already."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="dk-scroll"><table class="dk-table {text(css)}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def top_bar(here: str) -> str:
    """The bar that leads from page to page; `here` is `operator` or `studio`."""
    pages = {"operator": ("Conversations", "../operator/"), "studio": ("Studio", "../studio/"), "chat": ("Chat", "../")}
    current = {True: ' aria-current="page"', False: ""}
    links = "".join(f'<a href="{href}"{current[name == here]}>{label}</a>' for name, (label, href) in pages.items())
    sign_out = '<button type="button" class="dk-sign-out">Sign out</button>'
    return f'<nav class="dk-top" aria-label="Pages"><span class="dk-brand">Rejoinder</span>{links}<span></span>{sign_out}</nav>'


SIGN_OUT_JS = """element.addEventListener('click', async (event) => {
  if (!event.target.closest('.dk-sign-out')) return;
  await fetch('../v1/session', {method: 'DELETE'});
  location.assign('../login');
})"""


def mapping(value: object) -> Mapping[str, Any]:
    """The value if it is an object, else an empty one: answers of another server version must not break the page."""
    return value if isinstance(value, Mapping) else {}

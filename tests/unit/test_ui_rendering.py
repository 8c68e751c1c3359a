"""What the operator's pages make of text that nobody trusts, and of figures that may be missing."""

from __future__ import annotations

import math
from html import unescape
from html.parser import HTMLParser

import pytest

from ui import chat, markup

PAYLOADS = [
    "<script>alert(1)</script>",
    "<SCRIPT SRC=//evil.example/x.js></SCRIPT>",
    "<img src=x onerror=alert(1)>",
    '<img src="x" onerror="alert(\'1\')">',
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
    "<iframe src=javascript:alert(1)></iframe>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<object data=javascript:alert(1)></object>",
    "<embed src=javascript:alert(1)>",
    "<a href=javascript:alert(1)>x</a>",
    "<a href='data:text/html,<script>alert(1)</script>'>x</a>",
    "<form action=javascript:alert(1)><button>x</button></form>",
    "<button formaction=javascript:alert(1)>x</button>",
    "<input autofocus onfocus=alert(1)>",
    "<select autofocus onfocus=alert(1)>",
    "<textarea autofocus onfocus=alert(1)>",
    "<details open ontoggle=alert(1)>",
    "<video><source onerror=alert(1)></video>",
    "<audio src=x onerror=alert(1)>",
    "<body onload=alert(1)>",
    "<marquee onstart=alert(1)>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<base href=//evil.example/>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<style>@import '//evil.example/x.css'</style>",
    "<math><mi xlink:href=javascript:alert(1)>x</mi></math>",
    "<template><script>alert(1)</script></template>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<!--><img src=x onerror=alert(1)>-->",
    "<![CDATA[<script>alert(1)</script>]]>",
    "</div></section></article><script>alert(1)</script>",
    "</details></summary><img src=x onerror=alert(1)>",
    "</textarea><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "' onmouseover='alert(1)",
    '" autofocus onfocus=alert(1) x="',
    "' style='background:url(//evil.example)' x='",
    '"><script>alert(1)</script>',
    "'><img src=x onerror=alert(1)>",
    "` onmouseover=alert(1) `",
    "${alert(1)}",
    "${constructor.constructor('alert(1)')()}",
    "{{constructor.constructor('alert(1)')()}}",
    "{{#with this}}{{lookup this 'constructor'}}{{/with}}",
    "{% include '/etc/passwd' %}",
    "@children<script>alert(1)</script>",
    "\\u003cscript\\u003ealert(1)\\u003c/script\\u003e<script>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "<scr\0ipt>alert(1)</scr\0ipt>",
]
OURS = {
    "div",
    "section",
    "header",
    "h2",
    "h3",
    "p",
    "article",
    "details",
    "summary",
    "span",
    "code",
    "time",
    "i",
    "button",
}
OURS |= {"table", "thead", "tbody", "tr", "th", "td"}
ATTRIBUTES = {"class", "data-id", "type", "scope", "style"}


class Reader(HTMLParser):
    """What a browser would find: elements, attributes, and text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(payload: str) -> str:
    """Everything the pages render about the payload."""
    parts = [markup.problem(payload), markup.empty(payload)]
    return "".join(parts)


def test_there_are_at_least_fifty_payloads() -> None:
    """And no two are the same."""
    assert len(set(PAYLOADS)) == len(PAYLOADS) >= 50


@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_text_adds_no_element_and_no_attribute(payload: str) -> None:
    """A parser finds our elements and attributes only, and the payload as text."""
    found = Reader(shown(payload))
    assert found.tags <= OURS
    assert found.attributes <= ATTRIBUTES | {"role"}
    assert payload in found.text


@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_text_holds_nothing_a_template_engine_would_run(payload: str) -> None:
    """Gradio evaluates HTML as a template: its signs are character references."""
    inert = markup.text(payload)
    assert not set("${}`\\<>\"'@") & set(inert)
    assert unescape(inert) == payload.replace("\0", "�") or unescape(inert) == payload


def test_the_check_sees_unescaped_text() -> None:
    """The control: the same reader finds what a forgotten escape would let through."""
    found = Reader('<p class="x">' + PAYLOADS[2] + "</p>")
    assert ("img" in found.tags, "onerror" in found.attributes) == (True, True)


def test_the_first_frame_of_the_chat_page_is_inert_and_says_ai() -> None:
    """Names and notices come from a domain folder; they land in an attribute and in text."""
    frame = chat.first_frame('"><img src=x onerror=alert(1)>', "I am an <b>AI</b>.", "Ask for a person.")
    found = Reader(frame)
    assert found.tags == {"div", "p", "strong"}
    assert found.text == "I am an <b>AI</b>.Ask for a person."


@pytest.mark.parametrize("value", [None, "", "x", True, math.nan, math.inf, [], {}])
def test_what_is_not_a_number_is_a_dash(value: object) -> None:
    """In numbers, shares and times alike."""
    assert (markup.number(value), markup.percent(value), markup.when(value)) == ("–", "–", "–")


def test_numbers_shares_and_times_read_as_people_write_them() -> None:
    """1 780 000 000 s is 28 May 2026, 20:26:40 UTC."""
    assert (markup.number(0.5), markup.number(0.5, signed=True), markup.number(-0.254, signed=True)) == (
        "0.50",
        "+0.50",
        "-0.25",
    )
    assert (markup.percent(0.753), markup.when(1_780_000_000)) == ("75 %", "28 May 2026, 20:26 UTC")

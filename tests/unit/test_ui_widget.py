"""What the widget weighs and what it is made of."""

from __future__ import annotations

import gzip
import re

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from ui.app import STATIC_FOLDER, lean, mount_public
from ui.chat import chat_config

MAX_BYTES = 30_000


def modules_of(name: str, found: set[str] | None = None) -> set[str]:
    """A script of ours and all that it imports."""
    found = {name} if found is None else found | {name}
    for other in re.findall(r'from "\./([\w.-]+)"', (STATIC_FOLDER / name).read_text()):
        if other not in found:
            found = modules_of(other, found)
    return found


@pytest.fixture
def client() -> TestClient:
    """What anybody may load of the pages; no domain's words."""
    app = FastAPI()
    mount_public(app, chat_config("", "", ""))
    return TestClient(app)


def test_the_whole_widget_is_under_thirty_kilobytes_gzipped(client: TestClient) -> None:
    """The script with its texts, the chat's modules and the styles: everything a shop's page loads."""
    files = {*modules_of("chat.js"), "chat.css", "tokens.css", "widget/widget.css"}
    assert {"thread.js", "markdown.js", "vote.js"} < files
    parts = {"widget.js": client.get("/widget.js").content}
    parts |= {name: client.get(f"/static/rejoinder/{name}").content for name in files}
    weights = {name: len(gzip.compress(content)) for name, content in parts.items()}
    assert sum(weights.values()) < MAX_BYTES, weights


def test_other_sites_may_load_it_and_always_ask_for_the_newest(client: TestClient) -> None:
    """Modules are fetched with CORS; a kept old module beside a new one would break the chat."""
    for path in ("/widget.js", "/static/rejoinder/chat.js", "/static/rejoinder/widget/widget.css"):
        headers = client.get(path, headers={"Origin": "https://shop.example"}).headers
        assert (headers["access-control-allow-origin"], headers["cache-control"]) == ("*", "no-cache"), path


def test_without_a_domains_words_the_catalogues_are_carried(client: TestClient) -> None:
    """And the script closes no tag and breaks no line of what is put before it."""
    first = client.get("/widget.js").text.splitlines()[0]
    assert first.startswith('window.rejoinderConfig = {"assistant":"Assistant","ai_notice":"You are chatting')


def test_scripts_are_sent_without_comments_and_otherwise_whole() -> None:
    """Addresses in code are no comments."""
    source = '// why\n/** what:\n * more */\nconst at = "https://x"; // kept\n\n  go(at);\n'
    assert lean(source) == 'const at = "https://x"; // kept\ngo(at);'
    assert lean("/* why */ .a {} /* kept */\n/* gone\n*/\n  .b {}\n") == "/* why */ .a {} /* kept */\n.b {}"


def test_no_script_holds_a_template_of_several_lines() -> None:
    """Its lines would lose their indentation, or pass for comments."""
    for path in STATIC_FOLDER.rglob("*.js"):
        assert [line for line in lean(path.read_text()).splitlines() if line.count("`") % 2] == [], path.name

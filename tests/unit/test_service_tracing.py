"""Traces go to a collector where one is named, and nowhere, with nothing loaded, where none is."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from bot.settings import load_settings
from bot.tracing import no_span, tracing
from tests.session_rig import open_session


@contextmanager
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Its address, and the (path, body) of what it was sent."""
    got: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", got
        server.shutdown()
        thread.join()


async def test_a_reply_is_traced_without_a_word_of_it(tmp_path: Path) -> None:
    """The spans of a session, on the wire at the end; what was said is not in them."""
    with collector() as (endpoint, got), open_session(tmp_path / "home") as rig, tracing(endpoint) as span:
        rig.session = rig.new_session(span=span)
        await rig.say("Where is my card?")
    sent = b"".join(body for _, body in got)

    assert {path for path, _ in got} == {"/v1/traces"}
    assert all(name in sent for name in (b"retrieve", b"choose", b"store", b"v000000", b"rejoinder"))
    assert b"card" not in sent


def test_without_an_endpoint_nothing_is_loaded_or_sent() -> None:
    """In a fresh interpreter, since other packages may load OpenTelemetry for themselves."""
    source = (
        "import sys\nfrom bot.tracing import tracing\nwith tracing('') as span, span('reply'): pass\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )

    subprocess.run([sys.executable, "-c", source], check=True, cwd=Path(__file__).parents[2], timeout=60)


def test_the_endpoint_comes_from_our_setting_or_the_usual_variable() -> None:
    """Ours wins; with neither it is off."""
    usual = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://usual:4318"}

    assert load_settings({}, {}).otel_endpoint == ""
    assert load_settings({}, usual).otel_endpoint == "http://usual:4318"
    assert (
        load_settings({}, usual | {"REJOINDER_OTEL_ENDPOINT": "http://ours:4318"}).otel_endpoint == "http://ours:4318"
    )


def test_no_span_is_a_block_like_any_other() -> None:
    """What parts are built with when nobody traces."""
    with no_span("reply", queue_s=0.5):
        pass

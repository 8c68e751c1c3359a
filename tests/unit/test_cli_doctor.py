"""The doctor: one line a check, a failing one hides no other."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from bot import cli
from bot.doctor import CHECKS, Finding, examine
from bot.settings import Settings

MakeSettings = Callable[..., Settings]


def a_model(folder: Path) -> str:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text("w")
    return str(folder)


@pytest.fixture
def well(make_settings: MakeSettings, tmp_path: Path) -> dict[str, object]:
    """Overrides of settings with which every check passes."""
    model = a_model(tmp_path / "model")
    return {"port": 0, "model": model, "causal_model": model}


def findings(settings: Settings) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(settings)}


def test_a_sound_home_passes_every_check(make_settings: MakeSettings, well: dict[str, object]) -> None:
    """All named checks run and hold."""
    found = findings(make_settings(**well))
    assert list(found) == list(CHECKS)
    assert [finding for finding in found.values() if not finding.ok] == []
    assert "synchronous=FULL" in found["sqlite"].detail


def test_a_taken_port_fails_alone(make_settings: MakeSettings, well: dict[str, object]) -> None:
    """The other checks still speak."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = findings(make_settings(**{**well, "port": port}))
    assert [name for name, finding in found.items() if not finding.ok] == ["port"]
    assert f"port {port} is in use" in found["port"].detail


@pytest.mark.parametrize(
    ("overrides", "name", "said"),
    [
        ({"domain": "/nowhere"}, "domain", "expected one of"),
        ({"model": "/nowhere/model"}, "encoder", "REJOINDER_MODEL"),
        ({"host": "203.0.113.7"}, "port", "cannot listen on"),
    ],
)
def test_each_fault_is_found_where_it_is(
    make_settings: MakeSettings, well: dict[str, object], overrides: dict[str, object], name: str, said: str
) -> None:
    """One wrong setting, one failing line that says so."""
    found = findings(make_settings(**(well | overrides)))
    assert not found[name].ok
    assert said in found[name].detail


def test_a_home_that_anybody_may_write_is_refused(make_settings: MakeSettings, well: dict[str, object]) -> None:
    """So are keys that others may read; both say which chmod helps."""
    settings = make_settings(**well)
    settings.home.mkdir(mode=0o700)
    keys = settings.home / "keys"
    keys.mkdir(mode=0o755)
    assert "chmod 700" in findings(settings)["home"].detail
    keys.chmod(0o700)
    settings.home.chmod(0o777)
    assert "chmod o-w" in findings(settings)["home"].detail
    settings.home.chmod(0o700)
    assert findings(settings)["home"].ok


def test_the_command_fails_with_1_and_prints_json(
    well: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failed check is a failed command; the last line is one object; a home that was not there is not left behind."""
    home = tmp_path / "new"
    options = [f"--set={name}={value}" for name, value in well.items()]
    assert cli.main(["doctor", "--json", "--home", str(home), "--domain", "/nowhere", *options]) == 1
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["ok"] is False
    assert {check["name"] for check in report["checks"] if not check["ok"]} >= {"domain", "rules"}
    assert not home.exists()


def test_the_command_prints_one_line_a_check(well: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    """For people."""
    assert cli.main(["doctor", *[f"--set={name}={value}" for name, value in well.items()]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["ok", name] for name in CHECKS]

"""The command line: options anywhere, wrong use in one line with exit 2, errors without tracebacks."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bot import cli
from bot.errors import ConfigError

ROOT = Path(__file__).parents[2]


def says(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    """Exit code and stderr of a command line."""
    code = cli.main(argv)
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ("--home", "H", "--seed", "7", "--json", "doctor"),
        ("doctor", "--home", "H", "--seed", "7", "--json"),
        ("--seed=7", "doctor", "--json", "--home=H"),
    ],
)
def test_global_options_work_before_and_after_the_command(argv: tuple[str, ...]) -> None:
    """The same meaning wherever they stand."""
    args = cli.parse(argv)
    assert (args.command, args.home, args.seed, args.json) == ("doctor", "H", 7, True)


def test_settings_given_on_both_sides_of_the_command_add_up(tmp_path: Path) -> None:
    """`--set` may be repeated anywhere; sections nest."""
    given = ("--home", str(tmp_path), "--set", "learn.quorum=3", "up", "--set", "learn.window=64", "--set", "host=::1")
    settings = cli.settings_of(cli.parse(given))
    assert (settings.learn.quorum, settings.learn.window, settings.host) == (3, 64, "::1")


def test_a_flag_wins_over_the_same_setting(tmp_path: Path) -> None:
    """`--port` and `--host` are the clearer words."""
    given = ("--home", str(tmp_path), "up", "--port", "8", "--host", "a", "--set", "port=9", "--set", "host=b")
    settings = cli.settings_of(cli.parse(given))
    assert (settings.port, settings.host) == (8, "a")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((), "COMMAND"),
        (("fly",), "invalid choice: 'fly'"),
        (("--hom", "x", "doctor"), "--hom: unknown option"),
        (("doctor", "--hom", "x"), "--hom x"),
        (("serve", "--port", "abc"), "port: expected a whole number from 0 to 65535, got 'abc'"),
        (("serve", "--port", "65536"), "got '65536'"),
        (("--profile", "prod", "serve"), "invalid choice: 'prod'"),
        (("doctor", "--set", "quorum"), "--set: expected KEY=VALUE, got 'quorum'"),
        (("doctor", "--set", "learn.quroum=1"), "learn.quroum: unknown setting"),
        (("doctor", "--set", "learn.quorum=many"), "learn.quorum: expected int, got 'many'"),
        (("simulate", "--rate", "0"), "expected a number above 0, up to 1, got '0'"),
        (("simulate", "--turns", "-3"), "-3"),
        (("simulate", "--noise", "loud"), "invalid choice: 'loud'"),
        (("eval", "--dataset", "/nowhere.jsonl"), "expected a file, got '/nowhere.jsonl'"),
        (("versions",), "ACT"),
        (("versions", "promote"), "VERSION"),
        (("bench", "everything"), "invalid choice: 'everything'"),
        (("rules", "check", "--domain", "/nowhere"), "domain: expected one of"),
        (("export", "--person", "x"), "export: not in this version"),
        (("erase",), "erase: not in this version"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(argv: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What was wrong and, where it helps, what was expected."""
    code, error = says(capsys, *argv)
    assert code == 2
    assert error.startswith("rejoinder: ")
    assert error.count("\n") == 1
    assert said in error


def test_something_that_failed_is_one_line_and_exit_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Right use and yet impossible: there is no such version."""
    code, error = says(capsys, "versions", "promote", "v000009", "--home", str(tmp_path))
    assert code == 1
    assert "v000009" in error
    assert error.count("\n") == 1


def test_what_the_system_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk is a failure (exit 1), shown and not traced."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "/data/x")

    monkeypatch.setitem(cli.HANDLERS, "doctor", full)  # type: ignore[arg-type]
    assert says(capsys, "doctor") == (1, "rejoinder: [Errno 28] No space left on device: '/data/x'\n")


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """REJOINDER_DEBUG=1 lets the error through; it is no setting of its own."""
    monkeypatch.setenv("REJOINDER_DEBUG", "1")
    with pytest.raises(ConfigError):
        cli.main(["fly"])


def test_ctrl_c_is_exit_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """As shells expect it."""

    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.HANDLERS, "doctor", interrupted)  # type: ignore[arg-type]
    assert cli.main(["doctor"]) == 130


def test_help_lists_every_command_and_global_option(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0, and nothing of the program is hidden."""
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for word in (*cli.HANDLERS, *cli.LATER, "--home", "--domain", "--port", "--seed", "--profile", "--json", "--set"):
        assert word in shown


def test_children_get_the_global_options_back() -> None:
    """What `up` was told reaches serve and learn; port and host follow later, settled."""
    args = cli.parse(["up", "--home", "H", "--domain", "shop", "--seed", "3", "--port", "9", "--set", "learn.quorum=1"])
    assert cli._passed_on(args) == ["--home", "H", "--domain", "shop", "--seed", "3", "--set", "learn.quorum=1"]


@pytest.mark.parametrize(
    "rest", [("--rate", "0.5", "--async"), ("--seeds", "3", "--taste", "short", "--reply", "generated")]
)
def test_simulate_takes_its_own_options(rest: tuple[str, ...], tmp_path: Path) -> None:
    """A dataset, and what its people are like."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("")
    args = cli.parse(["simulate", "--dataset", str(rows), *rest])
    assert (args.dataset, args.noise, args.turns) == (rows, "mild", 1000)


def test_eval_takes_several_knowledge_files(tmp_path: Path) -> None:
    """Articles made of all of them."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("")
    assert cli.parse(["eval", "--dataset", str(rows), "--kb", str(rows), "--kb", str(rows)]).kb == [rows, rows]


def test_rules_check_ends_with_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    """Last line of stdout, as every command with --json."""
    assert cli.main(["rules", "check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["ok"] is True


def test_a_broken_rules_file_is_exit_2_with_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong input of a developer."""
    rules = tmp_path / "rewards.yml"
    rules.write_text("version: 1\nrules: {thumbs: {}}\n")
    code, error = says(capsys, "rules", "check", str(rules))
    assert code == 2
    assert f"{rules}:2" in error


def test_the_command_runs_as_a_module() -> None:
    """How the supervisor starts its children."""
    done = subprocess.run(
        [sys.executable, "-m", "bot.cli", "fly"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")

"""Image, compose file and system service: linted here as far as text tells."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
UNIT = (ROOT / "deploy/rejoinder.service").read_text()
COMPOSE = yaml.safe_load((ROOT / "deploy/docker-compose.yml").read_text())


def instructions() -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE))
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in joined.splitlines() if line.strip()]


def of(kind: str) -> list[str]:
    return [rest for name, rest in instructions() if name == kind]


def test_the_image_is_built_on_an_exact_base() -> None:
    """Every stage names a full version; `latest` would build something else tomorrow."""
    for base in of("FROM"):
        assert re.match(r"python:3\.11\.\d+-slim-\w+", base), base
    assert "latest" not in DOCKERFILE
    assert len(of("FROM")) == 2


def test_the_image_does_not_run_as_root() -> None:
    """The last USER is a number, so that `runAsNonRoot` can check it, and nothing runs after it as root."""
    names = [name for name, _ in instructions()]
    assert of("USER") == ["10001:10001"]
    assert "RUN" not in names[names.index("USER") :]


def test_the_image_checks_its_own_health_and_starts_in_exec_form() -> None:
    """Exec form: SIGTERM reaches the supervisor and not a shell."""
    assert "/health/ready" in of("HEALTHCHECK")[0]
    assert of("CMD") == ['["rejoinder", "up", "--host", "0.0.0.0"]']
    assert of("STOPSIGNAL") == ["SIGTERM"]


def test_the_image_installs_the_pinned_set_and_keeps_no_cache() -> None:
    """Each pip call is pinned by constraints or version, without a cache layer; ADD and sudo are not used."""
    installs = [run for run in of("RUN") if "pip install" in run]
    assert all("--no-cache-dir" in run for run in installs)
    assert all("-c constraints.txt" in run or "==" in run for run in installs)
    assert not of("ADD")
    assert "sudo" not in DOCKERFILE


def test_every_file_that_the_image_copies_exists_and_is_not_ignored() -> None:
    """A renamed package would otherwise be noticed in production."""
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [part for rest in of("COPY") if "--from" not in rest for part in rest.split()[:-1]]
    assert set(copied) == set(allowed)
    assert all((ROOT / name).exists() for name in copied)


def test_compose_publishes_on_loopback_and_gives_up_all_rights() -> None:
    """The first start must not open the bot to a network."""
    service = COMPOSE["services"]["rejoinder"]
    assert service["ports"] == ["127.0.0.1:7860:7860"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert service["image"] == f"rejoinder:{version}"


def test_whoever_stops_us_waits_longer_than_our_own_patience() -> None:
    """The supervisor gives its children 30 s; compose and systemd must not kill before that."""
    assert COMPOSE["services"]["rejoinder"]["stop_grace_period"] == "40s"
    assert unit()["Service"]["TimeoutStopSec"] == "40"


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT)
    return parser


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ExecStart", "/opt/rejoinder/.venv/bin/rejoinder up"),
        ("User", "rejoinder"),
        ("Restart", "on-failure"),
        ("KillMode", "mixed"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("CapabilityBoundingSet", ""),
        ("UMask", "0077"),
    ],
)
def test_the_service_is_hardened(key: str, value: str) -> None:
    """The settings that matter, by value."""
    assert unit()["Service"][key] == value


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_itself_finds_no_fault(tmp_path: Path) -> None:
    """`verify` accepts the unit (its command replaced by one that exists) and `security` rates it well."""
    path = tmp_path / "rejoinder.service"
    path.write_text(UNIT.replace("/opt/rejoinder/.venv/bin/rejoinder up", "/bin/true"))
    verified = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    rating = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", path]
    rated = subprocess.run(rating, capture_output=True, text=True, check=False)
    assert rated.returncode == 0, rated.stdout[-400:]

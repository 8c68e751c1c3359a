"""What is installed, pinned and asked for agrees, and is above the releases with known holes."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ASKED = {canonicalize_name(r.name): r for r in map(Requirement, PROJECT["project"]["dependencies"])}
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
PINNED = {canonicalize_name(line.split("==")[0]): Version(line.split("==")[1]) for line in LINES}

LAST_WITH_HOLES = {
    "gradio": "6.21.0",
    "starlette": "1.3.0",
    "python-multipart": "0.0.26",
    "websockets": "14.1",
    "uvicorn": "0.52.0",
    "h11": "0.15.0",
    "torch": "2.9.1",
    "transformers": "5.2.0",
}


@pytest.mark.parametrize(("name", "bad"), LAST_WITH_HOLES.items())
def test_a_release_with_known_holes_can_be_neither_pinned_nor_chosen(name: str, bad: str) -> None:
    """Others' requirements would accept these releases; ours refuse them."""
    assert PINNED[name] > Version(bad)
    assert not ASKED[name].specifier.contains(bad)


@pytest.mark.parametrize("name", ASKED)
def test_what_is_installed_is_what_is_pinned(name: str) -> None:
    """Tests speak about the set that users get; a local build tag (+cpu) does not matter."""
    installed = Version(distribution(name).version)
    assert Version(installed.public) == PINNED[name]
    assert ASKED[name].specifier.contains(installed.public)


def test_constraints_name_versions_and_no_places() -> None:
    """No address, no local build and no editable line: pip alone decides where packages come from."""
    assert [line for line in LINES if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []


def test_development_tools_are_pinned_as_well() -> None:
    """A new release of a linter must not break an old commit."""
    tools = [Requirement(line).name for line in PROJECT["project"]["optional-dependencies"]["dev"]]
    assert [tool for tool in tools if canonicalize_name(tool) not in PINNED] == []

"""docs/architecture.md: tests that it names exist, every promise has one, and modules are called by their names."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text()
PROMISES = PAGE.split("## What must always hold")[1].split("\n## ")[0]
NAMED = re.findall(r"`(test_\w+)`", PROMISES)
MODULES = sorted(set(re.findall(r"`((?:bot|online_learning|ui)(?:\.\w+)+)`", PAGE)))
TESTS = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"(?m)^\s*(?:async )?def (test_\w+)\(", path.read_text())
} | {path.stem for path in (ROOT / "tests").rglob("test_*.py")}


@pytest.mark.parametrize("name", NAMED)
def test_a_named_test_exists(name: str) -> None:
    """Renaming a test renames it here."""
    assert name in TESTS


def test_every_promise_names_a_test() -> None:
    """Ten invariants, each with at least one."""
    rows = re.findall(r"(?ms)^(\d+)\. (.*?)(?=^\d+\. |\Z)", PROMISES)

    assert [int(number) for number, _ in rows] == list(range(1, 11))
    assert [number for number, text in rows if "`test_" not in text] == []


def leads_somewhere(dotted: str) -> bool:
    """Whether a dotted name is a module, or a name that a module's text defines."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:length])
        source = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        if source.is_file() or path.is_dir():
            text = source.read_text() if source.is_file() else ""
            return all(
                re.search(rf"(?m)^\s*(?:async )?(?:def|class) {name}\b|^{name}\b", text) for name in parts[length:]
            )
    return False


@pytest.mark.parametrize("dotted", MODULES)
def test_a_module_or_function_that_is_named_exists(dotted: str) -> None:
    """`bot.policy.acts.legal_acts` is there under that name; `bot` itself can be imported."""
    assert importlib.util.find_spec(dotted.partition(".")[0]) is not None
    assert leads_somewhere(dotted)


def test_a_name_that_is_gone_is_noticed() -> None:
    """The control."""
    assert not leads_somewhere("bot.policy.acts.no_such_function")
    assert not leads_somewhere("bot.no_such_module.x")

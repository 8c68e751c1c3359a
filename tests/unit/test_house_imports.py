"""Who may import whom, module by module, and in which rooms third parties live."""

from __future__ import annotations

import ast
import fnmatch
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("bot", "online_learning", "ui")

HOMES: dict[str, tuple[str, ...]] = {
    "torch": ("bot.policy.*", "bot.compose", "online_learning", "online_learning.*"),  # compose sets the thread count
    "transformers": ("bot.policy.*", "online_learning", "online_learning.*"),
    "peft": ("bot.policy.*", "online_learning", "online_learning.*"),
    "gradio": ("ui", "ui.*"),
    "rasa_sdk": ("bot.actions", "bot.actions.*", "bot.domains.*"),
    "sqlite3": ("bot.feedback.*", "bot.knowledge.index", "bot.domains.*.actions"),
    "pysqlite3": ("bot.feedback.*", "bot.knowledge.index", "bot.domains.*.actions"),
    "sqlite_utils": ("bot.feedback.*", "bot.knowledge.index", "bot.domains.*.actions"),
    "authlib": ("bot.oidc",),
    "joserfc": ("bot.oidc",),
    "fastapi": ("bot.service", "bot.routes", "bot.routes.*", "bot.compose", "ui", "ui.*"),
    "prometheus_client": ("bot.metrics", "bot.service", "bot.routes.*", "online_learning.*"),
}
TORCH_FREE = (
    "types",
    "acts",
    "asking",
    "scripted",
    "adapters",
    "scheduler",
    "grounding",
    "vocabulary",
    "endings",
    "prefixes",
    "download",
    "transfer",
)
"""Parts of bot.policy that must load without torch (inside a function it may still be imported)."""
FORBIDDEN: list[tuple[str, tuple[str, ...]]] = [
    ("bot.errors", ("bot.*", "online_learning*", "ui*")),
    ("bot.conversation", ("bot.*", "online_learning*", "ui*")),
    ("bot.settings", ("bot.[!es]*", "bot.s[!e]*", "bot.se[!t]*", "online_learning*", "ui*")),
    ("bot.settings_sections", ("bot.*", "online_learning*", "ui*")),
    ("bot.policy.*", ("bot.feedback*", "bot.service", "bot.session", "bot.routes*")),
    ("bot.feedback.*", ("bot.policy*", "bot.service", "bot.session", "bot.routes*", "bot.knowledge*")),
    (
        "bot.session",
        (
            "bot.service",
            "bot.routes*",
            "bot.policy.engine",
            "bot.policy.model",
            "bot.policy.adapted",
            "bot.policy.encoder",
            "bot.actions.[!r]*",
        ),
    ),
    ("bot*", ("online_learning*", "ui", "ui.*")),
    ("ui*", ("online_learning*", "bot.[!wec]*", "bot.compose", "bot.cli")),
]
LEARNER_OUTSIDE = ("online_learning.simulate", "online_learning.bench")
LEARNER_FORBIDDEN = (
    "bot.session",
    "bot.service",
    "bot.routes*",
    "bot.compose",
    "bot.policy.engine",
    "bot.actions*",
    "ui*",
)


@cache
def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(source: str, *, anywhere: bool = True) -> set[str]:
    """Modules named in import statements; `anywhere=False`: only those that run at import, outside TYPE_CHECKING."""
    tree = ast.parse(source)
    found: set[str] = set()
    for node in ast.walk(tree) if anywhere else _at_import(tree.body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _at_import(body: list[ast.stmt]) -> list[ast.stmt]:
    found: list[ast.stmt] = []
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            found += _at_import(node.orelse)
        elif isinstance(node, ast.If | ast.Try):
            found += _at_import([*node.body, *node.orelse])
        else:
            found.append(node)
    return found


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def strangers(package: str, sources: dict[str, str]) -> list[str]:
    """Modules that import a third party without being its home."""
    return [
        name
        for name, source in sources.items()
        if not matches(name, HOMES[package]) and any(imported.split(".")[0] == package for imported in imports(source))
    ]


def trespassers(who: str, what: tuple[str, ...], sources: dict[str, str]) -> list[str]:
    return [
        f"{name} -> {imported}"
        for name, source in sources.items()
        if fnmatch.fnmatchcase(name, who)
        for imported in sorted(imports(source))
        if matches(imported, what) and imported.split(".")[0] in PACKAGES and imported != name
    ]


@cache
def our_sources() -> dict[str, str]:
    return {name: path.read_text() for name, path in modules().items()}


@pytest.mark.parametrize("package", HOMES)
def test_a_third_party_is_imported_only_at_its_home(package: str) -> None:
    """Each heavy or dangerous library has one place, so it can be replaced and watched there."""
    assert strangers(package, our_sources()) == []


@pytest.mark.parametrize(("who", "what"), FORBIDDEN)
def test_a_module_imports_only_downwards(who: str, what: tuple[str, ...]) -> None:
    """The finer half of the import rule."""
    assert trespassers(who, what, our_sources()) == []


def test_the_learner_knows_no_server() -> None:
    """Simulation and benchmarks may drive the service; the learner itself may not know it."""
    learner = {
        name: source
        for name, source in our_sources().items()
        if name.startswith("online_learning") and not name.startswith(LEARNER_OUTSIDE)
    }
    assert trespassers("online_learning*", LEARNER_FORBIDDEN, learner) == []


def test_an_import_out_of_place_is_noticed() -> None:
    """Control: the checks above do see a violation, also inside a function."""
    sources = {"bot.session": "def f():\n    import torch\nfrom bot.policy.engine import Engine\n"}
    assert strangers("torch", sources) == ["bot.session"]
    assert "bot.session -> bot.policy.engine" in trespassers("bot.session", ("bot.policy.engine",), sources)


@pytest.mark.parametrize("name", [f"bot.policy.{part}" for part in TORCH_FREE])
def test_policy_parts_without_numbers_do_not_import_torch(name: str) -> None:
    """Types, scheduling and publishing are testable without a model."""
    if name not in modules():
        pytest.skip(f"{name} does not exist")
    at_import = imports(our_sources()[name], anywhere=False)
    assert not {imported.split(".")[0] for imported in at_import} & {"torch", "transformers", "peft"}


@pytest.mark.parametrize(
    "name", ["bot.settings", "bot.session", "bot.policy.download", "bot.cli", "online_learning.config"]
)
def test_importing_vocabulary_and_settings_loads_nothing_heavy(name: str) -> None:
    """A command answers fast, and a test of the session needs no model."""
    if name not in modules():
        pytest.skip(f"{name} does not exist")
    code = f"import sys, {name}; print(sorted({{'torch', 'transformers', 'gradio', 'rasa_sdk'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"

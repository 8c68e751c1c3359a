"""The README says what is true: commands, options, settings, tree, links, and an example domain that runs."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from bot import cli
from bot.actions.executor import Actions
from bot.conversation import State, Turn
from bot.domain import load_domain
from bot.feedback.rules import load_rules
from bot.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
SHOWN = {
    "otel_endpoint": "none",
    "home": "~/.rejoinder",
    "model_cache": "~/.cache/rejoinder/models",
    "seed": "none",
    "public_url": "none",
    "allowed_origins": "none",
    "policy.stop": "none",
    "model": "none",
    "causal_model": "none",
    "engine.vllm_key": "none",
    "engine.vllm_adapters": "none",
    **dict.fromkeys(("oidc.issuer", "oidc.client_id", "oidc.client_secret", "oidc.client_secret_file"), "none"),
    **dict.fromkeys(("oidc.admins", "oidc.developers", "oidc.operators"), "none"),
}
"""Defaults that the page writes in words."""


def section(page: str, title: str) -> str:
    """The text under `## title`."""
    found = re.search(rf"(?ms)^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page)
    assert found, f"no section {title!r}"
    return found.group(1)


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Commands of a parser by name."""
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(actions[0].choices) if actions else {}


def options(parser: argparse.ArgumentParser) -> set[str]:
    """Long options of a parser, help aside."""
    return {name for action in parser._actions for name in action.option_strings if name.startswith("--")} - {"--help"}


def undocumented(command: str, parser: argparse.ArgumentParser, page: str) -> list[str]:
    """What a command's row of the table leaves out: its options, choices and subcommands, or the row itself."""
    row = next((line for line in page.splitlines() if line.startswith(f"| `rejoinder {command}` |")), "")
    words = options(parser) | set(subparsers(parser))
    for sub in subparsers(parser).values():
        words |= options(sub)
    for action in parser._actions:
        words |= {str(choice) for choice in action.choices or () if action.dest in ("bench", "rules_command")}
    return [f"rejoinder {command}"] if not row else sorted(word for word in words if f"`{word}`" not in row)


@pytest.mark.parametrize("command", subparsers(cli._commands()))
def test_every_command_is_documented_with_its_options(command: str) -> None:
    """A row for each command, and in it every option of its own."""
    parser = subparsers(cli._commands())[command]

    assert undocumented(command, parser, section(README, "Commands")) == []


def test_a_command_or_option_without_a_word_is_noticed() -> None:
    """The control: the check sees what is missing."""
    parser = subparsers(cli._commands())["up"]

    assert undocumented("up", parser, "") == ["rejoinder up"]
    assert undocumented("up", parser, "| `rejoinder up` | `--open` `--host` |") == ["--no-learn"]


def test_global_options_are_documented() -> None:
    """Each has a row of its own."""
    rows = re.findall(r"(?m)^\| `(--\S+)` \|", section(README, "Commands"))

    assert set(rows) == options(cli._global_options())


def test_documented_commands_exist() -> None:
    """The table names nothing that was renamed or removed."""
    named = re.findall(r"(?m)^\| `rejoinder (\S+)` \|", README)

    assert sorted(named) == sorted(subparsers(cli._commands()))


def settings_of(record: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, default as the page writes it) of every settings field."""
    for field in fields(record):
        name, value = prefix + field.name, getattr(record, field.name)
        if is_dataclass(value):
            yield from settings_of(value, name + ".")
        else:
            yield name, SHOWN.get(name, str(value))


def test_every_setting_is_documented_with_its_default() -> None:
    """One row a setting, in the order of the code, and none that does not exist."""
    rows = re.findall(r"(?m)^\| `([\w.]+)` \| `?([^`|]*?)`? \| \S", section(README, "Configuration"))

    assert rows == list(settings_of(Settings(home=Path("~/.rejoinder"))))


def test_what_the_page_says_of_the_demo_profile_is_so(tmp_path: Path) -> None:
    """The four settings that differ, and no others."""
    live, demo = (dict(settings_of(load_settings({"home": tmp_path, "profile": p}, {}))) for p in ("live", "demo"))
    changed = {name for name in live if live[name] != demo[name]} - {"profile"}

    assert {name: float(demo[name]) for name in changed} == {
        "learn.quorum": 1,
        "learn.settle_s": 3,
        "learn.holdout_share": 0,
        "learn.cap_per_person_topic": 1000,
    }


def tree_paths(tree: str) -> list[str]:
    """Paths of an indented tree, two spaces a level."""
    found, parents = [], [""]
    for line in filter(str.strip, tree.splitlines()):
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        parents[depth + 1 :] = [parents[depth] + name]
        found.append(parents[depth + 1])
    return found


def tree() -> list[str]:
    return tree_paths(section(README, "What is where").split("```")[1].strip("\n"))


def test_indentation_makes_a_path() -> None:
    """A line belongs to the folder above it that is indented less."""
    assert tree_paths("a/  first\n  b/\n    c.py  deep\n  d.py\ne.py") == ["a/", "a/b/", "a/b/c.py", "a/d.py", "e.py"]


@pytest.mark.parametrize("path", tree())
def test_every_path_of_the_tree_exists(path: str) -> None:
    """Folders end in a slash, files do not."""
    assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file()


def test_the_tree_shows_every_package() -> None:
    """A new room gets a line."""
    packages = {
        f"{path.parent.relative_to(ROOT)}/"
        for top in ("bot", "online_learning", "ui")
        for path in (ROOT / top).rglob("__init__.py")
        if "domains/" not in str(path.parent)
    }
    assert packages - set(tree()) == set()


def anchor(title: str) -> str:
    """How a heading is linked to."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def broken_links(page: Path) -> Iterable[str]:
    """Relative links that lead nowhere; addresses on the web are not asked."""
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, fragment = target.partition("#")
        if "://" in path:
            continue
        there = page.parent / path if path else page
        titles = re.findall(r"(?m)^#+ (.+)$", there.read_text()) if there.suffix == ".md" and there.is_file() else []
        if not there.exists() or (fragment and fragment not in map(anchor, titles)):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Files and headings that pages refer to exist."""
    assert list(broken_links(page)) == []


def test_a_broken_link_is_noticed(tmp_path: Path) -> None:
    """The control: a file and a heading that are not there."""
    page = tmp_path / "a.md"
    page.write_text("# One two\n[a](gone.md) [b](#one-two) [c](#three) [d](https://example.org/x)\n")

    assert list(broken_links(page)) == ["gone.md", "#three"]


def write_example(folder: Path) -> Path:
    """The README's domain, file by file: a path in backticks, then its block."""
    guide = section(README, "Writing a domain")
    for name, text in re.findall(r"(?ms)^`library/([\w./]+)`.*?^```\w+\n(.*?)^```", guide):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_the_example_domain_loads(tmp_path: Path) -> None:
    """As a reader would copy it."""
    domain = load_domain(str(write_example(tmp_path / "library")))

    assert set(domain.articles) == {"opening_hours", "renew_a_loan"}
    assert domain.tests[0].must_pass
    assert load_rules(domain.rewards_path).rules.thumb is not None


async def test_the_example_action_speaks(tmp_path: Path) -> None:
    """It counts the books of the person who asks."""
    domain = load_domain(str(write_example(tmp_path / "library")))
    state = State("c1", (Turn("user", "which books do I have at home"),))
    actions = Actions(tmp_path)

    said = [await actions.run("action_books_out", state=state, person_id=p, domain=domain) for p in ("p_anna", "p_bo")]

    assert [done.texts for done in said] == [("You have 3 books at home.",), ("You have 0 books at home.",)]


def test_pages_promise_only_make_targets_that_exist() -> None:
    """`make X` in any page is a target."""
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    named = {name for page in PAGES for name in re.findall(r"(?m)(?:^|`)make ([a-z-]+)", page.read_text())}

    assert named - targets == set()

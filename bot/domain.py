"""A domain: what a developer writes, loaded and checked. Leaf: no models, no database.

`load_domain` reads a folder and refuses the first mistake as `path:line: expected ..., got ...`:

1. `articles/*.md`: front matter (`title`, `questions`) and the approved answer.
2. `domain.yml`: the Rasa subset, then the `rejoinder:` block; `bot.domain_checks` compares its parts.
3. `tests/*.yml`: conversation tests, whose acts must exist.

The reward rules are found by `Domain.rewards_path` and read by `bot.feedback.rules`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from bot.conversation import digest
from bot.domain_checks import check_domain, is_known_act
from bot.domain_schema import (
    ANY,
    NOTHING,
    At,
    Document,
    Each,
    Keys,
    OneOf,
    check,
    mistake,
    numbered,
    one_line,
    parse_yaml,
    read_text,
    refuse_repeat,
    word,
)
from bot.errors import DomainError

SHIPPED = ("bank", "shop")
"""Domains inside the package."""

_SLOT_TYPES = OneOf(("text", "bool", "categorical", "float", "list", "any"))
_MAPPING_TYPES = OneOf(("from_text", "custom"))
_ARTICLE = Keys({"title": str, "questions": [str]})
_MAPPING = Keys({"type": _MAPPING_TYPES}, {"conditions": [Keys({"active_loop": str}, {"requested_slot": str})]})
_SLOT = Keys(
    {"type": _SLOT_TYPES},
    {"initial_value": ANY, "values": [str], "influence_conversation": bool, "mappings": [_MAPPING]},
)
_VARIANT = Keys({"text": str}, {"buttons": [Keys({"title": str}, {"payload": str})]})
_REJOINDER = Keys(
    {"assistant": str, "persona": str, "languages": [str], "ai_notice": str, "human_offer": str},
    {"allow_say": bool, "triggers": Each(Keys({}, {"examples": [str], "floor": float})), "action_forms": Each(str)},
)
_DOMAIN = Keys(
    {"responses": Each([_VARIANT]), "rejoinder": _REJOINDER},
    {
        "version": ANY,
        "slots": Each(_SLOT),
        "actions": [str],
        "forms": Each(Keys({"required_slots": [str]})),
        "session_config": Keys({}, {"session_expiration_time": float, "carry_over_slots_to_new_session": bool}),
    },
)
_STEP = Keys({"user": str}, {"act": str, "one_of": [str], "text_contains": str})
_TESTS = Keys({"tests": [Keys({"name": str, "steps": [_STEP]}, {"must_pass": bool})]})
_ARTICLE_ID = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True, slots=True)
class Article:
    """One help article; `id` is its file name without `.md`."""

    id: str
    title: str
    answer: str
    """The approved reply, 1-3 sentences."""
    questions: tuple[str, ...]
    """Example questions, in users' words."""

    @property
    def texts(self) -> tuple[str, ...]:
        """What retrieval embeds."""
        return (*self.questions, self.title)


@dataclass(frozen=True, slots=True)
class Variant:
    """One wording of a response."""

    text: str
    buttons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Slot:
    """A Rasa slot. `type`: text, bool, categorical, float, list, any."""

    name: str
    type: str
    initial_value: Any = None
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trigger:
    """When a response or action is a candidate: example user utterances, and an optional fixed score.

    `floor` is a cosine: the act's score never falls below it (so `utter_out_of_scope` wins where nothing else fits).
    """

    examples: tuple[str, ...] = ()
    floor: float | None = None


@dataclass(frozen=True, slots=True)
class TestStep:
    """One user message of a conversation test and what must come back."""

    __test__ = False

    user: str
    act: str = ""
    """Exact act id, or empty."""
    one_of: tuple[str, ...] = ()
    """Any of these act ids."""
    text_contains: str = ""


@dataclass(frozen=True, slots=True)
class ConversationTest:
    """A test of the domain: runs against the mode of a policy before it may serve."""

    name: str
    steps: tuple[TestStep, ...]
    where: str
    """`file:line`."""
    must_pass: bool = False
    """Safety tests: a version that fails one is refused, whatever its score."""


@dataclass(frozen=True, slots=True)
class Domain:
    """Everything the bot knows about its job."""

    name: str
    folder: Path
    assistant: str
    """The assistant's name as shown to people."""
    persona: str
    """One paragraph for the causal LM."""
    languages: tuple[str, ...]
    """Languages the models and texts know, for example ('en',)."""
    ai_notice: str
    human_offer: str
    articles: Mapping[str, Article]
    responses: dict[str, tuple[Variant, ...]]
    slots: dict[str, Slot]
    forms: dict[str, tuple[str, ...]]
    """Form name -> required slots, in the order asked."""
    actions: tuple[str, ...]
    """Names of rasa-sdk actions, `validate_<form>` included."""
    triggers: dict[str, Trigger]
    """`utter_x`, `action_x` or `handoff` -> when it is a candidate."""
    action_forms: dict[str, str]
    """Action -> the form that must be filled before it runs."""
    tests: tuple[ConversationTest, ...]
    allow_say: bool = False
    raw: dict[str, Any] = field(default_factory=dict)
    """The Rasa part of domain.yml as read, for rasa-sdk."""

    @property
    def rewards_path(self) -> Path:
        """The reward rules this domain ships."""
        return self.folder / "rewards.yml"


def domain_fingerprint(domain: Domain) -> str:
    """Content hash (16 hex digits) of everything a domain says; where its folder lies does not matter."""
    said = asdict(replace(domain, articles=dict(domain.articles))) | {
        "folder": "",
        "tests": [asdict(test) | {"where": ""} for test in domain.tests],
    }
    return digest(json.dumps(said, sort_keys=True, default=str))


def load_domain(name_or_path: str, own: Path | None = None) -> Domain:
    """A shipped domain by name (`bank`, `shop`), or a folder. Raises DomainError at the first mistake.

    `own`: a home's folder of articles; what lies there under the domain's name comes on top of the domain's.
    """
    folder = _resolve(name_or_path)
    return _load_folder(folder, own / folder.name if own else None)


def _resolve(name_or_path: str) -> Path:
    """The folder of a shipped domain, or the given folder. Raises DomainError when it is neither."""
    if name_or_path in SHIPPED:
        return Path(str(resources.files("bot.domains") / name_or_path))
    folder = Path(name_or_path).expanduser()
    if not (folder / "domain.yml").is_file():
        names = ", ".join(SHIPPED)
        raise DomainError(f"domain: expected one of {names}, or a folder with domain.yml, got {name_or_path!r}")
    return folder.resolve()


def _load_folder(folder: Path, own: Path | None) -> Domain:
    """Read and check one folder. Raises DomainError at the first mistake."""
    articles = _read_articles(folder / "articles", own)
    document = parse_yaml(folder / "domain.yml", read_text(folder / "domain.yml"))
    check(document, _DOMAIN)
    domain = _build(folder, document, articles)
    check_domain(document, domain)
    if not domain.rewards_path.is_file():
        raise mistake(domain.rewards_path, 1, "a file with reward rules", NOTHING)
    tests = tuple(test for path in _files(folder / "tests", ".yml") for test in _read_tests(path, domain))
    return _with_tests(domain, tests)


def _build(folder: Path, document: Document, articles: dict[str, Article]) -> Domain:
    raw = document.data
    ours = raw["rejoinder"]
    return Domain(
        name=folder.name,
        folder=folder,
        assistant=ours["assistant"],
        persona=one_line(ours["persona"]),
        languages=tuple(ours["languages"]),
        ai_notice=one_line(ours["ai_notice"]),
        human_offer=one_line(ours["human_offer"]),
        articles=articles,
        responses={name: tuple(_variant(item) for item in items) for name, items in raw["responses"].items()},
        slots={name: _slot(name, item) for name, item in raw.get("slots", {}).items()},
        forms={name: tuple(item["required_slots"]) for name, item in raw.get("forms", {}).items()},
        actions=tuple(raw.get("actions", ())),
        triggers={name: _trigger(item) for name, item in ours.get("triggers", {}).items()},
        action_forms=dict(ours.get("action_forms", {})),
        tests=(),
        allow_say=ours.get("allow_say", False),
        raw={key: value for key, value in raw.items() if key != "rejoinder"},
    )


def _with_tests(domain: Domain, tests: tuple[ConversationTest, ...]) -> Domain:
    seen: dict[str, str] = {}
    for test in tests:
        if test.name in seen:
            raise DomainError(f"{test.where}: expected each test name once, got {test.name!r} as in {seen[test.name]}")
        seen[test.name] = test.where
    return replace(domain, tests=tests)


def _variant(item: dict[str, Any]) -> Variant:
    return Variant(item["text"].strip(), tuple(button["title"] for button in item.get("buttons", ())))


def _slot(name: str, item: dict[str, Any]) -> Slot:
    return Slot(name, item["type"], item.get("initial_value"), tuple(item.get("values", ())))


def _trigger(item: dict[str, Any]) -> Trigger:
    floor = item.get("floor")
    return Trigger(tuple(item.get("examples", ())), None if floor is None else float(floor))


def _files(folder: Path, ending: str) -> list[Path]:
    found = [path for path in sorted(folder.glob("*")) if not path.name.startswith((".", "__"))]
    for path in found:
        if path.suffix != ending or not path.is_file():
            raise mistake(path, 1, f"only *{ending} files in {folder.name}", path.name)
    return found


# --- articles -----------------------------------------------------------------------------------------------------


def _read_articles(folder: Path, own: Path | None) -> dict[str, Article]:
    articles: dict[str, Article] = {}
    seen: dict[str, str] = {}
    files = {path.name: path for where in (folder, own) if where for path in _files(where, ".md")}
    for _, path in sorted(files.items()):
        article, document = parse_article(path, read_text(path))
        _refuse_repeats(article, document, seen)
        articles[article.id] = article
    if not articles:
        raise mistake(folder, 1, "at least one article", NOTHING)
    return articles


def check_article(domain: Domain, path: Path, text: str) -> Article:
    """The article that a file with this text would add to a domain, or put in the place of the one with its id. Raises
    DomainError, by the same checks as at load."""
    article, document = parse_article(path, text)
    seen: dict[str, str] = {}
    for other in domain.articles.values():
        if other.id != article.id:
            seen |= {one_line(line).casefold(): f"article {other.id}" for line in other.texts}
    for name, trigger in domain.triggers.items():
        seen |= {one_line(line).casefold(): f"trigger {name}" for line in trigger.examples}
    _refuse_repeats(article, document, seen)
    return article


def _refuse_repeats(article: Article, document: Document, seen: dict[str, str]) -> None:
    for at, text in ((("title",), article.title), *numbered("questions", article.questions)):
        refuse_repeat(document, at, text, seen)


def parse_article(path: Path, text: str) -> tuple[Article, Document]:
    """An article from the text of its file, by itself. Raises DomainError."""
    if not _ARTICLE_ID.fullmatch(path.stem):
        raise mistake(path, 1, "a file name of a-z, 0-9 and _", path.stem)
    lines = text.splitlines()
    if not lines or lines[0].rstrip() != "---":
        raise mistake(path, 1, "--- before title and questions", lines[0] if lines else NOTHING)
    end = next((i for i, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), None)
    if end is None:
        raise mistake(path, len(lines), "--- after title and questions", word("the end of the file"))
    document = parse_yaml(path, "\n".join(lines[1:end]), first_line=2)
    check(document, _ARTICLE)
    if not document.data["questions"]:
        raise document.error(("questions",), "at least one question", NOTHING)
    answer = "\n".join(lines[end + 1 :]).strip()
    if not answer:
        raise mistake(path, end + 1, "an answer after ---", NOTHING)
    data = document.data
    return Article(path.stem, data["title"].strip(), answer, tuple(q.strip() for q in data["questions"])), document


# --- tests --------------------------------------------------------------------------------------------------------


def _read_tests(path: Path, domain: Domain) -> Iterator[ConversationTest]:
    document = parse_yaml(path, read_text(path))
    check(document, _TESTS)
    for i, item in enumerate(document.data["tests"]):
        at: At = ("tests", i)
        if not item["steps"]:
            raise document.error((*at, "steps"), "at least one step", NOTHING)
        steps = tuple(_step(document, (*at, "steps", j), step, domain) for j, step in enumerate(item["steps"]))
        yield ConversationTest(
            name=item["name"],
            steps=steps,
            where=f"{path}:{document.line(at)}",
            must_pass=item.get("must_pass", False),
        )


def _step(document: Document, at: At, item: dict[str, Any], domain: Domain) -> TestStep:
    step = TestStep(item["user"], item.get("act", ""), tuple(item.get("one_of", ())), item.get("text_contains", ""))
    if not (step.act or step.one_of or step.text_contains):
        raise document.error(at, "act, one_of or text_contains", NOTHING)
    for where, act_id in ((("act",), step.act), *numbered("one_of", step.one_of)):
        if act_id and not is_known_act(act_id, domain):
            raise document.error((*at, *where), "an act of this domain", act_id)
    return step

"""A domain: what a developer writes, loaded and checked. Leaf: no models, no database.

`load_domain` reads `domain.yml` (the Rasa subset plus our `rejoinder:` block), `articles/*.md`, `rewards.yml` and
`tests/*.yml`, and refuses anything unknown with file, line and what was expected.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


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
    articles: dict[str, Article]
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

"""What must hold between the parts of a domain: every name that is used exists, and every act can be taken.

Each check raises DomainError at its first mistake. `actions.py` is parsed, never run: every action needs a class
whose `name()` returns a literal.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bot.conversation import Act, ActKind
from bot.domain_schema import NOTHING, At, Document, mistake, one_line, read_text, refuse_repeat, word

if TYPE_CHECKING:
    from bot.domain import Domain

REQUIRED_RESPONSES = (
    "utter_greet",
    "utter_clarify",
    "utter_out_of_scope",
    "utter_handoff",
    "utter_unknown_language",
    "utter_action_failed",
)
"""What the bot must always be able to say."""


def check_domain(document: Document, domain: Domain) -> None:
    """All checks of domain.yml, in the order a reader would meet the mistakes."""
    _check_responses(document, domain)
    _check_slots(document, domain)
    _check_forms(document, domain)
    _check_actions(document, domain)
    _check_action_forms(document, domain)
    _check_triggers(document, domain)


def _check_responses(document: Document, domain: Domain) -> None:
    for name, variants in domain.responses.items():
        if not name.startswith("utter_"):
            raise document.error(("responses", name), "a name that starts with utter_", name)
        if not variants:
            raise document.error(("responses", name), f"at least one wording of {name}", NOTHING)
    for name in REQUIRED_RESPONSES:
        if name not in domain.responses:
            raise document.error(("responses",), f"the response {name}", NOTHING)
    if not domain.languages:
        raise document.error(("rejoinder", "languages"), "at least one language", NOTHING)


def _check_slots(document: Document, domain: Domain) -> None:
    for name, slot in domain.slots.items():
        if (slot.type == "categorical") != bool(slot.values):
            raise document.error(("slots", name), "values for a categorical slot and only there", slot.type)
        for i, mapping in enumerate(document.data["slots"][name].get("mappings", ())):
            for j, condition in enumerate(mapping.get("conditions", ())):
                if condition["active_loop"] not in domain.forms:
                    at: At = ("slots", name, "mappings", i, "conditions", j, "active_loop")
                    raise document.error(at, "a form of this domain", condition["active_loop"])


def _check_forms(document: Document, domain: Domain) -> None:
    for form, slots in domain.forms.items():
        at: At = ("forms", form, "required_slots")
        if not slots:
            raise document.error(at, f"at least one slot in {form}", NOTHING)
        for i, slot_name in enumerate(slots):
            if slot_name not in domain.slots:
                raise document.error((*at, i), f"a slot of this domain in {form}", slot_name)
            if not {f"utter_ask_{form}_{slot_name}", f"utter_ask_{slot_name}"} & set(domain.responses):
                raise document.error((*at, i), f"the response utter_ask_{slot_name}", NOTHING)


def _check_actions(document: Document, domain: Domain) -> None:
    written = _written_actions(domain.folder / "actions.py")
    for i, name in enumerate(domain.actions):
        if name in domain.actions[:i]:
            raise document.error(("actions", i), "each action once", name)
        if name not in written:
            raise document.error(("actions", i), f"a class in actions.py whose name() returns {name!r}", NOTHING)
        form = name.removeprefix("validate_")
        if form != name and form not in domain.forms:
            raise document.error(("actions", i), "validate_<form> for a form of this domain", name)
    for name, line in written.items():
        if name not in domain.actions:
            raise mistake(domain.folder / "actions.py", line, "a name listed under actions in domain.yml", name)


def _check_action_forms(document: Document, domain: Domain) -> None:
    for action, form in domain.action_forms.items():
        at = ("rejoinder", "action_forms", action)
        if action not in domain.actions:
            raise document.error(at, "an action of this domain", action)
        if form not in domain.forms:
            raise document.error(at, "a form of this domain", form)


def _written_actions(path: Path) -> dict[str, int]:
    """Action name -> line of its class, from the text of actions.py. A missing file has none."""
    if not path.exists():
        return {}
    try:
        tree = ast.parse(read_text(path))
    except (SyntaxError, ValueError) as error:
        raise mistake(path, getattr(error, "lineno", None) or 1, "Python", word(str(error))) from error
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef))
    return {name: cls.lineno for cls in classes for name in _literal_names(cls)}


def _literal_names(cls: ast.ClassDef) -> Iterator[str]:
    for method in cls.body:
        if isinstance(method, ast.FunctionDef) and method.name == "name":
            returns = (node.value for node in ast.walk(method) if isinstance(node, ast.Return))
            yield from (v.value for v in returns if isinstance(v, ast.Constant) and isinstance(v.value, str))


def _check_triggers(document: Document, domain: Domain) -> None:
    seen = {one_line(q).casefold(): f"article {a.id}" for a in domain.articles.values() for q in a.questions}
    runnable = [name for name in domain.actions if not name.startswith("validate_")]
    for name, trigger in domain.triggers.items():
        at: At = ("rejoinder", "triggers", name)
        if name != "handoff" and name not in domain.responses and name not in runnable:
            raise document.error(at, "handoff, or a response or action of this domain", name)
        if not trigger.examples and trigger.floor is None:
            raise document.error(at, "examples or a floor", NOTHING)
        if trigger.floor is not None and not -1 <= trigger.floor <= 1:
            raise document.error((*at, "floor"), "a cosine between -1 and 1", trigger.floor)
        for i, example in enumerate(trigger.examples):
            refuse_repeat(document, (*at, "examples", i), example, seen)


def is_known_act(act_id: str, domain: Domain) -> bool:
    """Whether the id names an act this domain can take: its article, response variant, action or slot exists."""
    try:
        act = Act.parse(act_id)
    except ValueError:
        return False
    if act.kind is ActKind.RESPOND:
        return 0 <= act.variant < len(domain.responses.get(act.target, ()))
    if act.kind is ActKind.CLARIFY:
        pair = act.target.split("|")
        return len(set(pair)) == len(pair) == 2 and set(pair) <= set(domain.articles)
    known = {
        ActKind.ANSWER: domain.articles,
        ActKind.RUN: domain.actions,
        ActKind.ASK: domain.slots,
        ActKind.HANDOFF: ("",),
        ActKind.SAY: ("",) if domain.allow_say else (),
    }
    return act.variant == 0 and act.target in known[act.kind]

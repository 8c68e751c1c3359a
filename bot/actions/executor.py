"""A domain's rasa-sdk actions, run in this process. Beside the domains' own `actions.py`, the only importer of rasa_sdk.

1. The domain's `actions.py` is imported once, under a module name of its own, and only its classes are registered
   (`ActionExecutor.register_package` would take every `Action` in the process, and exit the process on an ImportError).
2. Each call gets copies of slots and domain, since rasa-sdk appends to what it is given.
3. It runs in a daemon thread with its own event loop, because a synchronous `run()` would hold up every chat, and under
   a time limit, because rasa-sdk has none.
4. What it dispatched becomes texts and buttons; its slot events become slots.

A failing action is not an exception for the chat: the result carries the domain's `utter_action_failed` and one clear
line in `error`. Who is asking is `person_id`, which reaches actions as `tracker.user_id`, never what was written.
"""

from __future__ import annotations

import asyncio
import copy
import importlib.util
import logging
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bot.actions.responses import fill_response
from bot.conversation import State, digest
from bot.domain import Domain, Slot
from bot.errors import DomainError, NotFound

if TYPE_CHECKING:
    from rasa_sdk.executor import ActionExecutor, ActionExecutorRunResult

log = logging.getLogger(__name__)

FAILED = "utter_action_failed"
"""The response a person reads when an action failed; the loader requires it."""

_MESSAGE_KEYS = frozenset({"text", "buttons", "elements", "custom", "template", "response", "image", "attachment"})
"""What rasa-sdk puts into every dispatched message; other keys are variables for the response."""

_WORDS_TRUE = frozenset({"yes", "yeah", "yep", "y", "ok", "sure", "true"})
_WORDS_FALSE = frozenset({"no", "nope", "n", "false"})


@dataclass(frozen=True, slots=True)
class ActionResult:
    """What an action said, set and reported."""

    texts: tuple[str, ...] = ()
    slots: dict[str, Any] = field(default_factory=dict)
    events: tuple[dict[str, Any], ...] = ()
    """Rasa events that are not about slots."""
    buttons: tuple[str, ...] = ()
    error: str = ""
    """One line for the log when the action failed; empty when it did not."""


@dataclass(frozen=True, slots=True)
class FormStep:
    """Where a form stands after the user's message."""

    slots: dict[str, Any]
    """Slots that changed; None where a value was rejected."""
    next_slot: str | None
    """What to ask next; None: the form is filled."""
    texts: tuple[str, ...] = ()
    error: str = ""


class Actions:
    """Runs the actions of any number of domains. Safe to share between conversations."""

    def __init__(self, home: Path, *, timeout_s: float = 10.0, max_running: int = 32) -> None:
        self._home = home
        self._timeout_s = timeout_s
        self._max_running = max_running
        self._running = 0
        self._count_lock = threading.Lock()
        self._load_lock = threading.Lock()
        self._executors: dict[Path, ActionExecutor] = {}

    async def run(self, name: str, *, state: State, person_id: str, domain: Domain) -> ActionResult:
        """Run an action. Raises NotFound for a name the domain does not list, DomainError when actions.py won't load."""
        return await self._run(name, self._call(name, state, person_id, domain, ()), domain)

    async def fill(self, form: str, *, state: State, person_id: str, domain: Domain) -> FormStep:
        """Take slots from the user's last message, check them with `validate_<form>`, and say what to ask next.

        Without `state.requested_slot` (a form that is just starting) only the form's own extractors look at the
        message. Raises NotFound for an unknown form.
        """
        if form not in domain.forms:
            raise NotFound(f"form: expected one of {', '.join(domain.forms) or 'none'}, got {form!r}")
        candidates = _candidates(form, state, domain)
        validator = f"validate_{form}"
        result = ActionResult(slots=candidates)
        if validator in domain.actions:
            call = self._call(validator, state, person_id, domain, candidates.items())
            result = await self._run(validator, call, domain)
        if result.error:
            return FormStep({}, state.requested_slot or domain.forms[form][0], result.texts, result.error)
        slots = {
            name: _typed(domain.slots[name], value) for name, value in result.slots.items() if name in domain.slots
        }
        values = state.slots | slots
        missing = (name for name in domain.forms[form] if values.get(name) is None)
        next_slot = result.slots.get("requested_slot", next(missing, None))  # a form may choose its own order
        return FormStep(slots, next_slot, result.texts)

    # --- one call -------------------------------------------------------------------------------------------------
    def _call(
        self, name: str, state: State, person_id: str, domain: Domain, candidates: Iterable[tuple[str, Any]]
    ) -> dict[str, Any]:
        """rasa-sdk's action call. Slot candidates come last: form validation reads only the trailing slot events."""
        if name not in domain.actions:
            raise NotFound(f"action: expected one of {', '.join(domain.actions) or 'none'}, got {name!r}")
        text = state.turns[-1].text if state.turns else ""
        message = {"text": text, "intent": {}, "entities": [], "metadata": {"home": str(self._home)}}
        slots = {slot.name: slot.initial_value for slot in domain.slots.values()} | state.slots
        tracker = {
            "sender_id": state.conversation_id,
            "user_id": person_id,
            "slots": slots | dict(candidates) | {"requested_slot": state.requested_slot or None},
            "latest_message": message,
            "active_loop": {"name": state.active_form} if state.active_form else {},
            "events": [*_history(state), *({"event": "slot", "name": n, "value": v} for n, v in candidates)],
        }
        return copy.deepcopy({"next_action": name, "tracker": tracker, "domain": domain.raw})

    async def _run(self, name: str, call: dict[str, Any], domain: Domain) -> ActionResult:
        try:
            executor = await asyncio.to_thread(self._executor, domain)
            done = await self._in_thread(lambda: executor.run(call))
            return _result(done, call["tracker"]["slots"], domain)
        except TimeoutError:
            return _failed(name, f"expected an answer within {self._timeout_s:g} s, got none", domain)
        except DomainError:
            raise
        except Exception as error:  # a developer's action may raise anything; the chat goes on
            log.debug("action %s", name, exc_info=error)
            return _failed(name, f"{type(error).__name__}: {error}", domain)

    async def _in_thread(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Await a coroutine that runs on a loop of its own. A thread that overstays is left behind, and is counted."""
        with self._count_lock:
            if self._running >= self._max_running:
                raise RuntimeError(f"expected at most {self._max_running} actions at a time, got one more")
            self._running += 1
        future: Future[Any] = Future()
        threading.Thread(target=self._work, args=(work, future), name="action", daemon=True).start()
        return await asyncio.wait_for(asyncio.wrap_future(future), self._timeout_s)

    def _work(self, work: Callable[[], Coroutine[Any, Any, Any]], future: Future[Any]) -> None:
        try:
            if future.set_running_or_notify_cancel():
                future.set_result(asyncio.run(work()))
        except (SystemExit, TimeoutError) as error:  # an action must not end the server, nor pass for our own limit
            future.set_exception(RuntimeError(f"it raised {error!r}"))
        except BaseException as error:  # noqa: BLE001 - belongs to whoever waits for the future
            future.set_exception(error)
        finally:
            with self._count_lock:
                self._running -= 1

    def _executor(self, domain: Domain) -> ActionExecutor:
        with self._load_lock:
            if domain.folder not in self._executors:
                self._executors[domain.folder] = _load_executor(domain)
            return self._executors[domain.folder]


# --- loading --------------------------------------------------------------------------------------------------------


def _load_executor(domain: Domain) -> ActionExecutor:
    from rasa_sdk import Action
    from rasa_sdk.executor import ActionExecutor

    module = _load_module(domain)
    executor = ActionExecutor()
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Action) and value.__module__ == module.__name__:
            executor.register_action(value)
    missing = sorted(set(domain.actions) - set(executor.actions))
    if missing:
        raise DomainError(f"{domain.folder / 'actions.py'}: expected an action {missing[0]!r}, got none")
    return executor


def _load_module(domain: Domain) -> ModuleType:
    """Import the domain's actions.py under a name of its own. Raises DomainError whatever goes wrong in it."""
    path = domain.folder / "actions.py"
    name = f"rejoinder_actions_{digest(str(path))}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        got = f"{type(error).__name__}: {error}"
        raise DomainError(f"{path}: expected a file that can be imported, got {got}") from error
    return module


# --- in and out -----------------------------------------------------------------------------------------------------


def _history(state: State) -> list[dict[str, Any]]:
    events = {"user": "user", "bot": "bot", "operator": "bot"}
    return [{"event": events[turn.role], "text": turn.text} for turn in state.turns if turn.role in events]


def _candidates(form: str, state: State, domain: Domain) -> dict[str, Any]:
    """The user's text for the requested slot, where its mappings allow that."""
    wanted = state.requested_slot
    if not wanted or wanted not in domain.forms[form] or not state.turns:
        return {}
    mappings = domain.raw.get("slots", {}).get(wanted, {}).get("mappings", [{"type": "from_text"}])
    return {wanted: state.turns[-1].text} if any(m["type"] == "from_text" for m in mappings) else {}


def _typed(slot: Slot, value: Any) -> Any:
    """The value as the slot's type, or None where it cannot be one."""
    if value is None or slot.type in ("any", "list"):
        return value
    text = str(value).strip()
    if slot.type == "bool":
        word = text.rstrip(".!").casefold()
        return True if word in _WORDS_TRUE else False if word in _WORDS_FALSE else None
    if slot.type == "categorical":
        return next((known for known in slot.values if known.casefold() == text.casefold()), None)
    if slot.type == "float":
        try:
            return float(text)
        except ValueError:
            return None
    return text or None


def _result(done: ActionExecutorRunResult | None, slots: Mapping[str, Any], domain: Domain) -> ActionResult:
    events = list(done.events) if done else []
    changed: dict[str, Any] = {}
    for event in events:
        if event["event"] == "slot":
            changed[event["name"]] = event["value"]
        elif event["event"] == "reset_slots":
            changed = {slot.name: slot.initial_value for slot in domain.slots.values()}
    said = [_said(item, dict(slots) | changed, domain) for item in (done.responses if done else ())]
    return ActionResult(
        texts=tuple(text for texts, _ in said for text in texts),
        slots=changed,
        events=tuple(event for event in events if event["event"] not in ("slot", "reset_slots")),
        buttons=tuple(title for _, titles in said for title in titles),
    )


def _said(item: Mapping[str, Any], slots: Mapping[str, Any], domain: Domain) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Texts and button titles of one dispatched message. Its own variables win over slots, its text over a response's."""
    name = item.get("response") or item.get("template")
    text, titles = item.get("text") or "", tuple(button["title"] for button in item.get("buttons") or ())
    if name:
        if name not in domain.responses:
            raise LookupError(f"expected a response of the domain, got {name!r}")
        variables = {key: value for key, value in item.items() if key not in _MESSAGE_KEYS}
        variant = fill_response(domain.responses[name][0], {**slots, **variables})
        text, titles = text or variant.text, (*variant.buttons, *titles)
    return ((text,) if text else ()), titles


def _failed(name: str, why: str, domain: Domain) -> ActionResult:
    line = f"action {name}: {' '.join(why.split())}"
    log.warning("%s", line)
    variant = domain.responses[FAILED][0]
    return ActionResult(texts=(variant.text,), buttons=variant.buttons, error=line)

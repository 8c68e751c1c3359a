"""Renders the operator's list and a transcript: pure functions from the API's JSON to HTML."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from ui.markup import empty, is_number, mapping, mono, number, percent, pill, table, text, when

Json = Mapping[str, Any]

MAX_ALTERNATIVES = 12
_STATUS_TONE = {"bot": "", "waiting": "warn", "person": "accent", "resolved": "good"}
_STATUS_WORD = {
    "bot": "with the bot",
    "waiting": "waiting for a person",
    "person": "with a person",
    "resolved": "resolved",
}
_ROLE = {"user": "Customer", "bot": "Assistant", "operator": "Customer service", "system": "System"}


# --- the list ---------------------------------------------------------------------------------------------------------
def render_list(rows: Iterable[Json]) -> str:
    """Conversations as buttons that carry their id in `data-id`."""
    lines = "".join(_row(row) for row in rows)
    return f'<div class="dk-rows">{lines}</div>' if lines else empty("No conversation matches.")


def _row(row: Json) -> str:
    first = f'<span class="dk-row-text">{text(row.get("last_text") or "(no message yet)")}</span>'
    meta = f'<span class="dk-row-meta">{_row_meta(row)}</span>'
    return f'<button type="button" class="dk-row" data-id="{text(row.get("id", ""))}">{first}{meta}</button>'


def _row_meta(row: Json) -> str:
    thumbs = mapping(row.get("thumbs"))
    parts = [_status(row.get("status", "")), f"<span>{text(row.get('num_messages', 0))} messages</span>"]
    parts += [pill(f"▲ {thumbs['up']}", "good")] if thumbs.get("up") else []
    parts += [pill(f"▼ {thumbs['down']}", "bad")] if thumbs.get("down") else []
    parts += [mono(version) for version in list(row.get("versions") or [])[-2:]]
    return "".join(parts) + f"<time>{when(row.get('created_at'))}</time>"


def _status(status: object) -> str:
    return pill(_STATUS_WORD.get(str(status), status), _STATUS_TONE.get(str(status), ""))


# --- one transcript ---------------------------------------------------------------------------------------------------
def render_transcript(answer: Json) -> str:
    """A conversation with what the bot chose, what it could have chosen, and what came of it."""
    messages = list(answer.get("messages") or [])
    steps = _steps(answer, messages)
    lines = "".join(_message(message, steps.get(str(message.get("id")), "")) for message in messages)
    whole = _conversation_signals(list(answer.get("signals") or []))
    return f'<section class="dk-transcript">{_heading(mapping(answer.get("conversation")))}{lines}{whole}</section>'


def _heading(conversation: Json) -> str:
    learn = (
        "may be learned from"
        if conversation.get("learn", conversation.get("learn_ok", True))
        else "not to be learned from"
    )
    reply = conversation.get("reply", conversation.get("reply_mode", "approved"))
    facts = [_status(conversation.get("status", "")), pill(f"{reply} replies"), pill(learn)]
    return (
        f"<header><h2>Conversation</h2>{mono(conversation.get('id', ''))}"
        f"<p>{''.join(facts)}<time>{when(conversation.get('created_at'))}</time></p></header>"
    )


def _message(message: Json, step: str) -> str:
    role = str(message.get("role", ""))
    who = f'<p class="dk-who">{text(_ROLE.get(role, role))} <time>{when(message.get("created_at"))}</time></p>'
    css = role if role in _ROLE else "system"
    return f'<article class="dk-message dk-{css}">{who}<div class="dk-text">{text(message.get("text", ""))}</div>{step}</article>'


def _steps(answer: Json, messages: list[Json]) -> dict[str, str]:
    """Message id -> the markup of the decision behind it."""
    decisions = sorted(
        answer.get("decisions") or [], key=lambda decision: (decision.get("turn", 0), decision.get("created_at", 0))
    )
    signals = _by_decision(answer.get("signals") or [])
    rewards = {str(reward.get("decision_id")): reward for reward in answer.get("rewards") or []}
    # Each reply that can be rated was made by exactly one decision, in the same order.
    rated = [message for message in messages if message.get("can_vote")]
    return {
        str(message.get("id")): _step(
            decision, signals.get(str(decision.get("id")), []), rewards.get(str(decision.get("id")))
        )
        for message, decision in zip(rated, decisions, strict=False)
    }


def _by_decision(signals: Iterable[Json]) -> dict[str, list[Json]]:
    grouped: dict[str, list[Json]] = defaultdict(list)
    for signal in signals:
        grouped[str(signal.get("decision_id") or "")].append(signal)
    return grouped


def _step(decision: Json, signals: list[Json], reward: Json | None) -> str:
    acts, shares = _acts(decision)
    chosen = decision.get("chosen", 0)
    known = isinstance(chosen, int) and 0 <= chosen < len(acts)
    act = acts[chosen] if known else "unknown act"
    share = shares[chosen] if known and chosen < len(shares) else None
    summary = (
        f"{mono(act)}{mono(decision.get('version', ''))}<span>chosen with {percent(share)}</span>{_reward_pill(reward)}"
    )
    body = _alternatives(acts, shares, chosen, decision.get("mode")) + _signal_lines(signals) + _reward_lines(reward)
    return f'<details class="dk-step"><summary>{summary}</summary><div>{body}</div></details>'


def _acts(decision: Json) -> tuple[list[str], list[float]]:
    acts = [str(mapping(legal).get("act", "")) for legal in decision.get("legal") or []]
    return acts, [math.exp(min(logprob, 0.0)) for logprob in decision.get("logprobs") or []]


def _alternatives(acts: list[str], shares: list[float], chosen: object, mode: object) -> str:
    ranked = sorted(zip(range(len(acts)), acts, shares, strict=False), key=lambda row: -row[2])
    rows = [(mono(act) + _marks(index, chosen, mode), _bar(share), percent(share)) for index, act, share in ranked]
    left = f'<p class="dk-faint">and {len(rows) - MAX_ALTERNATIVES} more</p>' if len(rows) > MAX_ALTERNATIVES else ""
    return "<h3>What it could do</h3>" + table(["Act", "", "Propensity"], rows[:MAX_ALTERNATIVES], "dk-acts") + left


def _marks(index: int, chosen: object, mode: object) -> str:
    return (pill("chosen", "accent") if index == chosen else "") + (pill("most likely") if index == mode else "")


def _bar(share: float) -> str:
    width = 100 * share if is_number(share) else 0.0
    return f'<span class="dk-bar"><i style="width:{width:.1f}%"></i></span>'


def _signal_lines(signals: list[Json]) -> str:
    rows = [_signal_cells(signal) for signal in signals]
    return "<h3>What people said</h3>" + (
        table(["Signal", "Said", "By", "When"], rows) if rows else _nothing("Nothing yet.")
    )


def _signal_cells(signal: Json) -> tuple[str, str, str, str]:
    kind, value = str(signal.get("kind", "")), signal.get("value")
    said = "".join(pill(reason.replace("_", " ")) for reason in str(signal.get("label") or "").split("|") if reason)
    said += f"<span>{text(signal['comment'])}</span>" if signal.get("comment") else ""
    return (
        _signal_word(kind, value),
        said,
        text(signal.get("author") or signal.get("source") or ""),
        when(signal.get("created_at")),
    )


def _signal_word(kind: str, value: object) -> str:
    if kind != "thumb" or not is_number(value):
        return f"{pill(kind)} {number(value)}"
    if value == 0:
        return pill("thumb withdrawn")
    return pill("▲ thumb up", "good") if value > 0 else pill("▼ thumb down", "bad")


def _reward_pill(reward: Json | None) -> str:
    value = reward.get("value") if reward else None
    if not is_number(value):
        return pill("no reward")
    return pill(f"reward {number(value, signed=True)}", "good" if value > 0 else "bad" if value < 0 else "")


def _reward_lines(reward: Json | None) -> str:
    if not reward:
        return "<h3>Reward</h3>" + _nothing("Not settled yet.")
    terms = [mapping(term) for term in reward.get("terms") or []]
    rows = [
        (text(term.get("rule", "")), number(term.get("value"), signed=True), text(term.get("signal_seq", "")))
        for term in terms
    ]
    line = f"{_reward_pill(reward)} revision {text(reward.get('revision', ''))}, scope {text(reward.get('scope', ''))}, rules "
    line += mono(reward.get("rules_hash", ""))
    given = table(["Rule", "Gave", "For signal"], rows) if rows else ""
    return f'<h3>Reward</h3><p class="dk-line">{line}</p>{given}'


def _conversation_signals(signals: list[Json]) -> str:
    rows = [_signal_cells(signal) for signal in signals if not signal.get("decision_id")]
    if not rows:
        return ""
    return "<h3>About the whole conversation</h3>" + table(["Signal", "Said", "By", "When"], rows)


def _nothing(line: str) -> str:
    return f'<p class="dk-faint">{text(line)}</p>'

"""What the studio shows of versions and learner: pure functions from the API's JSON to HTML and plot tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from ui.markup import empty, mapping, mono, number, percent, pill, table, text, when

Json = Mapping[str, Any]

UPDATES_SHOWN = 12
LABELS_SHOWN = 8
"""Versions named under a chart's bars; more would run into each other."""
_METRICS_SHOWN = 4
_STATE_TONE = {"champion": "accent", "canary": "warn", "refused": "bad", "damaged": "bad"}
_AWAY = {"stale": "not heard of", "stopped": "not running"}
_OUTCOME_TONE = {"published": "good", "refused": "bad"}

MEANING = {
    "Thumbs over time": "Votes in force, by the time of the reply they are about.",
    "Reward over time": "Mean of what the reward rules made of the signals: above zero is good.",
    "Thumbs per version": "Votes in force on the replies that each version made.",
    "Success per version": "Share of the conversations a version spoke in that were reported solved.",
}
"""Plot title -> what it shows, in one line."""


# --- head -------------------------------------------------------------------------------------------------------------
def render_cards(versions: Json, learner: Json) -> str:
    """The figures one looks at first, each with its meaning."""
    by_version = [mapping(row) for row in learner.get("by_version") or []]
    replies, up, down = (sum(int(row.get(name) or 0) for row in by_version) for name in ("replies", "up", "down"))
    serving = next((row for row in by_version if row.get("version") == versions.get("champion")), {})
    status = mapping(learner.get("status"))
    share = up / (up + down) if up + down else None
    frozen = (
        pill("frozen: the learner may not publish", "warn")
        if versions.get("frozen")
        else pill("learning may publish", "good")
    )
    cards = [
        _card("Champion", mono(versions.get("champion", "–")), frozen),
        _card("Learner", _learner_word(status, learner.get("learner")), _learner_note(status), "dk-word"),
        _card("Replies", text(replies), text("made by all versions")),
        _card("Thumbs up", percent(share), text(f"of {up + down} votes in force")),
        _card(
            "Champion's reward",
            number(serving.get("mean_reward"), signed=True),
            text("mean of its rated replies, −1 to +1"),
        ),
    ]
    return f'<div class="dk-cards">{"".join(cards)}</div>'


def _card(name: str, value: str, note: str, css: str = "") -> str:
    return f'<section class="dk-card"><h2>{text(name)}</h2><p class="dk-figure {css}">{value}</p><p class="dk-faint">{note}</p></section>'


def _learner_word(status: Json, health: object) -> str:
    if health in _AWAY:
        return text(_AWAY[str(health)])
    return text(status.get("state") or status.get("phase") or ("running" if status else "not running"))


def _learner_note(status: Json) -> str:
    told = {
        key: value
        for key, value in status.items()
        if key not in ("state", "phase", "at", "pid") and isinstance(value, str | int | float)
    }
    told_at = f"heard of {when(status['at'])}" if status.get("at") else ""
    figures = [f"{key.replace('_', ' ')} {_short(value)}" for key, value in list(told.items())[:2]]
    return text(", ".join([*figures, told_at] if told_at else figures) or "start it with rejoinder up")


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# --- versions and updates ---------------------------------------------------------------------------------------------
def render_versions(versions: Json, learner: Json) -> str:
    """Every version, newest first, the champion marked."""
    figures = {row.get("version"): row for row in map(mapping, learner.get("by_version") or [])}
    listed = list(reversed([mapping(line) for line in versions.get("versions") or []]))
    rows = [_version_row(line, mapping(figures.get(line.get("version")))) for line in listed]
    heads = ["Version", "State", "Made", "From", "Gate", "Replies", "▲ / ▼", "Mean reward", "Success"]
    return table(heads, rows) if rows else empty("No version yet.")


def _version_row(line: Json, figures: Json) -> tuple[str, ...]:
    state = str(line.get("state", ""))
    votes = f"{text(figures.get('up', 0))} / {text(figures.get('down', 0))}"
    return (
        mono(line.get("version", "")), pill(state, _STATE_TONE.get(state, "")), when(line.get("created_at")),
        mono(line["parent"]) if line.get("parent") else "–", _gate(mapping(line.get("gate"))),
        text(figures.get("replies", 0)), votes, number(figures.get("mean_reward"), signed=True), percent(figures.get("success")),
    )  # fmt: skip


def _gate(gate: Json) -> str:
    if not gate:
        return "–"
    passed = gate.get("passed", gate.get("ok"))
    word = pill("passed", "good") if passed is True else pill("refused", "bad") if passed is False else ""
    reason = gate.get("reason") or gate.get("error") or ""
    return word + (f"<span>{text(reason)}</span>" if reason else "")


def render_updates(learner: Json) -> str:
    """The newest updates of the learner and what became of them."""
    updates = sorted((mapping(row) for row in learner.get("updates") or []), key=lambda row: -int(row.get("seq") or 0))
    rows = [_update_row(row) for row in updates[:UPDATES_SHOWN]]
    return (
        table(["Update", "When", "Outcome", "Version", "Measured"], rows)
        if rows
        else empty("No update yet: the learner waits for thumbs.")
    )


def _update_row(row: Json) -> tuple[str, ...]:
    outcome = str(row.get("outcome", ""))
    told = [(key, value) for key, value in mapping(row.get("metrics")).items() if isinstance(value, int | float)]
    measured = ", ".join(f"{key} {_short(value)}" for key, value in told[:_METRICS_SHOWN])
    return (
        text(row.get("seq", "")), when(row.get("at")), pill(outcome, _OUTCOME_TONE.get(outcome, "")),
        mono(row.get("version", "")), text(measured),
    )  # fmt: skip


# --- plots ------------------------------------------------------------------------------------------------------------
def thumbs_over_time(learner: Json) -> pd.DataFrame:
    """Columns at (UTC time), votes, thumb."""
    return _long(learner.get("over_time") or [], "at", {"up": "up", "down": "down"}, times=True)


def reward_over_time(learner: Json) -> pd.DataFrame:
    """Columns at (UTC time), reward; only buckets where something was rated."""
    points = [
        (row["at"], row["reward"])
        for row in map(mapping, learner.get("over_time") or [])
        if row.get("reward") is not None
    ]
    frame = pd.DataFrame(points, columns=["at", "reward"])
    return frame.assign(at=pd.to_datetime(frame["at"], unit="s"))


def thumbs_by_version(learner: Json) -> pd.DataFrame:
    """Columns version, votes, thumb, label."""
    frame = _long(learner.get("by_version") or [], "version", {"up": "up", "down": "down"})
    return _labelled(frame.rename(columns={"at": "version"}))


def success_by_version(learner: Json) -> pd.DataFrame:
    """Columns version, success (percent), label; only versions with something rated."""
    rows = [mapping(row) for row in learner.get("by_version") or []]
    points = [(str(row.get("version")), 100 * float(row["success"])) for row in rows if row.get("success") is not None]
    return _labelled(pd.DataFrame(points, columns=["version", "success"]))


def _labelled(frame: pd.DataFrame) -> pd.DataFrame:
    """With a column of what stands under each bar: every k-th version, from the newest back.

    The chart sorts bars by their labels and joins those of one label: zero-width spaces, one more for each bar, keep them
    apart and in order (they sort behind every letter)."""
    versions = list(dict.fromkeys(frame["version"]))
    step = max(1, -(-len(versions) // LABELS_SHOWN))
    newest = len(versions) - 1
    shown = (name if (newest - i) % step == 0 else "" for i, name in enumerate(versions))
    labels = {name: "\u200b" * (i + 1) + label for i, (name, label) in enumerate(zip(versions, shown, strict=True))}
    return frame.assign(label=[labels[name] for name in frame["version"]])


def _long(rows: Iterable[Any], key: str, names: Mapping[str, str], *, times: bool = False) -> pd.DataFrame:
    points = [
        (row.get(key), int(row.get(column) or 0), word) for row in map(mapping, rows) for column, word in names.items()
    ]
    frame = pd.DataFrame(points, columns=["at", "votes", "thumb"])
    return frame.assign(at=pd.to_datetime(frame["at"], unit="s")) if times else frame

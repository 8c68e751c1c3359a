"""Records to rows and back: the one place where a record's fields meet the schema's columns. Pure.

SQLite would accept nearly anything, so values are checked here: numbers are finite, text can be encoded, indices point
into what they index. Raises StoreError naming record, field, what was expected and what was got.

Floats in JSON use the shortest decimals that round-trip, so log-probabilities come back bit for bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from bot.conversation import (
    Conversation,
    Decision,
    Generated,
    LegalAct,
    Message,
    Reward,
    RewardTerm,
    Signal,
    SignalKind,
)
from bot.errors import StoreError
from bot.feedback.store_connection import Row
from bot.feedback.store_records import UpdateRow

MAX_KEY_CHARS = 255


def to_json(where: str, value: Any) -> str:
    """Compact JSON. Raises StoreError on NaN, infinities and what JSON cannot hold."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    except (TypeError, ValueError) as error:
        raise StoreError(f"{where}: expected finite numbers and plain values: {error}") from error


def _checked(where: str, row: dict[str, Any]) -> dict[str, Any]:
    for column, value in row.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise StoreError(f"{where}: {column}: expected a finite number, got {value}")
        if isinstance(value, str):
            _check_encodable(f"{where}: {column}", value)
    return row


def _check_encodable(where: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise StoreError(f"{where}: expected text that is valid Unicode, got a lone surrogate") from error


def _require(holds: bool, where: str, expected: str, got: object) -> None:
    if not holds:
        raise StoreError(f"{where}: expected {expected}, got {got!r}")


def conversation_row(conversation: Conversation) -> dict[str, Any]:
    """A row of `conversations`."""
    return _checked(f"conversation {conversation.id}", asdict(conversation))


def conversation_from(row: Row) -> Conversation:
    """The inverse of `conversation_row`."""
    names = [field.name for field in fields(Conversation)]
    values = {name: row[name] for name in names}
    return Conversation(**values | {"learn_ok": bool(row["learn_ok"])})


def message_row(message: Message) -> dict[str, Any]:
    """A row of `messages`."""
    where = f"message {message.id}"
    lists = {name: to_json(where, list(getattr(message, name))) for name in ("sources", "quick_replies")}
    return _checked(where, asdict(message) | lists | {"decision_id": message.decision_id or None})


def message_from(row: Row) -> Message:
    """The inverse of `message_row`."""
    values = {field.name: row[field.name] for field in fields(Message)}
    lists = {name: tuple(json.loads(row[name])) for name in ("sources", "quick_replies")}
    plain = {"decision_id": row["decision_id"] or "", "ask_rating": bool(row["ask_rating"])}
    return Message(**values | lists | plain)


def signal_row(signal: Signal) -> dict[str, Any]:
    """A row of `signals`, without `seq`. `1` and `1.0` are the same value, so a retry may send either."""
    where = f"signal {signal.key!r} of {signal.author}"
    _require(0 < len(signal.key) <= MAX_KEY_CHARS, where, f"a key of 1 to {MAX_KEY_CHARS} characters", signal.key)
    _require(bool(signal.author), where, "an author", signal.author)
    try:
        signal = replace(signal, kind=SignalKind(signal.kind), value=float(signal.value))
    except (TypeError, ValueError) as error:
        raise StoreError(f"{where}: expected a kind of signal and a number: {error}") from error
    row = asdict(signal) | {"decision_id": signal.decision_id or None, "kind": signal.kind.value}
    del row["seq"]
    return _checked(where, row | {"body_digest": _body_digest(where, signal)})


def _body_digest(where: str, signal: Signal) -> str:
    for name in ("conversation_id", "decision_id", "label", "comment"):
        _check_encodable(f"{where}: {name}", getattr(signal, name))
    return signal.body_digest()


def signal_from(row: Row) -> Signal:
    """The inverse of `signal_row`."""
    values = {field.name: row[field.name] for field in fields(Signal)}
    return Signal(**values | {"kind": SignalKind(row["kind"]), "decision_id": row["decision_id"] or ""})


_DECISION_JSON = ("query_ids", "logprobs", "parts")


def decision_row(decision: Decision) -> dict[str, Any]:
    """A row of `decisions`, without `seq`; the acts' texts are left to `act_texts_rows`."""
    where = f"decision {decision.id}"
    num_legal = len(decision.legal)
    _require(len(decision.logprobs) == num_legal, where, f"{num_legal} log-probabilities", len(decision.logprobs))
    _require(0 <= decision.chosen < num_legal, where, f"chosen below {num_legal}", decision.chosen)
    _require(0 <= decision.mode < num_legal, where, f"mode below {num_legal}", decision.mode)
    row = {field.name: getattr(decision, field.name) for field in fields(Decision)}
    row |= {name: to_json(f"{where}: {name}", list(row[name])) for name in _DECISION_JSON}
    row["legal"] = to_json(f"{where}: legal", [_legal_item(act) for act in decision.legal])
    row["generated"] = decision.generated and to_json(f"{where}: generated", asdict(decision.generated))
    row["timings_ms"] = to_json(f"{where}: timings_ms", dict(decision.timings_ms))
    return _checked(where, row)


def _legal_item(act: LegalAct) -> dict[str, Any]:
    return {"act": act.act, "digest": act.text_digest, "prior_logit": act.prior_logit}


def _legal_from(item: Mapping[str, Any], texts: Mapping[str, tuple[str, ...]]) -> LegalAct:
    """Of a case's act the texts may be gone (`schema.CASE_TEXTS`); of any other they never are."""
    is_case = item["act"].startswith("answer:case_")
    said = texts.get(item["digest"], ()) if is_case else texts[item["digest"]]
    return LegalAct(item["act"], said, item["prior_logit"])


def act_texts_rows(decision: Decision) -> list[tuple[str, str]]:
    """(digest, texts as JSON) of each legal act."""
    where = f"decision {decision.id}: legal"
    return [(act.text_digest, to_json(where, list(act.texts))) for act in decision.legal]


def digests_of(rows: Iterable[Row]) -> set[str]:
    """The digests of act texts that these rows of `decisions` need."""
    return {item["digest"] for row in rows for item in json.loads(row["legal"])}


def decision_from(row: Row, texts: Mapping[str, tuple[str, ...]]) -> Decision:
    """The inverse of `decision_row`; `texts` maps digest -> act texts."""
    values = {field.name: row[field.name] for field in fields(Decision)}
    values |= {name: tuple(json.loads(row[name])) for name in _DECISION_JSON}
    values |= {name: bool(row[name]) for name in ("train_ok", "holdout")}
    values["legal"] = tuple(_legal_from(item, texts) for item in json.loads(row["legal"]))
    values["timings_ms"] = json.loads(row["timings_ms"])
    values["generated"] = _generated_from(row["generated"])
    return Decision(**values)


def _generated_from(text: str | None) -> Generated | None:
    if text is None:
        return None
    values = json.loads(text)
    lists = {name: tuple(values[name]) for name in ("prompt_ids", "token_ids", "logprobs", "sources")}
    return Generated(**values | lists)


def reward_row(reward: Reward) -> dict[str, Any]:
    """A row of `rewards`, without `seq` and what is copied from the decision."""
    where = f"reward {reward.scope} of decision {reward.decision_id}"
    row = {field.name: getattr(reward, field.name) for field in fields(Reward)}
    del row["seq"]
    row["terms"] = to_json(where, [[term.rule, term.value, term.signal_seq] for term in reward.terms])
    return _checked(where, row)


def reward_from(row: Row) -> Reward:
    """The inverse of `reward_row`."""
    values = {field.name: row[field.name] for field in fields(Reward)}
    return Reward(**values | {"terms": tuple(RewardTerm(*term) for term in json.loads(row["terms"]))})


def update_row(update: UpdateRow) -> dict[str, Any]:
    """A row of `updates`, without `seq`."""
    row = {field.name: getattr(update, field.name) for field in fields(UpdateRow)}
    del row["seq"]
    row["metrics"] = to_json("update: metrics", dict(update.metrics))
    row["lineage"] = to_json("update: lineage", list(update.lineage))
    return _checked("update", row)


def update_from(row: Row) -> UpdateRow:
    """The inverse of `update_row`."""
    values = {field.name: row[field.name] for field in fields(UpdateRow)}
    return UpdateRow(**values | {"metrics": json.loads(row["metrics"]), "lineage": tuple(json.loads(row["lineage"]))})

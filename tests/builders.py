"""Valid records with sensible defaults; a test names only the field it is about: `make_decision(version="v000002")`."""

from __future__ import annotations

import math
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


def make_conversation(**overrides: Any) -> Conversation:
    """Conversation `c1` of person `p1`."""
    fields: dict[str, Any] = {"id": "c1", "person_id": "p1", "created_at": 1000.0, "domain": "bank"}
    return Conversation(**fields | overrides)


def make_message(**overrides: Any) -> Message:
    """User message `m1` in conversation `c1`."""
    fields: dict[str, Any] = {
        "id": "m1",
        "conversation_id": "c1",
        "seq": 0,
        "role": "user",
        "text": "Where is my card?",
        "created_at": 1000.0,
    }
    return Message(**fields | overrides)


def make_decision(**overrides: Any) -> Decision:
    """Decision `d1` in conversation `c1`: three legal acts with probabilities 0.5, 0.3, 0.2; the first was chosen."""
    fields: dict[str, Any] = {
        "id": "d1",
        "conversation_id": "c1",
        "person_id": "p1",
        "turn": 1,
        "created_at": 1000.0,
        "query": "user: Where is my card?",
        "query_ids": (101, 2073, 2003, 102),
        "prompt": "",
        "legal": (
            LegalAct("answer:card_arrival", ("When will my card come?", "Card arrival"), 1.5),
            LegalAct("answer:lost_card", ("I lost my card",), 0.25),
            LegalAct("handoff", (), -0.125),
        ),
        "logprobs": (math.log(0.5), math.log(0.3), math.log(0.2)),
        "chosen": 0,
        "mode": 0,
        "value": 0.0,
        "version": "v000000",
        "parts": ("encoder",),
        "temperature": 0.02,
        "knowledge_revision": "k1",
        "timings_ms": {"choose": 12.5},
    }
    return Decision(**fields | overrides)


def make_generated(**overrides: Any) -> Generated:
    """A reply of two tokens that stopped by itself."""
    fields: dict[str, Any] = {
        "prompt_ids": (1, 2, 3),
        "token_ids": (7, 8, 2),
        "logprobs": (-0.1, -0.7, -0.05),
        "temperature": 0.7,
        "sources": ("Cards come in 5 days.",),
        "text": "In 5 days.",
        "stop_reason": "stop",
    }
    return Generated(**fields | overrides)


def make_signal(**overrides: Any) -> Signal:
    """Thumb up `s1` by person `p1` on decision `d1`."""
    fields: dict[str, Any] = {
        "key": "s1",
        "conversation_id": "c1",
        "kind": SignalKind.THUMB,
        "value": 1.0,
        "author": "p1",
        "created_at": 1001.0,
        "decision_id": "d1",
    }
    return Signal(**fields | overrides)


def make_reward(**overrides: Any) -> Reward:
    """First revision of decision `d1`'s reply reward: +0.5 for a thumb."""
    fields: dict[str, Any] = {
        "decision_id": "d1",
        "conversation_id": "c1",
        "revision": 1,
        "value": 0.5,
        "scope": "reply",
        "terms": (RewardTerm("thumb", 0.5, 1),),
        "rules_hash": "r1",
        "settled_at": 1010.0,
    }
    return Reward(**fields | overrides)

"""What the operator's routes answer in tests: one ordinary and one hostile conversation, five versions, a learning curve."""

from __future__ import annotations

import math
from typing import Any

HOSTILE = (
    "<img src=x onerror=\"alert('x')\"><script>alert(1)</script>${alert(2)}{{constructor.constructor('alert(3)')()}}"
)
START_AT = 1_780_000_000.0


def decision(**overrides: Any) -> dict[str, Any]:
    """A decision as the API shows it."""
    legal = ["answer:card_arrival", "answer:card_delivery_estimate", "clarify:card_arrival|lost_card", "handoff"]
    shares = [0.82, 0.13, 0.03, 0.02]
    return {
        "id": "d1", "message_id": "m2", "turn": 1, "created_at": START_AT + 1, "version": "v000004", "chosen": 0, "mode": 0,
        "legal": [{"act": act} for act in legal], "logprobs": [math.log(share) for share in shares],
    } | overrides  # fmt: skip


def message(**overrides: Any) -> dict[str, Any]:
    """A message as the API shows it."""
    return {
        "id": "m1", "seq": 1, "role": "user", "text": "My new card has not come yet. When will it arrive?",
        "created_at": START_AT, "act": "", "version": "", "sources": [],
    } | overrides  # fmt: skip


def signal(**overrides: Any) -> dict[str, Any]:
    """A thumb up with a comment."""
    return {
        "seq": 9, "kind": "thumb", "value": 1.0, "decision_id": "d1", "author": "p_7f3a", "label": "correct|clear",
        "comment": "Exactly what I needed", "created_at": START_AT + 30,
    } | overrides  # fmt: skip


def transcript(**overrides: Any) -> dict[str, Any]:
    """Two turns, the first rated."""
    bot = {"role": "bot", "act": "answer:card_arrival", "version": "v000004", "can_vote": True}
    return {
        "conversation": {"id": "c_0f91", "created_at": START_AT, "status": "bot", "reply": "approved", "learn": True, "domain": "bank"},
        "messages": [
            message(),
            message(id="m2", seq=2, text="Cards usually arrive within 5 working days of ordering. You can follow yours in the app.", **bot),
            message(id="m3", seq=3, text="And if it does not?"),
            message(id="m4", seq=4, text="Then we send you a new one free of charge. Shall I order it?", **bot),
        ],
        "decisions": [decision(), decision(id="d2", message_id="m4", turn=2, logprobs=[math.log(p) for p in (0.55, 0.4, 0.03, 0.02)])],
        "signals": [signal(), signal(seq=12, kind="outcome", decision_id="", label="", comment="")],
        "rewards": [
            {"decision_id": "d1", "revision": 1, "value": 0.8, "scope": "reply", "rules_hash": "5be1d7c20a94f3e8",
             "terms": [{"rule": "thumb_up", "value": 1.0, "signal_seq": 9}, {"rule": "cap_thumbs", "value": -0.2, "signal_seq": 9}]}
        ],
    } | overrides  # fmt: skip


def row(**overrides: Any) -> dict[str, Any]:
    """One line of the list."""
    return {
        "id": "c_0f91", "created_at": START_AT, "status": "bot", "last_text": "Then we send you a new one free of charge.",
        "num_messages": 4, "thumbs": {"up": 1, "down": 0}, "versions": ["v000003", "v000004"],
    } | overrides  # fmt: skip


def hostile_transcript() -> dict[str, Any]:
    """Every text a stranger can choose is an attack."""
    return transcript(
        conversation={"id": "c_bad", "created_at": START_AT, "status": "waiting", "reply": "approved", "learn": True},
        messages=[
            message(text=HOSTILE),
            message(id="m2", seq=2, role="bot", text=HOSTILE, act=HOSTILE, version=HOSTILE, can_vote=True),
        ],
        signals=[signal(label=HOSTILE, comment=HOSTILE, author=HOSTILE)],
        decisions=[decision(legal=[{"act": HOSTILE}], logprobs=[0.0], version=HOSTILE)],
    )


def operator_answers() -> dict[str, Any]:
    """Everything the operator's routes answer."""
    talks = [
        row(),
        row(id="c_bad", last_text=HOSTILE, status="waiting", thumbs={"up": 0, "down": 2}),
        row(
            id="c_3",
            last_text="I would like to talk to somebody about a charge I do not recognise.",
            status="person",
            thumbs={"up": 0, "down": 1},
        ),
        row(
            id="c_4",
            last_text="Thank you, that solved it!",
            status="resolved",
            thumbs={"up": 3, "down": 0},
            num_messages=9,
        ),
        row(
            id="c_5",
            last_text="How do I change my PIN while I am abroad?",
            thumbs={"up": 0, "down": 0},
            versions=["v000002"],
            num_messages=2,
        ),
    ]
    return {
        "conversations": talks,
        "transcripts": {"c_0f91": transcript(), "c_bad": hostile_transcript()},
        "versions": {"champion": "v000004", "frozen": False, "versions": _versions()},
        "learner": _learner(),
    }


def _versions() -> list[dict[str, Any]]:
    made = [
        {"version": f"v{n:06d}", "parent": f"v{n - 1:06d}", "created_at": START_AT + 900 * n, "state": "published",
         "gate": {"passed": True, "reason": f"success +{n}.2 points, 95 % interval above −1"}, "lineage": {"decisions": 64 * n}}
        for n in range(1, 5)
    ]  # fmt: skip
    made[-1]["state"] = "champion"
    base = {"version": "v000000", "parent": "", "created_at": 0.0, "state": "base", "gate": {}, "lineage": {}}
    return [base, *made]


def _learner() -> dict[str, Any]:
    by_version = [
        {
            "version": f"v{n:06d}",
            "replies": 120 + 15 * n,
            "up": 40 + 11 * n,
            "down": 31 - 5 * n,
            "mean_reward": 0.12 + 0.13 * n,
            "success": 0.56 + 0.07 * n,
        }
        for n in range(5)
    ]
    over_time = [
        {
            "at": START_AT + 150 * i,
            "replies": 20,
            "up": 5 + i // 4 + i % 3,
            "down": max(0, 6 - i // 6 + i % 2),
            "reward": 0.1 + 0.02 * i + 0.05 * math.sin(i),
        }
        for i in range(30)
    ]
    updates = [
        {"seq": n, "at": START_AT + 900 * n, "outcome": "refused" if n == 3 else "published", "version": f"v{n:06d}",
         "metrics": {"approx_kl": 0.004 * n, "entropy": 0.61 - 0.03 * n, "clip_fraction": 0.08, "rows": 64 * n}}
        for n in range(1, 5)
    ]  # fmt: skip
    return {
        "status": {"state": "waiting for thumbs", "fresh": 11, "of": 32, "at": START_AT + 4500},
        "by_version": by_version,
        "over_time": over_time,
        "updates": updates,
    }

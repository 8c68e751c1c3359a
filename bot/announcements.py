"""Lines of a transcript that nobody spoke: who of customer service joined, left, closed. Owns their words, and reads them back.

The store keeps them in English, as programs and the staff read them; pages say them in their reader's language, by event and
name (docs/protocol.md). Records of earlier releases hold the same words, so nothing is stored beside them.
"""

from __future__ import annotations

from collections.abc import Mapping

SOMEBODY = "A colleague"
"""Of customer service, where no name may be shown."""
_REST: Mapping[str, str] = {
    "joined": " from customer service has joined. You are now talking with a person.",
    "left": " has left. You are talking with the AI assistant again.",
    "closed": " has closed this conversation. Write again whenever you need us.",
}
EVENTS = tuple(_REST)


def announcement(event: str, name: str) -> str:
    """What the transcript says of an event; an empty name is somebody's."""
    return (name or SOMEBODY) + _REST[event]


def event_in(text: str) -> tuple[str, str]:
    """(event, name) of an announcement, the name empty where it is somebody's; two empty texts for any other line."""
    for event, rest in _REST.items():
        if text.endswith(rest):
            name = text.removesuffix(rest)
            return event, "" if name == SOMEBODY else name
    return "", ""

"""Decisions that were read lately, so that a learner's window is parsed once and not at every update.

A stored decision never changes, so what is kept is never out of date; which decisions are wanted is asked of the store each
time, so one that is no longer there is not wanted either.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping

from bot.conversation import Decision

MAX_KEPT = 8192
"""Decisions, about 8 kB each: four replay windows."""


class KeptDecisions:
    """The newest decisions by id; safe to use from many threads."""

    def __init__(self, capacity: int = MAX_KEPT) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._by_id: OrderedDict[str, Decision] = OrderedDict()

    def among(self, ids: Iterable[str]) -> dict[str, Decision]:
        """Those of `ids` that are kept."""
        with self._lock:
            found = {id_: self._by_id[id_] for id_ in ids if id_ in self._by_id}
            for id_ in found:
                self._by_id.move_to_end(id_)
            return found

    def keep(self, decisions: Mapping[str, Decision]) -> None:
        """Add; those that were wanted least lately go."""
        with self._lock:
            self._by_id.update(decisions)
            while len(self._by_id) > self._capacity:
                self._by_id.popitem(last=False)

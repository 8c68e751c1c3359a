"""What `/metrics` shows. One registry per app; names start with `rejoinder_`; never a person's id as a label."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counters and gauges of one app."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.sockets = self._gauge("sockets", "Open websockets")
        self.rooms = self._gauge("rooms", "Conversations in memory")
        self.replies_running = self._gauge("replies_running", "Replies being made now")
        self.ready = self._gauge("ready", "1 when the last readiness check passed")
        self.champion = self._gauge("champion", "Number of the version that serves")
        self.messages = self._counter("messages", "User messages accepted")
        self.votes = self._counter("votes", "Votes stored", "thumb")
        self.signals = self._counter("signals", "Signals stored", "kind")
        self.errors = self._counter("errors", "Errors told to people", "code")
        self.replies = self._counter("replies", "Replies ended", "end")
        self.slow_readers = self._counter("slow_readers", "Sockets closed because they did not read")
        self.reply_s = self._histogram("reply_seconds", "From a message's turn to its whole reply")
        self.first_text_s = self._histogram("first_text_seconds", "From a message's turn to the reply's first text")
        self.rows = self._gauge("rows", "Rows in the store", "table")

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"rejoinder_{name}", text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"rejoinder_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"rejoinder_{name}", text, buckets=_SECONDS, registry=self.registry)

"""What `/metrics` shows. One registry per app; names start with `rejoinder_`; never a person's id as a label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0)

ENGINE_COUNTS: Mapping[str, str] = {
    "batches": "Batches of choices",
    "batched_choices": "Choices made in them",
    "encoder_texts_asked": "Texts whose embedding was wanted",
    "encoder_texts_read": "Of these, texts that went through the encoder; the others were known",
    "encoder_tokens_read": "Tokens that went through the encoder",
}
"""What the engine counts by itself: name -> help."""


class Metrics:
    """Counters and gauges of one app. `engine_counts` is asked at every scrape."""

    def __init__(self, engine_counts: Callable[[], Mapping[str, float]] = dict) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_EngineCounts(engine_counts))
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
        self.queue_s = self._histogram(
            "queue_seconds", "From a message's turn in its room to a place among the replies"
        )
        self.piece_s = self._histogram("piece_seconds", "From one piece of a reply to the next")
        self.replies_waiting = self._gauge("replies_waiting", "Messages waiting for a place among the replies")
        self.version_replies = self._counter("version_replies", "Replies told", "version")
        self.rows = self._gauge("rows", "Rows in the store", "table")

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)

    def value(self, name: str) -> float:
        """Of a metric without labels, by its name without the prefix."""
        return self.registry.get_sample_value(f"rejoinder_{name}") or 0.0

    def by_label(self, metric: Counter) -> dict[str, float]:
        """A counter's values by its one label."""
        samples = (sample for family in metric.collect() for sample in family.samples)
        return {next(iter(s.labels.values())): s.value for s in samples if s.name.endswith("_total")}

    def quantile_ms(self, histogram: Histogram, share: float) -> float | None:
        """An estimate since the start: linear within its bucket; of the last bucket the lower end. None without values."""
        samples = [sample for family in histogram.collect() for sample in family.samples if "le" in sample.labels]
        wanted, below, start = share * samples[-1].value, 0.0, 0.0
        for sample in samples:
            end = float(sample.labels["le"])
            if sample.value >= wanted > 0:
                part = 0.0 if end == float("inf") else (wanted - below) / (sample.value - below)
                return round(1000 * (start + part * (end - start if part else 0.0)), 1)
            below, start = sample.value, end
        return None

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"rejoinder_{name}", text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"rejoinder_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"rejoinder_{name}", text, buckets=_SECONDS, registry=self.registry)


class _EngineCounts(Collector):
    def __init__(self, counts: Callable[[], Mapping[str, float]]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[CounterMetricFamily]:
        """One counter for each of ENGINE_COUNTS; 0 where the engine does not count it."""
        counts = self._counts()
        for name, text in ENGINE_COUNTS.items():
            yield CounterMetricFamily(f"rejoinder_{name}", text, value=counts.get(name, 0.0))

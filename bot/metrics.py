"""What `/metrics` shows. One registry per app; names start with `rejoinder_`; never a person's id as a label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from bot.policy.tally import SECONDS, SIZES, Tally

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0)

ENGINE_COUNTS: Mapping[str, str] = {
    "batches": "Batches of choices",
    "batched_choices": "Choices made in them",
    "encoder_texts_asked": "Texts whose embedding was wanted",
    "encoder_texts_read": "Of these, texts that went through the encoder; the others were known",
    "encoder_tokens_read": "Tokens that went through the encoder",
    "causal_tokens_read": "Tokens that went through the causal model for choices",
    "choice_prefix_tokens_read": "Prompt tokens of choices that had to be read",
    "choice_prefix_tokens_reused": "Prompt tokens of choices that had been read before by the same version",
    "choice_prefix_blocks_evicted": "Blocks of choices' prompts that made room for others",
    "swaps": "Versions that became champion here after a load and a probe",
    "swaps_refused": "Versions that could not be loaded or failed a probe",
    "writer_replies": "Generated replies begun",
    "writer_steps": "Passes of the writer",
    "writer_tokens": "Tokens written",
    "writer_step_seconds": "Time spent in passes of the writer",
    "prefix_tokens_reused": "Prompt tokens that had been read before",
    "prefix_tokens_read": "Prompt tokens that might have been known and had to be read",
    "prefix_blocks_evicted": "Blocks of prompts that made room for others",
}
"""What the engine counts by itself: name -> help."""
ENGINE_GAUGES: Mapping[str, str] = {
    "versions_loaded": "Versions in memory beside the base",
    "writer_waiting": "Generated replies without a place in the batch",
    "writer_running": "Generated replies in the batch",
    "prefix_blocks": "Blocks of prompts held",
}
"""What the engine has now: name -> help."""
ENGINE_TALLIES: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "batch_choices": ("Choices in a batch", SIZES),
    "swap_seconds": ("From beginning to load a new champion to serving it", SECONDS),
    "writer_batch_replies": ("Replies in a pass of the writer", SIZES),
    "writer_queue_seconds": ("From asking for a generated reply to its place in the batch", SECONDS),
}
"""Histograms that the engine keeps by itself: name -> help, buckets."""
EngineCounts = Mapping[str, float | Tally]


class Metrics:
    """Counters and gauges of one app. `engine_counts` is asked at every scrape."""

    def __init__(self, engine_counts: Callable[[], EngineCounts] = dict) -> None:
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
        self.first_token_s = self._histogram("first_token_seconds", "The same, of generated replies alone")
        self.queue_s = self._histogram(
            "queue_seconds", "From a message's turn in its room to a place among the replies"
        )
        self.piece_s = self._histogram("piece_seconds", "From one piece of a generated reply to the next")
        self.replies_waiting = self._gauge("replies_waiting", "Messages waiting for a place among the replies")
        self.version_replies = self._counter("version_replies", "Replies told", "version")
        self.rows = self._gauge("rows", "Rows in the store", "table")

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)

    def read(self) -> Reading:
        """Every figure as it is now. Collected once: that takes time for each version that ever served."""
        return Reading({family.name: family.samples for family in self.registry.collect()})

    def by_label(self, metric: Counter) -> dict[str, float]:
        """A counter's values by its one label."""
        samples = (sample for family in metric.collect() for sample in family.samples)
        return {next(iter(s.labels.values())): s.value for s in samples if s.name.endswith("_total")}

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"rejoinder_{name}", text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"rejoinder_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"rejoinder_{name}", text, buckets=_SECONDS, registry=self.registry)


class Reading:
    """All figures of one moment; names are without the prefix."""

    def __init__(self, families: Mapping[str, Sequence[Sample]]) -> None:
        self._families = families
        self._values = {s.name: s.value for samples in families.values() for s in samples if not s.labels}

    def value(self, name: str) -> float:
        """Of a metric without labels; 0 for one that is not there."""
        return self._values.get(f"rejoinder_{name}", 0.0)

    def samples(self, name: str) -> Sequence[Sample]:
        """Of a metric."""
        return self._families.get(f"rejoinder_{name}", ())


def quantile(samples: Sequence[Sample], share: float) -> float | None:
    """Of a histogram, estimated since the start: linear within its bucket; of the last one the lower end. None without
    values."""
    samples = [sample for sample in samples if "le" in sample.labels]
    wanted, below, start = share * samples[-1].value if samples else 0.0, 0.0, 0.0
    for sample in samples:
        end = float(sample.labels["le"])
        if sample.value >= wanted > 0:
            part = 0.0 if end == float("inf") else (wanted - below) / (sample.value - below)
            return start + part * (end - start if part else 0.0)
        below, start = sample.value, end
    return None


class _EngineCounts(Collector):
    def __init__(self, counts: Callable[[], EngineCounts]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """Everything of ENGINE_COUNTS, ENGINE_GAUGES and ENGINE_TALLIES; 0 where the engine does not count it."""
        counts = self._counts()
        for name, text in ENGINE_COUNTS.items():
            yield CounterMetricFamily(f"rejoinder_{name}", text, value=_number(counts.get(name)))
        for name, text in ENGINE_GAUGES.items():
            yield GaugeMetricFamily(f"rejoinder_{name}", text, value=_number(counts.get(name)))
        for name, (text, bounds) in ENGINE_TALLIES.items():
            kept = counts.get(name)
            yield _histogram(f"rejoinder_{name}", text, kept if isinstance(kept, Tally) else Tally(bounds))


def _number(count: float | Tally | None) -> float:
    return float(count) if isinstance(count, int | float) else 0.0


def _histogram(name: str, text: str, tally: Tally) -> HistogramMetricFamily:
    ends = [*map(str, tally.bounds), "+Inf"]
    buckets = list(zip(ends, map(float, accumulate(tally.counts)), strict=True))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=tally.total)

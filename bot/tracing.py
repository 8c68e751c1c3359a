"""OpenTelemetry traces of replies: off unless an endpoint is set, and then nothing but spans is sent, and only there.

    reply -> retrieve, choose, store          (`Span`: a name and attributes in, a context manager out)

The packages are loaded only where tracing is on. No span carries what people write, or who they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

SERVICE = "rejoinder"


class Span(Protocol):
    """Begins a span that lasts as long as the block."""

    def __call__(self, name: str, /, **attributes: str | float) -> AbstractContextManager[object]:
        """`name` is one of the module's; attributes are versions, counts and seconds."""


def no_span(_name: str, /, **_attributes: str | float) -> AbstractContextManager[object]:
    """What is used where tracing is off."""
    return nullcontext()


@contextmanager
def tracing(endpoint: str) -> Iterator[Span]:
    """Spans that are sent to an OTLP/HTTP collector (`http://host:4318`) in the background; the rest at the end. With an
    empty endpoint: `no_span`."""
    if not endpoint:
        yield no_span
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": SERVICE}))
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer(SERVICE)

    def span(name: str, /, **attributes: str | float) -> AbstractContextManager[object]:
        return tracer.start_as_current_span(name, attributes=attributes)

    try:
        yield span
    finally:
        provider.shutdown()

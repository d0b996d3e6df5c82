"""What the spans of one request cost the gateway: while tracing is off, and with a collector that is away.

The second is what it costs to make the spans and hand them over; they leave on a thread of their own.
"""

from __future__ import annotations

import logging
import os
import timeit

from tritium_platform import spans
from tritium_platform.adapters import tracing

STEPS = ("authenticate", "reserve", "settle", "audit")


def request() -> None:
    """Make the spans of a request, all but that of the work itself."""
    with tracing.request_span({}, request_id="r", method="POST") as span:
        tracing.trace_id_of(span)
        for name in STEPS:
            with spans.step(name):
                pass
        spans.is_traced()
        tracing.current_traceparent()
        tracing.end_request_span(span, method="POST", route="/", status=200)


def microseconds() -> float:
    """Return the time of one request, the best of seven rounds."""
    return min(timeit.repeat(request, number=2000, repeat=7)) / 2000 * 1e6


def main() -> None:
    """Measure both."""
    print(f"off: {microseconds():.1f} us a request")
    logging.disable(logging.CRITICAL)  # the exporter says that nobody answers
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
    tracing.configure_tracing(process="benchmark")
    print(f"on: {microseconds():.1f} us a request")


if __name__ == "__main__":
    main()

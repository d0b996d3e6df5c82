"""The spans of a request's way through the gateway, by OpenTelemetry's API.

Nothing is done until a tracer is configured. They hold ids, counts, names and times, never a text of a tenant
or a key; of an error, the code alone.
"""

from __future__ import annotations

import time
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.trace import StatusCode

from tritium_platform.errors import BitNetServiceError
from tritium_platform.metering.model import OperationType

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from tritium_platform.passage import Passage
    from tritium_platform.serving.model import Consumption, Outcome

SCOPE = "tritium"
_NANOSECONDS = 1_000_000_000
_tracer = trace.get_tracer(SCOPE)
_NO_SPAN = nullcontext()
_GEN_AI_NAMES = {
    OperationType.CHAT: "chat",
    OperationType.COMPLETION: "text_completion",
    OperationType.EMBEDDING: "embeddings",
}


def step(name: str) -> AbstractContextManager[None]:
    """Hold the span of a step, if the request is traced."""
    return _traced_span(name) if is_traced() else _NO_SPAN


@contextmanager
def _traced_span(name: str) -> Iterator[None]:
    """Hold the span of a step; of an error it holds the code alone."""
    with _tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False) as span:
        try:
            yield
        except BaseException as error:
            span.set_attribute("error.type", _error_type(error))
            span.set_status(StatusCode.ERROR)
            raise


def is_traced() -> bool:
    """Tell whether what happens here belongs to a trace that is kept."""
    return trace.get_current_span().get_span_context().trace_flags.sampled


def _error_type(error: BaseException) -> str:
    return error.code if isinstance(error, BitNetServiceError) else type(error).__name__


def work(
    passage: Passage[Any],
    *,
    outcome: Outcome,
    consumption: Consumption,
    seconds: float,
    error: BaseException | None,
) -> None:
    """Make the span of the work, now that it is known how it went; names are OpenTelemetry's for GenAI."""
    if not is_traced():
        return
    end = time.time_ns()
    operation = passage.request.operation
    name = _GEN_AI_NAMES.get(operation, operation.value)
    used, course, model = consumption.quantities, consumption.course, passage.request.model
    attributes: dict[str, str | int | float | list[str]] = {
        "gen_ai.operation.name": name,
        "gen_ai.provider.name": "tritium",
        "gen_ai.request.model": model,
        "gen_ai.response.model": model,
        "gen_ai.usage.input_tokens": used.input_tokens + used.embedding_tokens,
        "gen_ai.usage.output_tokens": used.output_tokens,
        "tritium.request_id": passage.request_id,
        "tritium.tier": passage.context.tier.value,
        "tritium.outcome": outcome.value,
    }
    if course is not None and course.finish_reason is not None:
        attributes["gen_ai.response.finish_reasons"] = [course.finish_reason]
    if passage.first_seconds is not None:
        attributes["tritium.time_to_first_piece"] = passage.first_seconds
    if error is not None:
        attributes["error.type"] = _error_type(error)
    begin = end - round(seconds * _NANOSECONDS)
    _tracer.start_span(f"{name} {model}", attributes=attributes, start_time=begin).end(end_time=end)

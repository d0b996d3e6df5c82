"""A trace of an engine's work as JSON lines: how much came when and what it took, never what was said.

The first line describes the engine, then follow requests as they end and intervals of about a second. Times
are seconds since the trace began. A tenant is a digest under a key that is thrown away: the same in all lines
of one trace, and nowhere else.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tritium.engine.cost import StepSums
from tritium.engine.yardstick import Yardstick
from tritium.errors import ValidationError
from tritium.kernels.pages import BLOCK_SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tritium.engine.config import EngineConfig

VERSION = 1
LARGEST_FILE = 2**30
_Line = TypeVar("_Line")


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedEngine:
    """The engine that was recorded: its limits at the start, see `EngineConfig`, and its machine.

    Attributes:
        block_size: tokens of a block of the cache; `block_bytes` what it takes in all layers.
    """

    model: str
    max_running: int
    max_batched_tokens: int
    max_waiting: int
    max_waiting_tokens: int
    max_waiting_seconds: float | None
    latency_seconds: float | None
    shares_prefixes: bool
    kv_cache_bytes: int
    kv_blocks: int
    block_size: int
    block_bytes: int
    context_limit: int
    yardstick: Yardstick | None

    @classmethod
    def of(
        cls,
        config: EngineConfig,
        *,
        model: str,
        kv_blocks: int,
        block_bytes: int,
        context_limit: int,
        yardstick: Yardstick | None,
    ) -> Self:
        """Describe an engine with these limits."""
        return cls(
            model=model,
            max_running=config.max_running,
            max_batched_tokens=config.max_batched_tokens,
            max_waiting=config.max_waiting,
            max_waiting_tokens=config.max_waiting_tokens,
            max_waiting_seconds=config.max_waiting_seconds,
            latency_seconds=config.latency_seconds,
            shares_prefixes=config.shares_prefixes,
            kv_cache_bytes=config.kv_cache_bytes,
            kv_blocks=kv_blocks,
            block_size=BLOCK_SIZE,
            block_bytes=block_bytes,
            context_limit=context_limit,
            yardstick=yardstick,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedRequest:
    """One request; times from its arrival, which is counted from the beginning of the trace.

    Attributes:
        cached: tokens of the prompt that earlier requests had computed.
        queue_seconds: until its first step; `first_seconds` until its first token, None if it had none.
        finish: its finish reason.
    """

    arrival: float
    prompt: int
    output: int
    cached: int
    tenant: str
    weight: int
    priority: int
    queue_seconds: float
    first_seconds: float | None
    end_seconds: float
    finish: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedInterval:
    """What happened in a span of time that ends at `at`.

    Attributes:
        seconds: its length; `busy_seconds` of it went into steps.
        sums: of all its steps, see `StepSums`; a step counts until the next one begins, if work was left.
        running: of its steps the mean number of requests in the batch; `waiting` likewise.
        kv_used: of its steps the mean used share of the cache; `kv_full` the share of steps with over 95 %.
        prompt_tokens: tokens of prompts computed; `rows` tokens written.
        refused: requests that found no place.
        process_seconds: processor time of the process.
        stolen: share of all processors' time that the host gave away.
        throttled_seconds: how long the group had used up its quota.
        delivery_seconds: mean time between a step's end and its outputs reaching those who send them.
        unread: the most outputs of one request that waited to be sent.
        pressure: of memory.
    """

    at: float
    seconds: float
    busy_seconds: float
    steps: int
    sums: StepSums
    running: float
    waiting: float
    kv_used: float
    kv_full: float
    prompt_tokens: int
    rows: int
    preemptions: int
    refused: int
    process_seconds: float
    stolen: float
    throttled_seconds: float
    delivery_seconds: float
    unread: int
    pressure: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A whole recording; requests in the order of their arrival."""

    engine: TracedEngine
    requests: tuple[TracedRequest, ...]
    intervals: tuple[TracedInterval, ...]

    @property
    def sums(self) -> StepSums:
        """The sums over all steps."""
        total = StepSums()
        for interval in self.intervals:
            total += interval.sums
        return total


def line_of(thing: TracedEngine | TracedRequest | TracedInterval) -> str:
    """Return a line of the file."""
    content = asdict(thing)
    if isinstance(thing, TracedInterval):
        content["sums"] = thing.sums.to_list()
    kinds = {TracedEngine: "trace", TracedRequest: "request", TracedInterval: "interval"}
    head: dict[str, Any] = {"kind": kinds[type(thing)]}
    if isinstance(thing, TracedEngine):
        head["version"] = VERSION
    return json.dumps(head | _rounded(content), separators=(",", ":")) + "\n"


def read_trace(path: str | Path) -> Trace:
    """Read a recording; a last line that is cut off is left out.

    Raises:
        ValidationError: the file cannot be read, or is no trace; names the line.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValidationError(f"The trace {path} is larger than {LARGEST_FILE:,} bytes.", file=str(path))
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise ValidationError(
            f"The trace {path} cannot be read: {error.strerror}.", file=str(path)
        ) from error
    except UnicodeDecodeError:
        raise ValidationError(f"{path} is not a trace: it is no text.", file=str(path)) from None
    found: dict[type, list[Any]] = {TracedEngine: [], TracedRequest: [], TracedInterval: []}
    for number, line in enumerate(lines[:-1], start=1):
        thing = _parse(line, where=f"{path}, line {number}")
        found[type(thing)].append(thing)
    if len(found[TracedEngine]) != 1:
        raise ValidationError(f"{path} is not a trace: it describes no engine, or several.", file=str(path))
    return Trace(
        engine=found[TracedEngine][0],
        requests=tuple(sorted(found[TracedRequest], key=lambda request: request.arrival)),
        intervals=tuple(found[TracedInterval]),
    )


def _parse(line: str, *, where: str) -> TracedEngine | TracedRequest | TracedInterval:
    try:
        content = json.loads(line)
        kind = content.pop("kind")
        if kind == "trace":
            version = content.pop("version")
            if version != VERSION:
                raise ValidationError(f"{where}: version {version} of traces is not known here.")
            yardstick = content.pop("yardstick")
            known = None if yardstick is None else _made(Yardstick, yardstick)
            return _made(TracedEngine, content | {"yardstick": known})
        if kind == "interval":
            return _made(TracedInterval, content | {"sums": StepSums.from_list(content["sums"])})
        if kind == "request":
            return _made(TracedRequest, content)
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise ValidationError(f"{where} is not a line of a trace.")


def _made(kind: type[_Line], content: Mapping[str, Any]) -> _Line:
    """Return a line's value; every field must be there, in its kind, and no number may be endless."""
    for field in fields(kind):  # type: ignore[arg-type]
        value, wanted = content[field.name], str(field.type)
        if isinstance(value, float) and not abs(value) < float("inf"):
            raise ValueError(field.name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_right = {
            "int": isinstance(value, int) and is_number and value >= 0,
            "float": is_number,
            "str": isinstance(value, str),
            "bool": isinstance(value, bool),
        }.get(wanted.removesuffix(" | None"), True)
        if not is_right and not (value is None and wanted.endswith("| None")) and field.name != "priority":
            raise TypeError(field.name)
    return kind(**content)


def _rounded(content: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out digits beyond the ninth of plain figures: files stay small, and sums stay exact."""
    return {name: round(value, 9) if isinstance(value, float) else value for name, value in content.items()}

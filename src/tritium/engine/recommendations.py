"""Recommendations from a trace: rules that always say the same of the same numbers, each with its evidence.

Nothing here changes anything. A rule that would change limits is asked what it would have done to the trace,
and is dropped where that is no gain.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - read when records come from another process
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritium.engine.batch_size import rows_within
from tritium.engine.bottleneck import BottleneckKind, find_bottleneck
from tritium.engine.evidence import evidence_of
from tritium.engine.what_if import Effect, what_if
from tritium.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tritium.engine.evidence import Evidence
    from tritium.engine.trace import Trace

_WAITS = 0.2  # of requests' time in the queue
_PLACES_USED, _PLACES_UNUSED = 0.85, 0.25
_PLACES_HALF_USED = 0.5
_CACHE_FULL = 0.1  # of the steps
_CACHE_UNUSED = 0.25
_PREEMPTED = 0.01  # of the requests
_PROMPTS = 0.4  # of the steps' time
_TAKEN = 0.05  # of the processors' time, by the host or by a quota
_TIGHT = 0.8  # of memory: no more of it is asked for
_GAIN = 0.95  # what is not at least so much better is no gain


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """One thing an operator can change.

    Attributes:
        id: the rule that gave it.
        summary: what was found and what to do, in a sentence.
        window_seconds: how long was recorded.
        evidence: the numbers that the rule looked at.
        change: settings with the value they have and the one they should get; empty if no setting helps.
        expected: what that would have done to the trace; empty where no simulation can tell.
        risk: what may become worse.
        undo: how to take it back.
    """

    id: str
    summary: str
    window_seconds: float
    evidence: Mapping[str, float]
    change: Mapping[str, tuple[float, float]]
    expected: tuple[Effect, ...]
    risk: str
    undo: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    summary: str
    evidence: tuple[str, ...]
    risk: str
    change: dict[str, tuple[float, float]]
    aim: str | None = None  # the figure that must become smaller


def recommend(trace: Trace, *, seed: int = 0) -> tuple[Recommendation, ...]:
    """Return what the numbers of a trace speak for; nothing while they are few.

    Args:
        trace: what was recorded.
        seed: of the draws of the simulations.
    """
    evidence = evidence_of(trace)
    if evidence.is_thin:
        return ()
    found = []
    for rule in RULES:
        finding = rule(evidence)
        made = None if finding is None else _recommendation(rule.__name__, finding, trace, evidence, seed)
        if made is not None:
            found.append(made)
    return tuple(found)


def queue_wait(evidence: Evidence) -> _Finding | None:
    """Requests wait though cache and latency have room: more of them could share a step."""
    if evidence.queue_wait < _WAITS or evidence.fill < _PLACES_USED or evidence.kv_full >= _CACHE_FULL:
        return None
    now, wanted = evidence.engine.max_running, evidence.engine.latency_seconds
    if wanted is not None and evidence.cost.seconds(rows=2 * now) > wanted:
        return None
    return _Finding(
        summary=f"Requests spend {evidence.queue_wait:.0%} of their time waiting while all places are taken: "
        f"let {2 * now} share a step.",
        evidence=("queue_wait", "fill", "kv_full", "waiting"),
        change={"max_running": (now, 2 * now)},
        risk="Steps become longer, and with them the time between two tokens.",
        aim="first_token_seconds",
    )


def latency(evidence: Evidence) -> _Finding | None:
    """Steps of as many rows as are allowed take longer than is wanted."""
    now, wanted = evidence.engine.max_running, evidence.engine.latency_seconds
    if wanted is None or evidence.fill < _PLACES_HALF_USED or evidence.cost.seconds(rows=now) <= wanted:
        return None
    fitting = rows_within(wanted, cost=evidence.cost, most=now)
    return _Finding(
        summary=f"A step of {now} rows takes {1000 * evidence.cost.seconds(rows=now):.1f} ms and "
        f"{1000 * wanted:.1f} ms are wanted: let {fitting} share one.",
        evidence=("step_seconds", "rows", "fill", "queue_wait"),
        change={"max_running": (now, fitting)},
        risk="Requests wait longer for a place.",
    )


def cache_full(evidence: Evidence) -> _Finding | None:
    """The key-value cache is full, or requests lose their place in it, and there is memory."""
    is_short = evidence.kv_full >= _CACHE_FULL or evidence.preemptions > _PREEMPTED * evidence.requests
    if not is_short or evidence.pressure >= _TIGHT:
        return None
    now = evidence.engine.kv_blocks * evidence.engine.block_bytes
    return _Finding(
        summary=f"The key-value cache is full in {evidence.kv_full:.0%} of the steps, and "
        f"{evidence.preemptions} times a request lost its place in it: give it twice the memory.",
        evidence=("kv_full", "kv_used", "preemptions", "prefix_hits", "pressure"),
        change={"kv_cache_bytes": (now, 2 * now)},
        risk=f"It takes up to {now:,} bytes more.",
        aim="end_seconds",
    )


def batch_fill(evidence: Evidence) -> _Finding | None:
    """Hardly anything of the places and of the cache is ever used: the memory can serve others."""
    is_idle = evidence.fill < _PLACES_UNUSED and evidence.kv_used < _CACHE_UNUSED and not evidence.kv_full
    if not is_idle or evidence.queue_wait >= _WAITS or evidence.prefix_hits >= _CACHE_UNUSED:
        return None
    now = evidence.engine.kv_blocks * evidence.engine.block_bytes
    longest = -(-evidence.engine.context_limit // evidence.engine.block_size) * evidence.engine.block_bytes
    if now // 2 < longest:
        return None  # the longest request must still find room
    return _Finding(
        summary=f"Requests use {evidence.fill:.0%} of the places and {evidence.kv_used:.0%} of the cache: "
        f"half of it gives {now // 2:,} bytes back.",
        evidence=("fill", "kv_used", "kv_full", "queue_wait", "prefix_hits"),
        change={"kv_cache_bytes": (now, now // 2)},
        risk="When more requests come than were recorded, they wait sooner.",
    )


def prefill_share(evidence: Evidence) -> _Finding | None:
    """Prompts take most of the time, and wait though places are free: the tokens of a step run out."""
    is_prompts = evidence.prefill >= _PROMPTS and evidence.queue_wait >= _WAITS
    if not is_prompts or evidence.fill >= _PLACES_USED or evidence.kv_full >= _CACHE_FULL:
        return None
    now = evidence.engine.max_batched_tokens
    return _Finding(
        summary=f"Prompts take {evidence.prefill:.0%} of the steps' time and requests wait though places are "
        f"free: let a step have {2 * now} tokens.",
        evidence=("prefill", "queue_wait", "fill", "prompt_tokens"),
        change={"max_batched_tokens": (now, 2 * now)},
        risk="The longest step becomes twice as long, and whoever writes beside it waits for it.",
        aim="first_token_seconds",
    )


def prefix_sharing(evidence: Evidence) -> _Finding | None:
    """Prompts take much of the time, and what they have in common is computed again each time."""
    if evidence.engine.shares_prefixes or evidence.prefill < _PROMPTS:
        return None
    return _Finding(
        summary=f"Prompts take {evidence.prefill:.0%} of the steps' time and share nothing: let them.",
        evidence=("prefill", "prefix_hits"),
        change={"shares_prefixes": (False, True)},
        risk="None for the answers; how many prompts begin alike is not known from a trace without hits.",
    )


def stolen_time(evidence: Evidence) -> _Finding | None:
    """The host of this virtual machine gives its processors to others."""
    if evidence.stolen < _TAKEN:
        return None
    return _Finding(
        summary=f"The host gave {evidence.stolen:.0%} of the processors' time to other machines: no setting "
        "helps; move to a host that is less busy, or to processors of one's own.",
        evidence=("stolen", "processors"),
        change={},
        risk="None.",
    )


def throttled_time(evidence: Evidence) -> _Finding | None:
    """The quota of processor time runs out: threads beyond it only wait for each other."""
    if evidence.throttled < _TAKEN:
        return None
    threads = 1 if evidence.engine.yardstick is None else evidence.engine.yardstick.threads
    fewer = max(1, min(threads - 1, round(evidence.processors)))
    return _Finding(
        summary=f"For {evidence.throttled:.0%} of the time the group's quota of processor time was used up: "
        "raise the quota, or use no more threads than it pays for.",
        evidence=("throttled", "processors"),
        change={"threads": (threads, fewer)} if fewer < threads else {},
        risk="Fewer threads make single steps slower where the quota had not run out.",
    )


def memory_bound(evidence: Evidence) -> _Finding | None:
    """Steps take as long as the weights take to be read, and few rows share the reading."""
    bottleneck = find_bottleneck(evidence)
    if bottleneck.kind is not BottleneckKind.MEMORY:
        return None
    return _Finding(
        summary=f"Steps are bound by memory ({bottleneck.reason}) Fewer bytes make them faster: fewer "
        "trit-planes, or the embedding in 6 bits (tritium quantize --embedding-bits 6); more requests at a "
        "time cost hardly more.",
        evidence=("rows", "step_seconds", "busy"),
        change={},
        risk="A smaller model can know less: tritium report measures it.",
    )


def processor_bound(evidence: Evidence) -> _Finding | None:
    """The processor is the limit and requests wait for it."""
    bottleneck = find_bottleneck(evidence)
    if bottleneck.kind is not BottleneckKind.CPU or evidence.queue_wait < _WAITS:
        return None
    return _Finding(
        summary=f"The processor is the limit ({bottleneck.reason}) Requests wait "
        f"{evidence.queue_wait:.0%} of their time: more cores, or another replica on another machine.",
        evidence=("rows", "step_seconds", "busy", "processors", "queue_wait"),
        change={},
        risk="None but the cost.",
    )


def front_end_bound(evidence: Evidence) -> _Finding | None:
    """Tokens are there before they can be sent."""
    bottleneck = find_bottleneck(evidence)
    if bottleneck.kind is not BottleneckKind.NETWORK:
        return None
    return _Finding(
        summary=f"The way to the clients is the limit ({bottleneck.reason}) Give the front end a processor "
        "of its own (tritiumd runs engines as processes of their own), or look at slow clients and proxies.",
        evidence=("delivery_seconds", "unread", "step_seconds"),
        change={},
        risk="None.",
    )


RULES: tuple[Callable[[Evidence], _Finding | None], ...] = (
    queue_wait,
    latency,
    cache_full,
    batch_fill,
    prefill_share,
    prefix_sharing,
    stolen_time,
    throttled_time,
    memory_bound,
    processor_bound,
    front_end_bound,
)
_SIMULATED = {"max_running", "max_batched_tokens", "kv_cache_bytes"}


def _recommendation(
    name: str, finding: _Finding, trace: Trace, evidence: Evidence, seed: int
) -> Recommendation | None:
    expected: tuple[Effect, ...] = ()
    if set(finding.change) & _SIMULATED:
        try:
            new_values = {setting: int(after) for setting, (_, after) in finding.change.items()}
            expected = what_if(trace, new_values, seed=seed)
        except ValidationError:
            return None  # some request of the trace could not have run
        aims = [each for each in expected if each.figure == finding.aim]
        if any(each.high > _GAIN * each.before for each in aims):
            return None
    undo = [f"{setting} back to {before}" for setting, (before, _) in finding.change.items()]
    return Recommendation(
        id=name,
        summary=finding.summary,
        window_seconds=evidence.seconds,
        evidence={each: float(getattr(evidence, each)) for each in finding.evidence},
        change=finding.change,
        expected=expected,
        risk=finding.risk,
        undo=f"Set {', '.join(undo)} and start the engine again." if undo else "Nothing was set.",
    )

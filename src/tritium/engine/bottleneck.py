"""What an engine waits for: processor, memory or the way to its clients; by measurements, or not known.

There is no accelerator that an engine of this project runs on, so none is named: the steps of one would be
held against its own peaks just like this.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tritium.engine.evidence import Evidence
    from tritium.engine.yardstick import Yardstick

# Shares of a step's time that a bound must explain before it is called the bottleneck.
_EXPLAINS = 0.5
_IDLE = 0.5  # an engine that works less than so much of the time waits for requests
_USES_PROCESSORS = 0.7
_UNREAD = 64


class BottleneckKind(StrEnum):
    """What limits the tokens per second."""

    CPU = "cpu"
    MEMORY = "memory"
    NETWORK = "network"
    DEMAND = "demand"  # there is no bottleneck: more requests would be served
    UNKNOWN = "not known"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bottleneck:
    """The bottleneck of a trace.

    Attributes:
        reason: one sentence for a human, with the measurements.
        memory_share: of a step's time that reading the weights takes at the measured bandwidth; None if that
            was not measured. `processor_share`: that its multiplications take at the measured peak.
        network_share: how long outputs wait for those who send them, in steps.
    """

    kind: BottleneckKind
    reason: str
    memory_share: float | None = None
    processor_share: float | None = None
    network_share: float | None = None


def find_bottleneck(evidence: Evidence) -> Bottleneck:
    """Return what limits an engine, by what was recorded of it."""
    if evidence.is_thin:
        return Bottleneck(
            kind=BottleneckKind.UNKNOWN,
            reason=f"{evidence.requests} requests and {evidence.steps} steps are too few to tell.",
        )
    memory, processor = _floors(evidence, evidence.engine.yardstick)
    network = evidence.delivery_seconds / evidence.step_seconds if evidence.step_seconds else 0.0
    kind, reason = _decide(evidence, memory, processor, network)
    return Bottleneck(
        kind=kind,
        reason=reason,
        memory_share=memory,
        processor_share=processor,
        network_share=network,
    )


def _floors(evidence: Evidence, yardstick: Yardstick | None) -> tuple[float | None, float | None]:
    """Return the shares of a mean step that its bytes and its multiplications need at the least."""
    if yardstick is None or not evidence.step_seconds:
        return None, None
    memory = processor = None
    if yardstick.bytes_per_second:
        memory = yardstick.weight_bytes / yardstick.bytes_per_second / evidence.step_seconds
    if yardstick.products_per_second:
        products = yardstick.products_per_token * (evidence.rows + evidence.prompt_tokens)
        processor = products / yardstick.products_per_second / evidence.step_seconds
    return memory, processor


def _decide(
    evidence: Evidence, memory: float | None, processor: float | None, network: float
) -> tuple[BottleneckKind, str]:
    if network > _EXPLAINS:
        return BottleneckKind.NETWORK, (
            f"outputs wait {1000 * evidence.delivery_seconds:.1f} ms for the front end, "
            f"{network:.1f} times a step: it does not keep up."
        )
    if evidence.unread >= _UNREAD:
        return BottleneckKind.NETWORK, (
            f"up to {evidence.unread} outputs of one request waited to be sent: "
            "a client or the way to it is slow."
        )
    if evidence.busy < _IDLE:
        return BottleneckKind.DEMAND, (
            f"the engine worked {evidence.busy:.0%} of the time: more requests would be served."
        )
    if memory is not None and memory >= max(_EXPLAINS, processor or 0.0):
        return BottleneckKind.MEMORY, (
            f"reading the weights at the measured bandwidth takes {memory:.0%} of a step of "
            f"{evidence.rows:.1f} rows."
        )
    if processor is not None and processor >= _EXPLAINS:
        return BottleneckKind.CPU, (
            f"the multiplications at the measured peak take {processor:.0%} of a step."
        )
    return _by_use(evidence)


def _by_use(evidence: Evidence) -> tuple[BottleneckKind, str]:
    threads = 1 if evidence.engine.yardstick is None else evidence.engine.yardstick.threads
    used = evidence.processors / (threads * evidence.busy)
    if used >= _USES_PROCESSORS:
        return BottleneckKind.CPU, (
            f"while the engine worked, {used:.0%} of its {threads} threads' time was processor time, and the "
            "weights explain less than half: attention, sampling and everything around the products do."
        )
    return BottleneckKind.UNKNOWN, (
        f"neither memory nor multiplications explain half of a step, and only {used:.0%} of the threads' "
        "time was processor time: other work on the machine, or waiting."
    )

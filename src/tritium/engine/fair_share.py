"""Fair turns: the tenant that was served least, by its weight, comes first.

Virtual token counters (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024), with weights,
and with the rule for a queue that ran empty. docs/decisions/0012-fair-turns.md has the bound and its proof.
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING

from tritium.engine.request import MAX_WEIGHT
from tritium.engine.waiting_line import WaitingLine

if TYPE_CHECKING:
    from tritium.engine.sequence import Sequence

PROMPT_PRICE = 1  # of a token of the prompt that has to be computed
ANSWER_PRICE = 2  # of a token of the answer: it has a step of its own
# Divisible by every weight: counters are whole numbers, and nothing is lost by rounding however long it runs.
_UNIT = math.lcm(*range(1, MAX_WEIGHT + 1))
_KEPT = 8  # one place in so many is kept for who comes while a single tenant has all the others
_FEWEST_TENANTS = 1024  # below so many it does not pay to look for those that can be forgotten


class _Tenant:
    """What is remembered of a tenant.

    Attributes:
        counter: what it was served, over its weight.
        turn: when it began to wait, counted over all tenants.
        known: its sequences, waiting or running.
        is_in_heap: whether the heap holds an entry of it, valid or stale.
    """

    __slots__ = ("counter", "is_in_heap", "known", "line", "turn", "weight")

    def __init__(self) -> None:
        self.counter = 0
        self.weight = 1
        self.turn = 0
        self.known = 0
        self.is_in_heap = False
        self.line = WaitingLine(_order_within)


def _order_within(sequence: Sequence) -> tuple[float, ...]:
    return (sequence.request.priority, sequence.request.arrival, sequence.serial)


class FairShare:
    """A `SchedulingPolicy` that shares tokens among tenants by weight; in a tenant the lower priority first.

    A tenant has a counter of what it was served over its weight: the prompt when a sequence starts, every
    token of an answer when it is written. The lowest counter is next. Who begins to wait starts from the
    lowest counter of those who wait, or from that of the last who did: being away earns nothing, and what
    was had beyond one's share is not forgiven. While two tenants wait, what they are served over their
    weights differs by no more than U / weight of the one plus U / weight of the other, in any span of time;
    U is the price of the longest prompt and of as many of the longest answers as share a step.

    The heap is lazy: counters only grow, so an entry that is out of date stands too far in front and is put
    right when it comes to the top. A charge is O(1), the next one amortised O(log tenants).

    Args:
        places: how many sequences may run at a time. While nobody else waits, a tenant is not given the last
            eighth of them, if there ever was another: who comes next need not wait until an answer ends.
            0 for none kept.
    """

    def __init__(self, *, places: int = 0) -> None:
        self._most_alone = places - places // _KEPT
        self._tenants: dict[str, _Tenant] = {}
        self._heap: list[tuple[int, int, _Tenant]] = []  # (counter, turn) at most as large as they are now
        self._last: _Tenant | None = None  # who left the queue last
        self._turns = 0
        self._num_waiting = 0
        self._sweep_at = _FEWEST_TENANTS

    def __len__(self) -> int:
        return self._num_waiting

    def add(self, sequence: Sequence) -> None:
        """Let a new sequence wait; its weight is the tenant's from now on."""
        tenant = self._tenants.get(sequence.request.tenant)
        if tenant is None:
            self._forget_idle()
            tenant = self._tenants[sequence.request.tenant] = _Tenant()
        tenant.known += 1
        tenant.weight = sequence.request.weight
        self._enqueue(tenant, sequence)

    def next(self) -> Sequence | None:
        """Return the first sequence of the tenant with the lowest counter; None if no place is for it."""
        tenant = self._lowest()
        return None if tenant is None or self._leaves_the_rest(tenant) else tenant.line.first

    def start(self, sequence: Sequence) -> None:
        """Charge what is left of the prompt, unless it is computed again because blocks were taken."""
        tenant = self._tenants[sequence.request.tenant]
        self._dequeue(tenant, sequence)
        if not sequence.num_preemptions:
            self._serve(tenant, PROMPT_PRICE * (sequence.num_prompt - sequence.num_computed))

    def stop(self, sequence: Sequence) -> None:
        """Let a sequence that lost its blocks wait again."""
        self._enqueue(self._tenants[sequence.request.tenant], sequence)

    def charge(self, sequence: Sequence) -> None:
        """Charge one token of an answer."""
        self._serve(self._tenants[sequence.request.tenant], ANSWER_PRICE)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence in whatever state; nothing that was served is given back."""
        tenant = self._tenants[sequence.request.tenant]
        tenant.known -= 1
        self._dequeue(tenant, sequence)

    def rank(self, sequence: Sequence) -> tuple[float, ...]:
        """Return the tenant's counter, then the order within it."""
        return (self._tenants[sequence.request.tenant].counter, *_order_within(sequence))

    def _leaves_the_rest(self, tenant: _Tenant) -> bool:
        is_alone = len(tenant.line) == self._num_waiting
        has_most = 0 < self._most_alone <= tenant.known - len(tenant.line)
        return is_alone and has_most and len(self._tenants) > 1

    @staticmethod
    def _serve(tenant: _Tenant, price: int) -> None:
        tenant.counter += price * (_UNIT // tenant.weight)

    def _enqueue(self, tenant: _Tenant, sequence: Sequence) -> None:
        if not tenant.line:
            self._activate(tenant)
        tenant.line.add(sequence)
        self._num_waiting += 1

    def _dequeue(self, tenant: _Tenant, sequence: Sequence) -> None:
        if tenant.line.discard(sequence):
            self._num_waiting -= 1
            if not tenant.line:
                self._last = tenant

    def _activate(self, tenant: _Tenant) -> None:
        tenant.counter = max(tenant.counter, self._floor())
        self._turns += 1
        tenant.turn = self._turns
        if not tenant.is_in_heap:
            tenant.is_in_heap = True
            heapq.heappush(self._heap, (tenant.counter, tenant.turn, tenant))

    def _floor(self) -> int:
        """Return the counter from which a tenant starts that begins to wait now; it never falls."""
        lowest = self._lowest() or self._last
        return 0 if lowest is None else lowest.counter

    def _lowest(self) -> _Tenant | None:
        heap = self._heap
        while heap:
            counter, turn, tenant = heap[0]
            if not tenant.line:
                heapq.heappop(heap)
                tenant.is_in_heap = False
            elif counter < tenant.counter or turn < tenant.turn:
                heapq.heapreplace(heap, (tenant.counter, tenant.turn, tenant))
            else:
                return tenant
        return None

    def _forget_idle(self) -> None:
        """Drop the tenants that would start from the floor like a new one; amortised O(1) a tenant."""
        if len(self._tenants) < self._sweep_at:
            return
        floor = self._floor()
        self._tenants = {
            name: tenant
            for name, tenant in self._tenants.items()
            if tenant.known or tenant.is_in_heap or tenant.counter > floor
        }
        self._sweep_at = max(_FEWEST_TENANTS, 2 * len(self._tenants))

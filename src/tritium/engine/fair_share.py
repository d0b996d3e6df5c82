"""Fair turns: the tenant that was served least, by its weight, comes first.

Virtual token counters (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024), with weights,
and with the rule for a queue that ran empty. docs/decisions/0012-fair-turns.md has the bound and its proof.
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, Generic

from tritium.engine.request import MAX_WEIGHT
from tritium.engine.turns import AnyClaim, Claim
from tritium.engine.waiting_line import WaitingLine

if TYPE_CHECKING:
    from collections.abc import Sequence

PROMPT_PRICE = 1  # of a token of the prompt that has to be computed
ANSWER_PRICE = 2  # of a token of the answer: it has a step of its own
# Divisible by every weight: counters are whole numbers, and nothing is lost by rounding however long it runs.
_UNIT = math.lcm(*range(1, MAX_WEIGHT + 1))
_LATELY = 1024  # claims: so many of one tenant in a row, and the others are no longer expected
_TOO_MANY = 2  # times what another has in the batch, over the weights, and a tenant gives way
_FEWEST_TENANTS = 1024  # below so many it does not pay to look for those that can be forgotten


class _Tenant(Generic[AnyClaim]):
    """What is remembered of a tenant.

    Attributes:
        counter: what it was served, over its weight.
        turn: when it had its last turn, or came; counted over all tenants.
        running: its claims that run.
        unit: what it is charged for a price of 1.
        is_in_heap: whether the heap holds an entry of it, valid or stale.
    """

    __slots__ = ("counter", "is_in_heap", "line", "running", "turn", "unit", "weight")

    def __init__(self, turn: int) -> None:
        self.counter = 0
        self.weight = 1
        self.unit = _UNIT
        self.turn = turn
        self.running = 0
        self.is_in_heap = False
        self.line: WaitingLine[AnyClaim] = WaitingLine(_order_within)


def _order_within(claim: Claim) -> tuple[float, ...]:
    return (claim.priority, claim.arrival, claim.serial)


class FairShare(Generic[AnyClaim]):
    """A `SchedulingPolicy` that shares tokens among tenants by weight; in a tenant the lower priority first.

    A tenant has a counter of what it was served over its weight: the prompt when a claim starts, every
    token of an answer when it is written. The lowest counter is next; of equal ones, that whose last turn is
    longest ago. Who begins to wait starts from the lowest counter of those who wait, or from that of the last
    who did: being away earns nothing, and what was had beyond one's share is not forgiven. While two tenants
    wait, what they are served over their weights differs by no more than U / weight of the one plus U /
    weight of the other, in any span of time; U is the price of the longest prompt and of as many of the
    longest answers as share a step.

    The heap is lazy: counters and turns only grow, so an entry that is out of date stands too far in front
    and is put right when it comes to the top. A charge is O(1), the next one amortised O(log tenants).
    """

    def __init__(self) -> None:
        self._tenants: dict[str, _Tenant[AnyClaim]] = {}
        self._heap: list[
            tuple[int, int, _Tenant[AnyClaim]]
        ] = []  # (counter, turn): at most what they are now
        self._last: _Tenant[AnyClaim] | None = None  # who left the queue last
        self._in_batch: dict[str, _Tenant[AnyClaim]] = {}  # those of whom something runs
        self._turns = 0
        self._num_waiting = 0
        self._newest = ""  # whose claim came last
        self._in_a_row = _LATELY  # claims of that tenant
        self._sweep_at = _FEWEST_TENANTS

    def __len__(self) -> int:
        return self._num_waiting

    @property
    def is_shared(self) -> bool:
        """Whether more than one tenant sent the latest claims."""
        return self._in_a_row < _LATELY

    def add(self, claim: AnyClaim) -> None:
        """Let a new claim wait; its weight is the tenant's from now on."""
        self._expect_others(claim.tenant)
        tenant = self._tenants.get(claim.tenant)
        if tenant is None:
            self._forget_idle()
            tenant = self._tenants[claim.tenant] = _Tenant(self._next_turn())
        tenant.weight, tenant.unit = claim.weight, _UNIT // claim.weight
        self._enqueue(tenant, claim)

    def next(self) -> AnyClaim | None:
        """Return the first claim of the tenant with the lowest counter; None if nobody waits."""
        tenant = self._lowest()
        return None if tenant is None else tenant.line.first

    def start(self, claim: AnyClaim) -> None:
        """Charge what is due."""
        tenant = self._tenants[claim.tenant]
        tenant.turn = self._next_turn()
        self._dequeue(tenant, claim)
        tenant.running += 1
        self._in_batch[claim.tenant] = tenant
        tenant.counter += PROMPT_PRICE * claim.num_due * tenant.unit

    def stop(self, claim: AnyClaim) -> None:
        """Let a running claim wait again."""
        tenant = self._tenants[claim.tenant]
        self._leave_batch(tenant, claim)
        self._enqueue(tenant, claim)

    def charge(self, claim: AnyClaim) -> None:
        """Charge one token of an answer."""
        tenant = self._tenants[claim.tenant]
        tenant.counter += ANSWER_PRICE * tenant.unit

    def remove(self, claim: AnyClaim) -> None:
        """Forget a claim in whatever state; nothing that was served is given back."""
        tenant = self._tenants[claim.tenant]
        if not self._dequeue(tenant, claim):
            self._leave_batch(tenant, claim)

    def rank(self, claim: AnyClaim) -> tuple[float, ...]:
        """Return the tenant's counter, then the order within it."""
        return (self._tenants[claim.tenant].counter, claim.priority, claim.arrival, claim.serial)

    def gives_way(self, running: Sequence[AnyClaim]) -> AnyClaim | None:
        """Return the last claim of the tenant that runs most, if it runs far more than the next one's.

        A tenant keeps its first claim, so that each goes on, and who gave way does not soon take back.
        """
        lowest = self._lowest()
        if lowest is None or lowest.running == len(running):
            return None
        most = None
        # Over the weights, more than twice what the next one's tenant would have then.
        most_running, its_weight = _TOO_MANY * (lowest.running + 1), lowest.weight
        for name, tenant in self._in_batch.items():
            if tenant.running > 1 and tenant.running * its_weight > most_running * tenant.weight:
                most, most_running, its_weight = name, tenant.running, tenant.weight
        if most is None:
            return None
        return max((claim for claim in running if claim.tenant == most), key=_order_within)

    def has_more(self, claim: AnyClaim) -> bool:
        """Return whether claims of the same tenant wait."""
        return bool(self._tenants[claim.tenant].line)

    def _next_turn(self) -> int:
        self._turns += 1
        return self._turns

    def _expect_others(self, tenant: str) -> None:
        if tenant == self._newest:
            self._in_a_row += 1
        else:
            self._in_a_row = 1 if self._tenants else _LATELY  # the very first one follows nobody
            self._newest = tenant

    def _enqueue(self, tenant: _Tenant[AnyClaim], claim: AnyClaim) -> None:
        if not tenant.line:
            self._activate(tenant)
        tenant.line.add(claim)
        self._num_waiting += 1

    def _dequeue(self, tenant: _Tenant[AnyClaim], claim: AnyClaim) -> bool:
        was_waiting = tenant.line.discard(claim)
        if was_waiting:
            self._num_waiting -= 1
            if not tenant.line:
                self._last = tenant
        return was_waiting

    def _leave_batch(self, tenant: _Tenant[AnyClaim], claim: AnyClaim) -> None:
        tenant.running -= 1
        if not tenant.running:
            del self._in_batch[claim.tenant]

    def _activate(self, tenant: _Tenant[AnyClaim]) -> None:
        tenant.counter = max(tenant.counter, self._floor())
        if not tenant.is_in_heap:
            tenant.is_in_heap = True
            heapq.heappush(self._heap, (tenant.counter, tenant.turn, tenant))

    def _floor(self) -> int:
        """Return the counter from which a tenant starts that begins to wait now; it never falls."""
        lowest = self._lowest() or self._last
        return 0 if lowest is None else lowest.counter

    def _lowest(self) -> _Tenant[AnyClaim] | None:
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
            if tenant.running or tenant.is_in_heap or tenant.counter > floor
        }
        self._sweep_at = max(_FEWEST_TENANTS, 2 * len(self._tenants))

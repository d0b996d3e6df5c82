"""One queue before the replicas of a deployment: who is next is bound to one when it can begin.

Binding late keeps one set of counters for all replicas together, and lets nobody wait behind a busy replica
while another has a place. docs/decisions/0028-late-binding.md has the reasons, and what the counters bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritium.engine.fair_share import FairShare
from tritium.engine.request import GenerationRequest, QueueFullError
from tritium.engine.waiting_room import WaitingRoom
from tritium.kernels.pages import BLOCK_SIZE
from tritium_platform.serving import policy
from tritium_platform.serving.model import ReplicaState

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from tritium.engine.config import EngineConfig
    from tritium.engine.request import EmbeddingOutput, TokenOutput
    from tritium.engine.turns import SchedulingPolicy
    from tritium_platform.errors import BitNetServiceError
    from tritium_platform.serving.replica import Replica

_MOST_PREFIXES = 4096  # remembered; the oldest is forgotten


@dataclass(slots=True, eq=False)
class _Turn:
    """A request that waits for a replica or is bound to one.

    Attributes:
        size: how many places it takes: one, or one for each input to embed.
        prefixes: marks of its prompt's beginnings, the longest first.
        replica: what it is bound to.
    """

    request: GenerationRequest
    serial: int
    size: int
    num_due: int
    prefixes: Sequence[int]
    tenant: str
    weight: int
    priority: int
    arrival: float
    replica: Replica | None = None


class Dispatcher:
    """Binds requests to the replicas of a pool, in turns by the tenants' weights.

    Args:
        replicas: what requests are bound to, two or more.
        limits: those of an engine; as much as may wait in one may wait here.
        unavailable: makes the error of a moment in which no replica is ready.
        turns: whose request is next; None for fair shares of tenants.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        *,
        limits: EngineConfig,
        unavailable: Callable[[], BitNetServiceError],
        turns: SchedulingPolicy[_Turn] | None = None,
    ) -> None:
        self._taken = dict.fromkeys(replicas, 0)
        self._patience = limits.max_waiting_seconds
        self._unavailable = unavailable
        self._policy: SchedulingPolicy[_Turn] = FairShare() if turns is None else turns
        self._room = WaitingRoom(limits)
        self._waiting: dict[_Turn, asyncio.Future[None]] = {}
        self._has_none_waiting = asyncio.Event()
        self._has_none_waiting.set()
        self._serials = itertools.count()
        self._served: dict[int, Replica] = {}  # by prefix, which replica had it last
        for replica in replicas:
            replica.watch(self.dispatch)

    @property
    def num_waiting(self) -> int:
        """Requests that are bound to no replica yet."""
        return len(self._policy)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenOutput, None]:
        """Yield the tokens of one request when its turn has come; closing the iterator cancels it.

        Raises:
            QueueFullError: too much waits already, or it had no turn for as long as one may wait.
            EngineUnavailableError: no replica is ready, or the one it was bound to died.
        """
        turn = self._turn_of(request, size=1)
        async with self._bound(turn) as replica, contextlib.aclosing(replica.generate(request)) as outputs:
            async for output in outputs:
                for _ in output.token_ids:
                    self._policy.charge(turn)
                yield output

    async def embed(self, request_id: str, *, token_ids: Sequence[tuple[int, ...]]) -> EmbeddingOutput:
        """Embed token id lists when their turn has come: that of a prompt as long as all of them together.

        Raises as `generate` does.
        """
        request = GenerationRequest(
            request_id=request_id, prompt_token_ids=tuple(itertools.chain.from_iterable(token_ids))
        )
        async with self._bound(self._turn_of(request, size=len(token_ids))) as replica:
            return await replica.embed(request_id, token_ids=token_ids)

    async def wait_empty(self) -> None:
        """Wait until every request that came is bound, or gave up."""
        await self._has_none_waiting.wait()

    def dispatch(self) -> None:
        """Bind whoever is next, as long as a replica has a place for it: nobody overtakes."""
        while (turn := self._policy.next()) is not None:
            replica = self._place_for(turn)
            if replica is None:
                break
            self._policy.start(turn)
            turn.num_due = 0  # it is paid for, even if it has to wait again
            turn.replica = replica
            self._taken[replica] += turn.size
            self._remember(turn, replica)
            self._wake(turn)
        if self._waiting and not self._is_any_ready:
            for turn in list(self._waiting):
                self._wake(turn)

    @contextlib.asynccontextmanager
    async def _bound(self, turn: _Turn) -> AsyncGenerator[Replica, None]:
        if not self._is_any_ready:
            raise self._unavailable()
        if self.num_waiting or self._place_for(turn) is None:
            self._room.enter(turn.request)
        self._policy.add(turn)
        try:
            self.dispatch()
            yield await self._replica_of(turn)
        finally:
            self._room.leave(turn.request.request_id)
            self._policy.remove(turn)
            self._vacate(turn)
            self.dispatch()

    async def _replica_of(self, turn: _Turn) -> Replica:
        """Wait for the turn; return a replica that is ready at this moment."""
        while True:
            if turn.replica is None:
                await self._wait_for(turn)
            replica = turn.replica
            if replica is None:
                raise self._unavailable()
            if replica.status.state is ReplicaState.READY:
                self._room.leave(turn.request.request_id)
                return replica
            # It fell before it was asked: the request is nobody's yet, and waits for another.
            self._vacate(turn)
            self._policy.stop(turn)
            self.dispatch()

    async def _wait_for(self, turn: _Turn) -> None:
        if not self._is_any_ready:
            return
        self._waiting[turn] = bound = asyncio.get_running_loop().create_future()
        self._has_none_waiting.clear()
        try:
            async with asyncio.timeout(self._patience):
                await bound
        except TimeoutError:
            message, retry_after = self._room.waited_too_long()
            raise QueueFullError(message, retry_after=retry_after) from None
        finally:
            self._wake(turn)

    def _wake(self, turn: _Turn) -> None:
        bound = self._waiting.pop(turn, None)
        if bound is not None and not bound.done():
            bound.set_result(None)
        if not self._waiting:
            self._has_none_waiting.set()

    def _vacate(self, turn: _Turn) -> None:
        if turn.replica is not None:
            self._taken[turn.replica] -= turn.size
            turn.replica = None

    @property
    def _is_any_ready(self) -> bool:
        return any(replica.status.state is ReplicaState.READY for replica in self._taken)

    def _place_for(self, turn: _Turn) -> Replica | None:
        """Return the replica with the least to do that has a place; of equal ones, who knows the prompt."""
        free = [
            (taken, replica)
            for replica, taken in self._taken.items()
            if policy.has_place(replica.status, taken=taken, size=turn.size)
        ]
        if len(free) <= 1:
            return free[0][1] if free else None
        known = next((self._served[mark] for mark in turn.prefixes if mark in self._served), None)
        return min(free, key=lambda each: (each[0], each[1] is not known))[1]

    def _remember(self, turn: _Turn, replica: Replica) -> None:
        for mark in turn.prefixes:
            self._served.pop(mark, None)
            self._served[mark] = replica
        while len(self._served) > _MOST_PREFIXES:
            del self._served[next(iter(self._served))]

    def _turn_of(self, request: GenerationRequest, *, size: int) -> _Turn:
        return _Turn(
            request=request,
            serial=next(self._serials),
            size=size,
            num_due=len(request.prompt_token_ids),
            prefixes=_prefixes(request),
            tenant=request.tenant,
            weight=request.weight,
            priority=request.priority,
            arrival=request.arrival,
        )


def _prefixes(request: GenerationRequest) -> Sequence[int]:
    """Return marks of the beginnings that a cache may hold: of one block, two, four, ...; the longest first.

    Two prompts with the same mark by chance are harmless: it decides between replicas that do equally well.
    """
    ids, marks, length = request.prompt_token_ids, [], BLOCK_SIZE
    while length <= len(ids):
        marks.append(hash((request.cache_salt, ids[:length])))
        length *= 2
    return marks[::-1]

"""The engines of one version of a deployment: in memory or not, and held there by whoever uses them."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from tritium_platform.serving import policy
from tritium_platform.serving.dispatcher import Dispatcher
from tritium_platform.serving.errors import EngineUnavailableError
from tritium_platform.serving.model import DeploymentState, EngineReading, ReplicaState
from tritium_platform.tenancy.model import TIER_WEIGHTS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from tritium.engine.config import EngineConfig
    from tritium.engine.request import EmbeddingOutput, GenerationRequest, TokenOutput
    from tritium_platform.serving.model import Deployment, ReplicaStatus
    from tritium_platform.serving.replica import Replica
    from tritium_platform.tenancy.model import TenantTier


class Pool:
    """The engines of one version of a deployment; `replicas` is empty while it is not in memory.

    Attributes:
        need_bytes: what one engine may come to need.
        leases: requests that hold it in memory.
        is_retired: another version has taken its place; what holds it is finished, then it goes.
        is_leaving: its engines are being stopped.
        tier: the tenant's tier at the last request; None before the first.
        last_used: `Clock.monotonic_nanoseconds` of the last lease that began or ended.
        loaded_at: that of the end of the last load.
        loading: the load under way.
        idle: set while nobody holds it.
    """

    def __init__(
        self,
        deployment: Deployment,
        *,
        need_bytes: int,
        launch: Callable[[int], Replica],
        limits: EngineConfig,
    ) -> None:
        self.deployment = deployment
        self.need_bytes = need_bytes
        self.replicas: list[Replica] = []
        self.leases = 0
        self.is_retired = False
        self.is_leaving = False
        self.tier: TenantTier | None = None
        self.last_used = 0
        self.loaded_at = 0
        self.loading: asyncio.Task[None] | None = None
        self.idle = asyncio.Event()
        self.idle.set()
        self._launch = launch
        self._limits = limits
        self._dispatcher: Dispatcher | None = None  # one engine needs none: requests wait in it

    @property
    def is_in_memory(self) -> bool:
        """Whether its engines are there to stay for now, loaded or loading."""
        return bool(self.replicas) and not self.is_leaving

    @property
    def is_starting(self) -> bool:
        """Whether its engines are on their way for the first time."""
        return all(status.state is ReplicaState.STARTING for status in self.statuses)

    @property
    def is_evictable(self) -> bool:
        """Whether nobody would miss it."""
        is_wanted = self.leases or self.loading or self.deployment.is_pinned or self.is_retired
        return self.is_in_memory and not is_wanted

    @property
    def required_bytes(self) -> int:
        """What all its engines together may come to need."""
        return self.need_bytes * self.deployment.replicas

    @property
    def charged_bytes(self) -> int:
        """What counts against the budget: of each engine what it may need, or more if it has taken more."""
        return sum(max(self.need_bytes, status.resident_bytes) for status in self.statuses)

    @property
    def statuses(self) -> list[ReplicaStatus]:
        """Each engine at this moment."""
        return [replica.status for replica in self.replicas]

    @property
    def state(self) -> DeploymentState:
        """What a tenant sees of it."""
        if not self.replicas:
            return DeploymentState.STARTING if self.loading else DeploymentState.UNLOADED
        return policy.deployment_state(self.statuses)

    def note_tier(self, tier: TenantTier) -> None:
        """Take note of the tenant's tier: the engines' part of the processor follows its weight."""
        if tier is not self.tier:
            self.tier = tier
            self._weigh()

    def readings(self) -> list[EngineReading]:
        """Return what its engines have to do, if any was asked for something, for the operator.

        What waits for any of them is counted with the first.
        """
        if self.tier is None:
            return []
        loads = [status.load for status in self.statuses]
        if self._dispatcher is not None:
            loads[0] = replace(loads[0], waiting=loads[0].waiting + self._dispatcher.num_waiting)
        return [
            EngineReading(model=self.deployment.name, tier=self.tier, replica=status.name, load=load)
            for status, load in zip(self.statuses, loads, strict=True)
        ]

    def launch(self) -> None:
        """Make the engines; from now on they are charged. Nothing runs before `start`."""
        self.replicas = [self._launch(index) for index in range(self.deployment.replicas)]
        if len(self.replicas) > 1:
            self._dispatcher = Dispatcher(self.replicas, limits=self._limits, unavailable=self._unavailable)
        self._weigh()

    async def start(self) -> None:
        """Start the engines and wait until one of them answers; EngineUnavailableError if none ever will."""
        for replica in self.replicas:
            await replica.start()
        waits = [asyncio.ensure_future(replica.wait_ready()) for replica in self.replicas]
        try:
            for wait in asyncio.as_completed(waits):
                with contextlib.suppress(EngineUnavailableError):
                    await wait
                    return
        finally:
            for one in waits:
                one.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        raise self._unavailable()

    async def wait_ready(self) -> None:
        """Wait until every engine answers; raises EngineUnavailableError if one never will."""
        await asyncio.gather(*(replica.wait_ready() for replica in self.replicas))

    async def drain(self, *, timeout: float) -> None:  # noqa: ASYNC109 - the limit is the caller's to own
        """Let the engines finish what they run, and stop them; until they are gone they are charged."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        if self._dispatcher is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._dispatcher.wait_empty()
        left = max(0.0, end - loop.time())
        await asyncio.gather(*(replica.drain(timeout=left) for replica in self.replicas))
        self.replicas, self.is_leaving, self._dispatcher = [], False, None

    def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenOutput, None]:
        """Yield the tokens of one request; closing the iterator cancels it.

        Raises:
            QueueFullError: too much waits already, or it had no turn for as long as one may wait.
            EngineUnavailableError: no engine is ready, or the one that had the request died.
        """
        return (self._dispatcher or self.choose()).generate(request)

    async def embed(self, request_id: str, *, token_ids: Sequence[tuple[int, ...]]) -> EmbeddingOutput:
        """Embed token id lists; raises as `generate` does."""
        return await (self._dispatcher or self.choose()).embed(request_id, token_ids=token_ids)

    def choose(self) -> Replica:
        """Return the ready engine with the least to do.

        Raises:
            EngineUnavailableError: none is ready; the message says why.
        """
        index = policy.choose_replica(self.statuses)
        if index is None:
            raise self._unavailable()
        return self.replicas[index]

    def _weigh(self) -> None:
        if self.tier is not None:
            for replica in self.replicas:
                replica.weigh(TIER_WEIGHTS[self.tier])

    def _unavailable(self) -> EngineUnavailableError:
        reasons = {status.last_error for status in self.statuses if status.last_error}
        return EngineUnavailableError(
            f"The deployment {self.deployment.name} is {self.state}"
            f"{': ' + '; '.join(sorted(reasons)) if reasons else ''}. Send the request again in a moment.",
            retry_after=1,
        )


class Lease:
    """A hold on a pool: until it is released the pool stays in memory. Releasing twice is harmless."""

    def __init__(self, pool: Pool, *, on_release: Callable[[Pool], None]) -> None:
        self.pool = pool
        self._on_release: Callable[[Pool], None] | None = on_release

    def release(self) -> None:
        """Let go."""
        if self._on_release is not None:
            self._on_release(self.pool)
            self._on_release = None


class Version:
    """Which pool the parts of one request use: the one the first of them has found."""

    def __init__(self) -> None:
        self.pool: Pool | None = None

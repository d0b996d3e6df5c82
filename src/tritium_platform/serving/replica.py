"""What serving needs of an engine that answers somewhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from tritium.engine.request import EmbeddingOutput, GenerationRequest, TokenOutput
    from tritium_platform.serving.model import ReplicaStatus


class Replica(Protocol):
    """One engine that serves one model."""

    @property
    def status(self) -> ReplicaStatus:
        """This replica at this moment."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever the state or the load is another."""

    def weigh(self, weight: int) -> None:
        """Give it a part of the processor by its tenant's weight, where such parts are given."""

    async def start(self) -> None:
        """Begin to load; returns at once."""

    async def wait_ready(self) -> None:
        """Wait for the model; raises EngineUnavailableError if it never comes."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenOutput, None]:
        """Yield the tokens of one request; closing the iterator cancels it."""

    async def embed(self, request_id: str, *, token_ids: Sequence[tuple[int, ...]]) -> EmbeddingOutput:
        """Embed token id lists."""

    async def drain(self, *, timeout: float) -> None:  # noqa: ASYNC109 - the limit is the caller's to own
        """Finish what runs, then stop; when it returns the memory is given back."""


class ReplicaLauncher(Protocol):
    """Makes replicas; nothing runs before `start`."""

    def __call__(self, *, name: str, model_path: str, threads: int, memory_limit_bytes: int) -> Replica:
        """Return a replica that is not started yet."""

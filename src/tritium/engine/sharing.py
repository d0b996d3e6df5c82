"""One engine for all callers: whoever waits for an output computes the next step for everybody."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from tritium.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tritium.engine.engine import Engine
    from tritium.engine.request import GenerationRequest, TokenOutput


def closed_error() -> ValidationError:
    """Return what is raised when a closed model is asked for something."""
    return ValidationError("This LLM was closed: make a new one to go on.", param="model")


class SharedEngine:
    """Lets any number of threads, and loops inside one another, read their outputs from one engine.

    The lock is held for one step, never while a caller looks at an output. What a step gives to somebody
    else's request is kept for them: at most the tokens that request may write.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine: Engine | None = engine
        self._lock = threading.Lock()
        self._kept: dict[str, deque[TokenOutput]] = {}
        self._abandoned: deque[str] = deque()

    @property
    def engine(self) -> Engine:
        """The engine (ValidationError: it was closed)."""
        if self._engine is None:
            raise closed_error()
        return self._engine

    def run(self, requests: Sequence[GenerationRequest]) -> Iterator[TokenOutput]:
        """Yield the outputs of these requests as they come; leaving the loop cancels what still runs.

        Raises:
            ProcessingError: the model failed on a request; the others of this call are cancelled.
            ValidationError: the engine was closed meanwhile.
        """
        waiting = deque(requests)
        running: set[str] = set()
        try:
            while waiting or running:
                for output in self._next_outputs(waiting, running):
                    if output.finish_reason is not None:
                        running.discard(output.request_id)
                    if output.finish_reason == "error":
                        raise output.to_error()
                    yield output
        finally:
            self._abandon(running)

    def close(self) -> None:
        """Cancel what runs and let go of the model and its cache; harmless when repeated."""
        with self._lock:
            self._engine = None
            self._kept.clear()
            self._abandoned.clear()

    def _next_outputs(self, waiting: deque[GenerationRequest], running: set[str]) -> list[TokenOutput]:
        with self._lock:
            engine = self.engine
            self._abort_abandoned()
            while waiting and engine.room.has_place(waiting[0]):
                request = waiting.popleft()
                engine.add_request(request)
                running.add(request.request_id)
                self._kept[request.request_id] = deque()
            if not any(self._kept[request_id] for request_id in running):
                for output in engine.step():
                    self._kept[output.request_id].append(output)
            return [output for request_id in sorted(running) for output in self._take(request_id)]

    def _take(self, request_id: str) -> list[TokenOutput]:
        kept = self._kept[request_id]
        outputs = list(kept)
        kept.clear()
        if outputs and outputs[-1].finish_reason is not None:
            del self._kept[request_id]
        return outputs

    def _abandon(self, request_ids: set[str]) -> None:
        """Cancel requests, now if nobody computes, else before the next step.

        A loop that was left is closed by the garbage collector, perhaps in the midst of a step of this very
        thread: waiting for the lock would wait for ever.
        """
        self._abandoned.extend(request_ids)
        if self._lock.acquire(blocking=False):
            try:
                self._abort_abandoned()
            finally:
                self._lock.release()

    def _abort_abandoned(self) -> None:
        while self._abandoned:
            request_id = self._abandoned.popleft()
            self._kept.pop(request_id, None)
            if self._engine is not None:
                self._engine.abort(request_id)

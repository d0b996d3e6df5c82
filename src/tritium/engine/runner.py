"""The engine in a thread of its own, asked from asyncio: a step never blocks the loop of the sockets."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

from tritium.engine.governor import CHECK_SECONDS
from tritium.engine.mailbox import Mailbox
from tritium.engine.request import TokenOutput, join_outputs, no_encoder, no_generator
from tritium.errors import BitNetServiceError, PlatformError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium.engine.batcher import EmbeddingBatcher
    from tritium.engine.engine import Engine
    from tritium.engine.grammar import GrammarMatcher
    from tritium.engine.monitor import InferenceMetrics
    from tritium.engine.recording import Deliveries
    from tritium.engine.request import EmbeddingOutput, GenerationRequest

logger = logging.getLogger(__name__)


class TokenStream:
    """The outputs of one request; iterate it in the loop that made it, close it to cancel the request.

    A reader that fell behind gets all that has come meanwhile as one output.

    Raises:
        ProcessingError: (from iteration) the generation failed; the engine goes on with the others.
        QueueFullError: (from iteration) it had to wait too long.
    """

    def __init__(self, owner: EngineThread, request_id: str) -> None:
        self.request_id = request_id
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._outputs: Mailbox[TokenOutput] = Mailbox()
        self._is_finished = False

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> TokenOutput:
        """Return the next output."""
        if self._is_finished:
            raise StopAsyncIteration
        first = await self._outputs.take()
        output = join_outputs([first, *self._outputs.take_while(lambda each: each.goes_on)])
        self._is_finished = output.finish_reason is not None
        if output.finish_reason == "error":
            raise output.to_error()
        return output

    async def aclose(self) -> None:
        """Cancel the request if it still runs; harmless afterwards."""
        if not self._is_finished:
            self._is_finished = True
            self._owner.abort(self.request_id)

    def put(self, output: TokenOutput) -> None:
        """Hand an output over; called in the stream's own loop."""
        self._outputs.put(output)

    @property
    def num_unread(self) -> int:
        """Outputs that wait for whoever iterates."""
        return len(self._outputs)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop which reads this stream."""
        return self._loop


class EngineThread:
    """Runs an engine (generation) or a batcher (embeddings) step by step in one thread.

    Any thread may call the public methods; streams and futures belong to the caller's running loop.
    """

    def __init__(self, engine: Engine | None = None, *, batcher: EmbeddingBatcher | None = None) -> None:
        self._engine = engine
        self._batcher = batcher
        self._wake = threading.Condition()
        self._arrived: list[tuple[GenerationRequest, GrammarMatcher | None]] = []
        self._aborted: list[str] = []
        self._streams: dict[str, TokenStream] = {}
        self._is_draining = False
        self._is_closed = False
        # Grammars wait for one another here, so that a heavy one holds up neither steps nor prompts.
        self._compiling = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tritium-grammar")
        self._thread = threading.Thread(target=self._run, name="tritium-engine", daemon=True)

    def start(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    async def generate(self, request: GenerationRequest) -> TokenStream:
        """Compile the request's grammar, if it has one, away from loop and steps; then as `submit`.

        Raises:
            ValidationError: the grammar cannot be used, with the reason; and what `submit` raises.
        """
        grammar = request.sampling.grammar
        if self._engine is None or grammar is None:
            return self.submit(request)
        with self._wake:
            self._require_open()
        self._engine.room.require_place(request)
        self._engine.validate(request)
        loop = asyncio.get_running_loop()
        matcher = await loop.run_in_executor(self._compiling, self._engine.compile_grammar, grammar)
        return self.submit(request, grammar=matcher)

    def submit(self, request: GenerationRequest, *, grammar: GrammarMatcher | None = None) -> TokenStream:
        """Queue a request (and its compiled grammar) and return its stream of outputs.

        Raises:
            ValidationError: it can never run here (too long, not a text generator, its id is in use).
            QueueFullError: too much waits already, of this tenant or altogether.
            PlatformError: the engine is draining or closed.
        """
        if self._engine is None:
            raise no_generator()
        self._engine.validate(request)
        stream = TokenStream(self, request.request_id)
        with self._wake:
            self._require_open()
            if request.request_id in self._streams:
                raise ValidationError("A request with this id is running already.", param="request_id")
            self._engine.room.enter(request)
            self._streams[request.request_id] = stream
            self._arrived.append((request, grammar))
            self._wake.notify_all()
        return stream

    def abort(self, request_id: str) -> None:
        """Cancel a request in whatever state: its stream ends with "abort"; unknown ids are ignored."""
        with self._wake:
            if request_id in self._streams:
                self._aborted.append(request_id)
                self._wake.notify_all()

    async def embed(
        self, inputs: Sequence[Sequence[int]], *, tenant: str = "", weight: int = 1
    ) -> EmbeddingOutput:
        """Turn token id lists into vectors, batched together with whoever else asks at the same time.

        Args:
            inputs: token ids, one list for each vector.
            tenant: for whom they are; tenants share the batches by weight.
            weight: the tenant's, 1 to 32.

        Raises:
            ValidationError: the model does not embed, or an input is empty or too long.
            QueueFullError: too many inputs wait already, of this tenant or altogether.
        """
        if self._batcher is None:
            raise no_encoder()
        with self._wake:
            self._require_open()
            future = self._batcher.add(inputs, tenant=tenant, weight=weight)
            self._wake.notify_all()
        try:
            return await asyncio.wrap_future(future)
        finally:
            future.cancel()

    async def drain(self, *, timeout: float) -> bool:  # noqa: ASYNC109 - the patience of the caller
        """Take no new work, let the running work end, then close; False if work had to be cut off."""
        with self._wake:
            self._is_draining = True
        is_idle = await asyncio.to_thread(self._wait_until_idle, timeout)
        await asyncio.to_thread(self.close)
        return is_idle

    def close(self) -> None:
        """Stop after the current step; what still runs is aborted."""
        with self._wake:
            self._is_closed = True
            self._wake.notify_all()
        self._compiling.shutdown(wait=False, cancel_futures=True)
        if self._thread.is_alive():
            self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs and takes work."""
        return self._thread.is_alive() and not self._is_draining

    @property
    def num_waiting(self) -> int:
        """Requests that had no place in the latest step; none for a model that only embeds."""
        return self._engine.num_waiting if self._engine else 0

    @property
    def metrics(self) -> InferenceMetrics | None:
        """The engine's figures; None for a model that only embeds."""
        return self._engine.metrics() if self._engine else None

    def _require_open(self) -> None:
        if self._is_draining or self._is_closed or not self._thread.is_alive():
            raise PlatformError(
                "The engine is shutting down: try another replica or try again later.", retry_after=5
            )

    def _wait_until_idle(self, timeout: float) -> bool:
        with self._wake:
            return self._wake.wait_for(lambda: not self._is_busy(), timeout)

    def _is_busy(self) -> bool:
        return bool(self._streams) or (self._batcher is not None and self._batcher.has_work)

    def _run(self) -> None:
        try:
            self._run_steps()
            self._end_everything("The engine was shut down before the text was finished.")
        finally:
            # Whatever went wrong: nobody may wait for a thread that is gone.
            with self._wake:
                self._is_closed = True
                left = [_lost_output(request_id) for request_id in self._streams]
            self._deliver(left)
            if self._engine is not None:
                self._engine.close()

    def _run_steps(self) -> None:
        while self._wait_for_work():
            try:
                self._work()
            except Exception:
                logger.exception("a step of the engine failed; its requests fail, the engine goes on")
                if self._engine is not None:
                    self._deliver(self._engine.fail_all("The engine failed while it worked on this request."))

    def _end_everything(self, message: str) -> None:
        if self._engine is not None:
            with self._wake:
                arrived, self._arrived = self._arrived, []
            never_added = [self._engine.failed_output(request, message) for request, _ in arrived]
            self._deliver([*never_added, *self._engine.fail_all(message)])
        if self._batcher is not None:
            self._batcher.close()

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to do; False when the thread shall end."""
        with self._wake:
            while not self._is_closed:
                if self._arrived or self._aborted or (self._engine is not None and self._engine.has_work):
                    return True
                delay = self._batcher.seconds_until_due() if self._batcher is not None else None
                if delay is not None and delay <= 0:
                    return True
                if self._engine is not None and self._engine.is_pressed:
                    self._engine.look_after()  # what was done for want of memory ends without a request too
                    delay = CHECK_SECONDS
                self._wake.wait(delay)
        return False

    def _work(self) -> None:
        if self._engine is not None:
            with self._wake:
                arrived, self._arrived = self._arrived, []
                aborted, self._aborted = self._aborted, []
            outputs = [failed for each in arrived if (failed := self._add(*each)) is not None]
            outputs += [
                last for request_id in aborted if (last := self._engine.abort(request_id)) is not None
            ]
            if self._engine.has_work:
                outputs += self._engine.step()
            self._deliver(outputs)
        if self._batcher is not None:
            self._batcher.run_due()
            with self._wake:
                self._wake.notify_all()

    def _add(self, request: GenerationRequest, grammar: GrammarMatcher | None) -> TokenOutput | None:
        assert self._engine is not None  # noqa: S101 - only reached with an engine
        try:
            self._engine.add_request(request, grammar=grammar)
        except BitNetServiceError as error:
            return self._engine.failed_output(request, str(error))
        return None

    def _deliver(self, outputs: Sequence[TokenOutput]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[TokenStream, TokenOutput]]] = {}
        with self._wake:
            for output in outputs:
                is_last = output.finish_reason is not None
                find = self._streams.pop if is_last else self._streams.get
                stream = find(output.request_id, None)
                if stream is not None:
                    by_loop.setdefault(stream.loop, []).append((stream, output))
            self._wake.notify_all()
        recorder = None if self._engine is None else self._engine.recorder
        deliveries = None if recorder is None else recorder.deliveries
        for loop, items in by_loop.items():
            try:
                # One wake-up per step and loop, not one per token.
                loop.call_soon_threadsafe(_put_all, items, deliveries, time.monotonic())
            except RuntimeError:  # the loop is closed: nobody reads any more
                for stream, _ in items:
                    self.abort(stream.request_id)


def _lost_output(request_id: str) -> TokenOutput:
    return TokenOutput(
        request_id=request_id,
        text="",
        token_ids=(),
        finish_reason="error",
        prompt_tokens=0,
        completion_tokens=0,
        compute_seconds=0.0,
        queue_seconds=0.0,
        peak_kv_bytes=0,
        error="The engine failed and was shut down.",
    )


def _put_all(
    items: Sequence[tuple[TokenStream, TokenOutput]], deliveries: Deliveries | None, sent_at: float
) -> None:
    for stream, output in items:
        stream.put(output)
    if deliveries is not None:
        unread = max(stream.num_unread for stream, _ in items)
        deliveries.record(seconds=time.monotonic() - sent_at, unread=unread)

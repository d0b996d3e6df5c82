"""From the outputs of calls to an answer: in one piece, or piece by piece as server-sent events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec
from starlette.responses import StreamingResponse

from tritium.errors import BitNetServiceError, ProcessingError
from tritium.protocol.envelope import error_envelope
from tritium.protocol.usage import FinishedChoice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Coroutine, Mapping, Sequence

    from starlette.types import Receive, Scope, Send

    from tritium.engine.request import ScoredToken, TokenOutput
    from tritium.protocol.calls import GenerationCall, TextBackend

logger = logging.getLogger(__name__)

Envelope = Callable[[BaseException], tuple[int, dict[str, object], dict[str, str]]]
_Result = TypeVar("_Result")


class AnswerForm(Protocol):
    """Writes the wire objects of one answer (chat, plain completion or response)."""

    @property
    def ends_with_done(self) -> bool:
        """Whether a stream of this form ends with the line that says so."""

    def opening(self, index: int) -> Sequence[Mapping[str, object]]:
        """Return the events that open a choice."""

    def piece(self, index: int, output: TokenOutput) -> Sequence[Mapping[str, object]]:
        """Return the events of new text; none if there is nothing to show yet."""

    def closing(
        self, choices: Sequence[FinishedChoice], *, prompt_tokens: int, cached_tokens: int
    ) -> Sequence[Mapping[str, object]]:
        """Return the events behind the end of all choices, such as usage numbers."""

    def failed(self, error: dict[str, object]) -> Sequence[Mapping[str, object]]:
        """Return the events that end a stream in which an error (as the envelope says it) came up."""

    def whole(
        self, choices: Sequence[FinishedChoice], *, prompt_tokens: int, cached_tokens: int
    ) -> dict[str, object]:
        """Return the answer in one piece."""


class Fanout:
    """Runs the calls of one wire request side by side; closing it cancels what still runs."""

    def __init__(
        self, backend: TextBackend, calls: Sequence[GenerationCall], *, choices_per_prompt: int
    ) -> None:
        self._backend = backend
        self._calls = calls
        self._choices_per_prompt = choices_per_prompt
        self._streams: Sequence[AsyncIterator[TokenOutput]] = ()
        self._merged: _Merged | None = None
        self._first: tuple[int, TokenOutput] | None = None
        self._texts: list[list[str]] = [[] for _ in calls]
        self._scored: list[list[ScoredToken]] = [[] for _ in calls]
        self._last: list[TokenOutput | None] = [None for _ in calls]

    async def begin(self) -> bool:
        """Wait for the first output, so that a refused call still gets its own HTTP status."""
        self._streams = await self._backend.generate(self._calls)
        if len(self._streams) > 1:
            self._merged = _Merged(self._streams)
        self._first = await self._next()
        return True

    async def _next(self) -> tuple[int, TokenOutput]:
        if self._merged is not None:
            return await self._merged.next()
        return 0, await _next_output(self._streams[0])

    async def outputs(self) -> AsyncIterator[tuple[int, TokenOutput]]:
        """Yield (choice, output) as they come, until every choice has finished."""
        running = len(self._calls)
        while running:
            index, output = self._first or await self._next()
            self._first = None
            if output.finish_reason in {"error", "abort"}:
                raise ProcessingError(output.error or "The generation was stopped before its end.")
            self._texts[index].append(output.text)
            self._scored[index].extend(output.logprobs)
            self._last[index] = output
            running -= output.finish_reason is not None
            yield index, output

    async def drain(self) -> list[FinishedChoice]:
        """Run everything to the end of every choice and return them."""
        await self.begin()
        async for _ in self.outputs():
            pass
        return self.finished()

    @property
    def is_finished(self) -> bool:
        """Whether every choice has its end."""
        return all(last is not None and last.finish_reason is not None for last in self._last)

    def finished(self) -> list[FinishedChoice]:
        """Return every choice in one piece."""
        return [
            FinishedChoice(
                text="".join(texts),
                finish_reason=str(last.finish_reason) if last else "stop",
                completion_tokens=last.completion_tokens if last else 0,
                logprobs=None if call.sampling.logprobs is None else tuple(scored),
            )
            for call, texts, scored, last in zip(
                self._calls, self._texts, self._scored, self._last, strict=True
            )
        ]

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts; a prompt with several choices counts once."""
        return sum(last.prompt_tokens for last in self._last[:: self._choices_per_prompt] if last)

    @property
    def cached_tokens(self) -> int:
        """Tokens of all prompts that earlier requests had computed; those of a prompt's first choice."""
        return sum(last.cached_tokens for last in self._last[:: self._choices_per_prompt] if last)

    async def aclose(self) -> None:
        """Cancel what still runs and wait until the backend has let go of it; nobody reads it meanwhile."""
        if self._merged is not None:
            await self._merged.aclose()
        for stream in self._streams:
            close = getattr(stream, "aclose", None)
            if close is not None:
                await close()


async def _next_output(stream: AsyncIterator[TokenOutput]) -> TokenOutput:
    try:
        return await anext(stream)
    except StopAsyncIteration:
        raise _unfinished() from None


def _unfinished() -> ProcessingError:
    return ProcessingError("The generation ended without saying why.")


class _Merged:
    """The outputs of several streams as they come."""

    def __init__(self, streams: Sequence[AsyncIterator[TokenOutput]]) -> None:
        self._outputs: asyncio.Queue[tuple[int, TokenOutput | Exception]] = asyncio.Queue()
        self._pumps = [asyncio.create_task(self._pump(index, stream)) for index, stream in enumerate(streams)]

    async def _pump(self, index: int, stream: AsyncIterator[TokenOutput]) -> None:
        try:
            is_finished = False
            async for output in stream:  # to its end: a backend may wait for that with what comes next
                is_finished = output.finish_reason is not None
                self._outputs.put_nowait((index, output))
            if not is_finished:
                raise _unfinished()
        except Exception as error:  # noqa: BLE001 - it travels to the reader of the queue, which raises it
            self._outputs.put_nowait((index, error))

    async def next(self) -> tuple[int, TokenOutput]:
        index, output = await self._outputs.get()
        if isinstance(output, Exception):
            raise output
        return index, output

    async def aclose(self) -> None:
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)


async def client_left(receive: Receive) -> None:
    """Return when the client has closed the connection; the body must have been read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def run_until_client_leaves(
    work: Coroutine[object, object, _Result], receive: Receive
) -> _Result | None:
    """Do the work; cancel it and return None if the client leaves first.

    The work is done in the caller's own task, which is cancelled as `asyncio.timeout` cancels it.
    """
    here = asyncio.current_task()
    is_left = is_over = False

    def leave(seen: asyncio.Task[None]) -> None:
        nonlocal is_left
        if not seen.cancelled():
            seen.exception()  # a connection that cannot be read has left, too
        if here is not None and not is_over:
            is_left = True
            here.cancel()

    watch = asyncio.create_task(client_left(receive))
    watch.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if is_left and here is not None and here.uncancel() == 0:
            return None
        raise
    finally:
        is_over = True
        watch.cancel()


def _events(all_data: Sequence[Mapping[str, object]]) -> bytes:
    """Write events; what names its type is an event of that name."""
    return b"".join(map(_event, all_data))


def _event(data: Mapping[str, object]) -> bytes:
    """Write one event; what names its type is an event of that name."""
    name = data.get("type")
    head = f"event: {name}\n".encode() if isinstance(name, str) else b""
    return head + b"data: " + msgspec.json.encode(data) + b"\n\n"


class EventStream(StreamingResponse):
    """A response that sends chunks as they come; done or left by the client, it closes the fanout."""

    def __init__(
        self,
        fanout: Fanout,
        form: AnswerForm,
        *,
        headers: Mapping[str, str],
        before_end: Callable[[int], Awaitable[None]],
        envelope: Envelope = error_envelope,
    ) -> None:
        self._fanout = fanout
        self._form = form
        self._before_end = before_end
        self._envelope = envelope
        headers = {**headers, "cache-control": "no-cache"}
        super().__init__(iter(()), headers=headers, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; `state["refusal"]` tells layers above of an error behind the status 200."""
        try:
            await run_until_client_leaves(self._send_all(send, state=scope.setdefault("state", {})), receive)
        finally:
            await asyncio.shield(self._fanout.aclose())

    async def _send_all(self, send: Send, *, state: dict[str, object]) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            end = await self._send_outputs(send) + self._end()
            await self._before_end(len(end))
        except Exception as error:
            # The status is out already: the error becomes the last event, and the client library raises it.
            if not isinstance(error, BitNetServiceError):
                logger.exception("a stream failed")
            state["refusal"] = error
            _, body, _ = self._envelope(error)
            inner = body["error"]
            end = _events(self._form.failed(inner)) if isinstance(inner, dict) else b""
        await send({"type": "http.response.body", "body": end, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_outputs(self, send: Send) -> bytes:
        """Send what comes, as it comes: this loop runs once for every token of every stream.

        The events of the last output are returned: with them the answer is complete.
        """
        opened: set[int] = set()
        end = b""
        async for index, output in self._fanout.outputs():
            opening = b""
            if index not in opened:
                opened.add(index)
                opening = _events(self._form.opening(index))
            shown = self._form.piece(index, output) if output.text or output.finish_reason else ()
            if output.finish_reason and self._fanout.is_finished:
                end = opening + _events(shown)
            elif opening or shown:
                await send(
                    {"type": "http.response.body", "body": opening + _events(shown), "more_body": True}
                )
        return end

    def _end(self) -> bytes:
        closing = self._form.closing(
            self._fanout.finished(),
            prompt_tokens=self._fanout.prompt_tokens,
            cached_tokens=self._fanout.cached_tokens,
        )
        return _events(closing) + (b"data: [DONE]\n\n" if self._form.ends_with_done else b"")

"""The door by which lines of batches come in: the wire format of a request of its own, and the same road."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tritium.engine.request import MAX_PRIORITY
from tritium.protocol.chat import ChatAnswer, chat_calls
from tritium.protocol.completions import CompletionAnswer, completion_calls
from tritium.protocol.embeddings import embedding_answer, embedding_call
from tritium.protocol.schemas import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    parse_body,
)
from tritium.protocol.stream import Fanout
from tritium_platform.api.inference import embedding_work, no_such_model, text_work
from tritium_platform.api.problems import openai_envelope
from tritium_platform.errors import NotFoundError, ValidationError
from tritium_platform.metering.model import ResourceUsage, UsageQuantities
from tritium_platform.passage import OnceOnly
from tritium_platform.serving.batch import BatchEndpoint, KeptLine
from tritium_platform.serving.batch_lines import answered_line
from tritium_platform.serving.model import Consumption, Outcome
from tritium_platform.serving.pool import Version

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence

    from tritium.engine.request import EmbeddingOutput, TokenOutput
    from tritium.protocol.calls import GenerationCall
    from tritium.protocol.schemas import GenerationBody
    from tritium.protocol.stream import AnswerForm
    from tritium_platform.audit.model import ResourceIdentifier
    from tritium_platform.compose import Platform
    from tritium_platform.metering.model import OperationType
    from tritium_platform.passage import CustomerRequest
    from tritium_platform.serving.batch import Batch, InputLine
    from tritium_platform.serving.engine_work import GenerateText
    from tritium_platform.serving.inference import InferenceService
    from tritium_platform.tenancy.model import Scope, TenantContext

Answer = dict[str, object]
Request = TypeVar("Request", ChatCompletionRequest, CompletionRequest, EmbeddingRequest)
# One line may ask for as many texts as one request; it does not get as many places.
TEXTS_AT_ONCE = 2


class BatchDoor:
    """Lets lines in by the gateway, and keeps each answer in the transaction that bills it."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    async def admit(self, batch: Batch, line: InputLine, *, context: TenantContext) -> AsyncIterator[object]:
        """Admit a line; its one piece comes when the answer is kept."""
        line_id = batch.line_id(line.number)
        work = AnswerLine(
            read_line(
                self._platform.inference,
                endpoint=batch.endpoint,
                body=json.dumps(line.body).encode("ascii"),
                request_id=line_id.hex,
                context=context,
            ),
            write=lambda answer: answered_line(batch, line, status=200, body=answer),
        )

        async def keep() -> None:
            kept = KeptLine(number=line.number, content=work.written, is_error=False)
            await self._platform.batches.keep_line(batch, kept)

        try:
            return await self._platform.gateway.process_deferred_request(
                work,
                context=context,
                request_id=line_id.hex,
                num_requests=len(work.parts),
                once=OnceOnly(event_id=line_id, keep=keep),
            )
        except NotFoundError:
            raise no_such_model(work.model) from None

    def problem(self, error: Exception) -> tuple[int, Mapping[str, Any]]:
        """Return the status and the body that a request of its own would be answered with."""
        status, body, _ = openai_envelope(error)
        return status, body


class WireWork(Protocol):
    """The parts of one wire request, and how their outputs become its answer."""

    @property
    def parts(self) -> Sequence[CustomerRequest[Any]]:
        """What is admitted and counted."""

    async def run(self) -> Answer:
        """Do it."""


class AnswerLine:
    """One line as one use: its texts are written side by side and counted together, all of them or none.

    What it stores is its line of the output file, as `write` writes it. Nothing of it crosses the network:
    its file was uploaded before, and is downloaded after, for all lines at once.
    """

    def __init__(self, work: WireWork, *, write: Callable[[Answer], str]) -> None:
        self._work = work
        self._write = write
        self.parts = work.parts
        self.written = ""

    @property
    def operation(self) -> OperationType:
        """What kind of work it is."""
        return self.parts[0].operation

    @property
    def scope(self) -> Scope:
        """What the key must allow."""
        return self.parts[0].scope

    @property
    def subject(self) -> ResourceIdentifier:
        """The deployment it is about."""
        return self.parts[0].subject

    @property
    def model(self) -> str:
        """The model's name."""
        return self.parts[0].model

    async def admit(self, context: TenantContext) -> int:
        """Count all prompts; return prompts and longest answers in tokens."""
        return sum([await part.admit(context) for part in self.parts])

    async def execute(self) -> AsyncGenerator[Answer, None]:
        """Yield the whole answer."""
        answer = await self._work.run()
        self.written = self._write(answer)
        yield answer

    def is_last(self, piece: Answer) -> bool:  # noqa: ARG002 - there is only one
        """Whether nothing follows: always."""
        return True

    def release(self) -> None:
        """Let go of the engines of all parts."""
        for part in self.parts:
            part.release()

    def consumed(self, outcome: Outcome) -> Consumption:
        """Return what all parts consumed; nothing counts that nobody will read."""
        if outcome is not Outcome.SUCCESS:
            return Consumption(is_counted=False)
        used = [part.consumed(outcome) for part in self.parts]
        return Consumption(
            quantities=UsageQuantities(
                input_tokens=sum(each.quantities.input_tokens for each in used),
                output_tokens=sum(each.quantities.output_tokens for each in used),
                embedding_tokens=sum(each.quantities.embedding_tokens for each in used),
            ),
            resources=ResourceUsage(
                compute_time_ms=sum(each.resources.compute_time_ms for each in used),
                memory_peak_bytes=max(each.resources.memory_peak_bytes for each in used),
                storage_bytes=len(self.written) + 1,  # ASCII, and the end of the line
            ),
            tokens=sum(each.tokens for each in used),
        )


def read_line(
    inference: InferenceService,
    *,
    endpoint: BatchEndpoint,
    body: bytes,
    request_id: str,
    context: TenantContext,
) -> WireWork:
    """Read the body of a line; raises ValidationError as the endpoint itself would."""
    created = int(time.time())

    def of_now(request: Request) -> Request:
        # An alias means one model to all texts of the line, and the answer says which.
        return request.model_copy(update={"model": inference.name_of(context, request.model)})

    if endpoint is BatchEndpoint.EMBEDDINGS:
        return _VectorWork(inference, of_now(parse_body(EmbeddingRequest, body)), request_id=request_id)
    if endpoint is BatchEndpoint.COMPLETIONS:
        text = of_now(parse_body(CompletionRequest, body))
        return _TextWork(
            inference,
            text,
            calls=completion_calls(text, request_id=request_id, principal=None),
            form=CompletionAnswer(request_id=request_id, model=text.model, created=created),
        )
    chat = of_now(parse_body(ChatCompletionRequest, body))
    return _TextWork(
        inference,
        chat,
        calls=chat_calls(chat, request_id=request_id, principal=None),
        form=ChatAnswer(request_id=request_id, model=chat.model, created=created, tool_use=chat.tool_use),
    )


class _TextWork:
    """Texts to write; as a backend it gives each call the part that was admitted for it."""

    def __init__(
        self,
        inference: InferenceService,
        body: GenerationBody,
        *,
        calls: Sequence[GenerationCall],
        form: AnswerForm,
    ) -> None:
        if body.stream:
            raise ValidationError("A line of a batch cannot be streamed: leave it out.", param="stream")
        self._num_choices = body.n or 1
        self._calls = calls
        self._form = form
        version = Version()  # one for all: a swap does not part the texts of a line
        # Behind whatever the tenant asks for itself: nobody waits for a line.
        patient = [replace(call, priority=MAX_PRIORITY) for call in calls]
        self._part_of = {call.request_id: text_work(inference, call, version=version) for call in patient}
        self.parts = list(self._part_of.values())
        self._places = asyncio.Semaphore(TEXTS_AT_ONCE)

    async def generate(self, calls: Sequence[GenerationCall]) -> Sequence[AsyncIterator[TokenOutput]]:
        """Return the outputs of each call."""
        return [self._outputs(self._part_of[call.request_id]) for call in calls]

    async def _outputs(self, part: GenerateText) -> AsyncGenerator[TokenOutput, None]:
        async with self._places, contextlib.aclosing(part.execute()) as outputs:
            async for output in outputs:
                yield output

    async def run(self) -> Answer:
        """Write all texts."""
        fanout = Fanout(self, self._calls, choices_per_prompt=self._num_choices)
        async with contextlib.aclosing(fanout):
            choices = await fanout.drain()
            return self._form.whole(
                choices, prompt_tokens=fanout.prompt_tokens, cached_tokens=fanout.cached_tokens
            )


class _VectorWork:
    """Texts to turn into vectors."""

    def __init__(self, inference: InferenceService, body: EmbeddingRequest, *, request_id: str) -> None:
        self._body = body
        self._part = embedding_work(inference, embedding_call(body, request_id=request_id, principal=None))
        self.parts = [self._part]

    async def run(self) -> Answer:
        """Embed all texts."""
        async with contextlib.aclosing(self._part.execute()) as outputs:
            output: EmbeddingOutput = await anext(outputs)
        return embedding_answer(self._body, output, model=self._body.model)

"""The backend of the library's own server: one model, in this process."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from tritium.engine.prompt import encode_prompt, tokenized
from tritium.engine.request import GenerationRequest, no_encoder, no_generator
from tritium.engine.runner import EngineThread
from tritium.engine.tools import require_call
from tritium.protocol.calls import ModelCard, model_not_found

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from tritium.engine.loading import LoadedEngine
    from tritium.engine.prompt import Prompt, TokenizedPrompt
    from tritium.engine.request import EmbeddingOutput, TokenOutput
    from tritium.engine.runner import TokenStream
    from tritium.engine.tools import ToolUse
    from tritium.protocol.calls import EmbeddingCall, GenerationCall, TokenizeCall


class LocalBackend:
    """Serves one loaded model under one name; a principal that is a text is a tenant, all others are one."""

    def __init__(self, loaded: LoadedEngine, *, served_name: str | None = None) -> None:
        self.card = ModelCard(id=served_name or loaded.name, created=int(time.time()), owned_by="tritium")
        self.thread = EngineThread(loaded.engine, batcher=loaded.batcher)
        self._loaded = loaded

    async def models(self, principal: object) -> Sequence[ModelCard]:  # noqa: ARG002 - everybody is the same
        """Return the one model."""
        return [self.card]

    async def generate(self, calls: Sequence[GenerationCall]) -> Sequence[AsyncIterator[TokenOutput]]:
        """Tokenise away from the event loop, and queue the requests; if one is refused, none runs."""
        requests = [await self._request(call) for call in calls]
        streams: list[TokenStream] = []
        try:
            for request in requests:
                streams.append(await self.thread.generate(request))  # noqa: PERF401 - those begun are closed
        except BaseException:
            for stream in streams:
                await stream.aclose()
            raise
        return streams

    async def _request(self, call: GenerationCall) -> GenerationRequest:
        self._require_model(call.model)
        self._require_generator()
        sampling = require_call(call.sampling, call.tool_use, tokenizer=self._loaded.tokenizer)
        token_ids = await asyncio.to_thread(self._encode, call.prompt, tool_use=call.tool_use)
        tenant = _tenant_of(call.principal)
        return GenerationRequest(
            request_id=call.request_id,
            prompt_token_ids=token_ids,
            sampling=sampling,
            cache_salt=tenant,
            tenant=tenant,
            priority=call.priority,
        )

    async def embed(self, call: EmbeddingCall) -> EmbeddingOutput:
        """Tokenise away from the event loop, and wait for the batch."""
        self._require_model(call.model)
        if self._loaded.batcher is None:
            raise no_encoder()
        inputs = await asyncio.to_thread(self._encode_all, call.inputs)
        return await self.thread.embed(inputs, tenant=_tenant_of(call.principal))

    async def tokenize(self, call: TokenizeCall) -> TokenizedPrompt:
        """Tokenise away from the event loop."""
        self._require_model(call.model)
        token_ids = await asyncio.to_thread(self._encode, call.prompt)
        return tokenized(self._loaded.tokenizer, token_ids, context_limit=self._loaded.max_tokens)

    def served_name(self, principal: object, model: str) -> str:  # noqa: ARG002 - there are no aliases
        """Return the name as it was asked for."""
        return model

    def response_headers(self, principal: object) -> Mapping[str, str]:  # noqa: ARG002 - no limits to announce
        """Return nothing."""
        return {}

    def _encode(
        self, prompt: Prompt, *, param: str = "prompt", tool_use: ToolUse | None = None
    ) -> tuple[int, ...]:
        limit = self._loaded.max_tokens
        return encode_prompt(
            self._loaded.tokenizer, prompt, context_limit=limit, param=param, tool_use=tool_use
        )

    def _encode_all(self, inputs: tuple[str | tuple[int, ...], ...]) -> list[tuple[int, ...]]:
        return [self._encode(item, param="input") for item in inputs]

    def _require_model(self, name: str) -> None:
        if name != self.card.id:
            raise model_not_found()

    def _require_generator(self) -> None:
        if self._loaded.engine is None:
            raise no_generator()


def _tenant_of(principal: object) -> str:
    return principal if isinstance(principal, str) else ""

"""The library's own front door: load a model, generate, stream, chat, embed; no server needed."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from tritium.engine.loading import load_engine
from tritium.engine.prompt import ChatMessage, Prompt, encode_prompt
from tritium.engine.request import FinishReason, GenerationRequest, SamplingParams
from tritium.errors import ProcessingError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tritium.engine.config import EngineConfig
    from tritium.engine.engine import Engine
    from tritium.engine.monitor import InferenceMetrics
    from tritium.engine.request import TokenOutput
    from tritium.model.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A generated text with what it cost."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    compute_seconds: float
    queue_seconds: float
    peak_kv_bytes: int


class LLM:
    """A model ready to work; calls from several threads take turns.

    Args:
        source: a checkpoint (dense, native ternary, or written by Tritium) as a path, or a hub name.
        threads: processor threads; None = as many as the machine has for it.
        config: budgets of the engine.

    Raises:
        ValidationError: the checkpoint is damaged or not supported.
    """

    def __init__(
        self, source: str | Path, *, threads: int | None = None, config: EngineConfig | None = None
    ) -> None:
        loaded = load_engine(source, threads=threads, config=config)
        self.name = loaded.name
        self.tokenizer: Tokenizer = loaded.tokenizer
        self._engine = loaded.engine
        self._batcher = loaded.batcher
        self._lock = threading.Lock()
        self._ids = itertools.count()

    def generate(
        self, prompts: str | Sequence[str], *, sampling: SamplingParams | None = None
    ) -> list[Completion]:
        """Continue one prompt or many (batched together) and return a completion for each, in order.

        Raises:
            ValidationError: a prompt is empty or too long, or the model does not write text.
            ProcessingError: the model failed on a prompt.
        """
        engine = self._generator()
        items = [prompts] if isinstance(prompts, str) else list(prompts)
        requests = [self._request(item, sampling) for item in items]
        for request in requests:
            engine.validate(request)
        collected: dict[str, list[TokenOutput]] = {request.request_id: [] for request in requests}
        for output in self._run(engine, requests):
            collected[output.request_id].append(output)
        return [_completion(outputs) for outputs in collected.values()]

    def stream(self, prompt: str, *, sampling: SamplingParams | None = None) -> Iterator[TokenOutput]:
        """Yield the outputs of one prompt as they come; leaving the loop cancels the rest."""
        engine = self._generator()
        request = self._request(prompt, sampling)
        engine.validate(request)
        return self._run(engine, [request])

    def chat(
        self, messages: Sequence[Mapping[str, str]], *, sampling: SamplingParams | None = None
    ) -> Completion:
        """Answer a conversation of {"role": system|user|assistant, "content": text}."""
        return _completion(list(self.stream_chat(messages, sampling=sampling)))

    def stream_chat(
        self, messages: Sequence[Mapping[str, str]], *, sampling: SamplingParams | None = None
    ) -> Iterator[TokenOutput]:
        """Yield the answer to a conversation as it comes."""
        engine = self._generator()
        request = self._request(_chat_prompt(messages), sampling)
        engine.validate(request)
        return self._run(engine, [request])

    def embed(self, texts: str | Sequence[str]) -> NDArray[np.float32]:
        """Return one unit-length row f32[number of texts, H] per text.

        Raises:
            ValidationError: a text is empty or too long, or the model does not embed.
        """
        if self._batcher is None:
            raise ValidationError(
                "this model writes text; it does not turn texts into vectors.", param="model"
            )
        items = [texts] if isinstance(texts, str) else list(texts)
        future = self._batcher.add([encode_prompt(self.tokenizer, item, param="input") for item in items])
        with self._lock:
            while not future.done():
                self._batcher.run_batch()
        return np.array(future.result().vectors, dtype=np.float32)

    def metrics(self) -> InferenceMetrics:
        """Return the engine's figures."""
        return self._generator().metrics()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Drop what still waits."""
        if self._batcher is not None:
            self._batcher.close()

    def _generator(self) -> Engine:
        if self._engine is None:
            raise ValidationError(
                "this model turns texts into vectors; it does not write text.", param="model"
            )
        return self._engine

    def _request(self, prompt: Prompt, sampling: SamplingParams | None) -> GenerationRequest:
        return GenerationRequest(
            request_id=f"llm-{next(self._ids)}",
            prompt_token_ids=encode_prompt(self.tokenizer, prompt),
            sampling=sampling or SamplingParams(),
        )

    def _run(self, engine: Engine, requests: list[GenerationRequest]) -> Iterator[TokenOutput]:
        waiting = list(reversed(requests))
        running: set[str] = set()
        with self._lock:
            try:
                while waiting or running:
                    while waiting and engine.num_waiting < engine.config.max_waiting:
                        engine.add_request(waiting[-1])
                        running.add(waiting.pop().request_id)
                    for output in engine.step():
                        if output.finish_reason is not None:
                            running.discard(output.request_id)
                        if output.finish_reason == "error":
                            raise ProcessingError(output.error or "the generation failed.")
                        yield output
            finally:
                for request_id in running:
                    engine.abort(request_id)


def _chat_prompt(messages: Sequence[Mapping[str, str]]) -> tuple[ChatMessage, ...]:
    turns = []
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if role not in {"system", "user", "assistant"} or not isinstance(content, str):
            raise ValidationError(
                'a message must be {"role": "system" | "user" | "assistant", "content": text}.',
                param="messages",
            )
        turns.append(ChatMessage(role, content))  # type: ignore[arg-type]  # the role was checked above
    return tuple(turns)


def _completion(outputs: Sequence[TokenOutput]) -> Completion:
    last = outputs[-1]
    return Completion(
        text="".join(output.text for output in outputs),
        token_ids=tuple(token for output in outputs for token in output.token_ids),
        finish_reason=last.finish_reason or "abort",
        prompt_tokens=last.prompt_tokens,
        completion_tokens=last.completion_tokens,
        compute_seconds=last.compute_seconds,
        queue_seconds=last.queue_seconds,
        peak_kv_bytes=last.peak_kv_bytes,
    )

"""The library's own front door: load a model, generate, stream, chat, embed; no server needed."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from tritium.engine.loading import load_engine
from tritium.engine.prompt import Prompt, chat_messages, embedding_inputs, encode_prompt, split_prompts
from tritium.engine.request import (
    FinishReason,
    GenerationRequest,
    SamplingParams,
    no_encoder,
    no_generator,
)
from tritium.engine.sharing import SharedEngine, closed_error
from tritium.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tritium.engine.batcher import EmbeddingBatcher
    from tritium.engine.config import EngineConfig
    from tritium.engine.monitor import InferenceMetrics
    from tritium.engine.request import ScoredToken, TokenOutput
    from tritium.model.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A generated text with what it cost, and the log-probabilities of its tokens if they were asked for."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    compute_seconds: float
    queue_seconds: float
    peak_kv_bytes: int
    logprobs: tuple[ScoredToken, ...] = ()


class LLM:
    """A model ready to work: from several threads, and within the loop over a stream of its own.

    Args:
        source: a checkpoint (dense, native ternary, or written by Tritium) as a path, or a hub name.
        threads: processor threads; None = as many as measurement finds the fastest.
        config: budgets of the engine.

    Raises:
        ValidationError: the checkpoint is damaged or not supported.
    """

    def __init__(
        self, source: str | Path, *, threads: int | None = None, config: EngineConfig | None = None
    ) -> None:
        loaded = load_engine(source, threads=threads, config=config)
        self.name, self.device = loaded.name, loaded.device
        self.tokenizer: Tokenizer = loaded.tokenizer
        self._shared = None if loaded.engine is None else SharedEngine(loaded.engine)
        self._batcher = loaded.batcher
        self._batcher_lock = threading.Lock()
        self._is_closed = False
        self._ids = itertools.count()

    def generate(
        self,
        prompts: str | Sequence[int] | Sequence[str | Sequence[int]],
        *,
        sampling: SamplingParams | None = None,
    ) -> list[Completion]:
        """Continue one prompt or many (batched together) and return a completion for each, in order.

        A prompt is a text or a list of token ids; a list of numbers is therefore one prompt.

        Raises:
            ValidationError: a prompt is empty, too long or no prompt; or the model does not write text.
            ProcessingError: the model failed on a prompt.
        """
        shared = self._generator()
        requests = [self._request(item, sampling) for item in split_prompts(prompts)]
        collected: dict[str, list[TokenOutput]] = {request.request_id: [] for request in requests}
        for output in shared.run(requests):
            collected[output.request_id].append(output)
        return [_completion(outputs) for outputs in collected.values()]

    def stream(
        self, prompt: str | Sequence[int], *, sampling: SamplingParams | None = None
    ) -> Iterator[TokenOutput]:
        """Yield the outputs of one prompt as they come; leaving the loop cancels the rest."""
        shared = self._generator()
        prompts = split_prompts(prompt)
        if len(prompts) != 1:
            raise ValidationError("A stream takes one prompt; generate takes several.", param="prompt")
        return shared.run([self._request(prompts[0], sampling)])

    def chat(
        self, messages: Sequence[Mapping[str, str]], *, sampling: SamplingParams | None = None
    ) -> Completion:
        """Answer a conversation of {"role": system|user|assistant, "content": text}."""
        return _completion(list(self.stream_chat(messages, sampling=sampling)))

    def stream_chat(
        self, messages: Sequence[Mapping[str, str]], *, sampling: SamplingParams | None = None
    ) -> Iterator[TokenOutput]:
        """Yield the answer to a conversation as it comes."""
        shared = self._generator()
        return shared.run([self._request(chat_messages(messages), sampling)])

    def embed(self, texts: str | Sequence[int] | Sequence[str | Sequence[int]]) -> NDArray[np.float32]:
        """Return one unit-length row f32[number of texts, H] per text (or list of token ids).

        Raises:
            ValidationError: a text is empty or too long, or the model does not embed.
        """
        self._require_open()
        batcher = self._batcher
        if batcher is None:
            raise no_encoder()
        limit = batcher.config.max_input_tokens
        inputs = [
            encode_prompt(self.tokenizer, item, context_limit=limit, param="input")
            for item in embedding_inputs(texts)
        ]
        batcher.validate(inputs)  # before the work: a bad text at the end must not cost the others' time
        most = batcher.config.max_waiting_inputs
        with self._batcher_lock:
            parts = [_embed(batcher, inputs[start : start + most]) for start in range(0, len(inputs), most)]
        return np.concatenate(parts)

    def metrics(self) -> InferenceMetrics:
        """Return the engine's figures."""
        return self._generator().engine.metrics()

    def close(self) -> None:
        """Cancel what runs and free the model and its cache; harmless when repeated.

        Whatever is asked afterwards, of a stream left open too, raises ValidationError.
        """
        self._is_closed = True
        if self._shared is not None:
            self._shared.close()
        with self._batcher_lock:
            batcher, self._batcher = self._batcher, None
        if batcher is not None:
            batcher.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close it."""
        self.close()

    def _require_open(self) -> None:
        if self._is_closed:
            raise closed_error()

    def _generator(self) -> SharedEngine:
        self._require_open()
        if self._shared is None:
            raise no_generator()
        return self._shared

    def _request(self, prompt: Prompt, sampling: SamplingParams | None) -> GenerationRequest:
        if sampling is not None and not isinstance(sampling, SamplingParams):
            raise ValidationError(
                f"sampling must be SamplingParams, not {type(sampling).__name__}.", param="sampling"
            )
        engine = self._generator().engine
        request = GenerationRequest(
            request_id=f"llm-{next(self._ids)}",
            prompt_token_ids=encode_prompt(self.tokenizer, prompt, context_limit=engine.context_limit),
            sampling=sampling or SamplingParams(),
        )
        engine.validate(request)
        return request


def _embed(batcher: EmbeddingBatcher, inputs: Sequence[tuple[int, ...]]) -> NDArray[np.float32]:
    future = batcher.add(inputs)
    try:
        while not future.done():
            batcher.run_batch()
        return np.array(future.result().vectors, dtype=np.float32)
    finally:
        future.cancel()  # broken off (Ctrl-C): what still waits is not computed for nobody


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
        logprobs=tuple(scored for output in outputs for scored in output.logprobs),
    )

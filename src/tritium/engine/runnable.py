"""Whether a request can run on an engine at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium.engine.request import ContextLengthExceededError
from tritium.errors import ValidationError

if TYPE_CHECKING:
    from tritium.engine.request import GenerationRequest
    from tritium.model.config import ModelConfig
    from tritium.model.tokenizer import Tokenizer


def require_runnable(
    request: GenerationRequest, *, tokenizer: Tokenizer, model: ModelConfig, limit: int
) -> None:
    """Check a request against the vocabulary and the longest context, `limit` tokens.

    Raises:
        ValidationError: an empty prompt, or a token (of prompt or biases) outside the vocabulary.
        ContextLengthExceededError: prompt and answer can never fit.
    """
    if not request.prompt_token_ids:
        raise ValidationError("The prompt is empty: give at least one token.", param="prompt")
    vocabulary = model.vocab_size
    if not all(0 <= token < vocabulary for token in request.prompt_token_ids):
        raise ValidationError(f"The prompt holds a token outside of 0 to {vocabulary - 1}.", param="prompt")
    request.sampling.require_vocabulary(tokenizer.vocab_size)
    num_prompt = len(request.prompt_token_ids)
    if num_prompt + (request.sampling.max_tokens or 1) > limit:
        raise _too_long(num_prompt, request.sampling.max_tokens, limit=limit)


def _too_long(num_prompt: int, max_tokens: int | None, *, limit: int) -> ContextLengthExceededError:
    is_prompt_alone = num_prompt >= limit
    advice = (
        "it leaves no room for an answer: shorten it."
        if is_prompt_alone
        else f"{max_tokens} more were asked for: shorten the prompt or lower max_tokens."
    )
    return ContextLengthExceededError(
        f"The context limit is {limit} tokens and the prompt has {num_prompt}; {advice}",
        param="prompt" if is_prompt_alone else "max_tokens",
        limit=limit,
        prompt_tokens=num_prompt,
    )

"""Counting tokens: the wire form becomes a call, tokens become a wire object (in vLLM's words)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium.errors import ValidationError
from tritium.protocol.calls import TokenizeCall
from tritium.protocol.chat import chat_prompt

if TYPE_CHECKING:
    from tritium.engine.prompt import Prompt, TokenizedPrompt
    from tritium.protocol.schemas import TokenizeRequest


def tokenize_call(body: TokenizeRequest, *, principal: object) -> TokenizeCall:
    """Return the call of a request.

    Raises:
        ValidationError: not exactly one of prompt and messages.
    """
    if (body.prompt is None) == (body.messages is None):
        raise ValidationError("Give either prompt or messages.", param="prompt")
    prompt: Prompt = chat_prompt(body.messages) if body.messages is not None else body.prompt or ""
    return TokenizeCall(model=body.model, prompt=prompt, principal=principal)


def tokenize_answer(body: TokenizeRequest, prompt: TokenizedPrompt) -> dict[str, object]:
    """Return the wire object; token strings only if asked for."""
    return {
        "count": len(prompt.token_ids),
        "max_model_len": prompt.context_limit,
        "tokens": list(prompt.token_ids),
        "token_strs": list(prompt.tokens) if body.return_token_strs else None,
    }

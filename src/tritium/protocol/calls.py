"""What a door asks of whoever runs the models: the in-process server and the platform's gateway alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tritium.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from tritium.engine.prompt import Prompt, TokenizedPrompt
    from tritium.engine.request import EmbeddingOutput, SamplingParams, TokenOutput
    from tritium.engine.tools import ToolUse


class ModelNotFoundError(ValidationError):
    """There is no such model for this caller."""


def model_not_found() -> ModelNotFoundError:
    """Return what is raised for a model that is not there, or not there for this caller."""
    return ModelNotFoundError(
        "There is no such model; GET /v1/models lists those you may use.", param="model"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """One model a caller may use; `created` is Unix time in seconds, `root` what an alias stands for."""

    id: str
    created: int
    owned_by: str
    root: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationCall:
    """One text to generate; a wire request with several prompts or choices becomes several calls.

    Attributes:
        request_id: the wire request's id; with a suffix `-1`, `-2` ... from the second call on.
        prompt: text, token ids, or chat messages (whoever holds the tokenizer turns them into tokens).
        principal: what `principal_of(request)` returned; opaque here.
        is_stream: whether the caller reads the answer piece by piece.
        tool_use: the tools of a chat; whoever holds the tokenizer shows them to the model, and sees to it
            that one is called if one must be.
        priority: among the caller's own requests the lower number comes first.
    """

    request_id: str
    model: str
    prompt: Prompt
    sampling: SamplingParams
    principal: object = None
    is_stream: bool = False
    tool_use: ToolUse | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingCall:
    """Texts (or token ids) to turn into vectors, in order."""

    request_id: str
    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    principal: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeCall:
    """A prompt of which only the tokens are asked for."""

    model: str
    prompt: Prompt
    principal: object = None


class TextBackend(Protocol):
    """Writes texts; it may raise any `BitNetServiceError`."""

    async def generate(self, calls: Sequence[GenerationCall]) -> Sequence[AsyncIterator[TokenOutput]]:
        """Admit the calls of one wire request, all or none, and return the outputs of each.

        Errors before the first output become HTTP statuses. The route iterates at once, and closes the
        iterators (`aclose`) when the client leaves: that must cancel the work.
        """


class InferenceBackend(TextBackend, Protocol):
    """Runs models for the OpenAI routes; every method may raise any `BitNetServiceError`."""

    async def models(self, principal: object) -> Sequence[ModelCard]:
        """Return the models this caller may use."""

    async def embed(self, call: EmbeddingCall) -> EmbeddingOutput:
        """Return the vectors; cancelled when the client leaves."""

    async def tokenize(self, call: TokenizeCall) -> TokenizedPrompt:
        """Return the tokens of a prompt; nothing is run, and nothing counts as use."""

    def served_name(self, principal: object, model: str) -> str:
        """Return what the answer calls its model: an alias has become the model it stood for."""

    def response_headers(self, principal: object) -> Mapping[str, str]:
        """Return headers to add to every answer of this caller (rate limits ...); may be empty."""

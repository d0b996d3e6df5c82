"""The requests of the OpenAI wire format: what is understood, what is harmless, what is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic import ValidationError as SchemaError

from tritium.engine.request import MAX_PRIORITY, MAX_TOP_LOGPROBS
from tritium.errors import ValidationError
from tritium.protocol.messages import Message, ToolChoice, ToolDefinition, tool_use_of
from tritium.protocol.structured import ResponseFormat, StructuredOutputs, chosen_form

if TYPE_CHECKING:
    from tritium.engine.grammar import Grammar
    from tritium.engine.tools import ToolUse

MAX_CHOICES = 8
MAX_PROMPTS = 64
MAX_CALLS = 128  # texts to generate for one request: prompts times choices
MAX_EMBEDDING_INPUTS = 2048
MAX_TOOLS = 128

# They steer billing, storage or caches of the original service and never the text.
_HARMLESS = frozenset(
    {
        "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
        "prompt_cache_retention", "prompt_cache_options",
    }
)  # fmt: skip
# They change the answer and are not done (yet); these values mean the same as leaving them out.
_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "access_programs": (None,),
    "audio": (None,),
    "background": (None, False),
    "best_of": (None, 1),
    "context_management": (None, []),
    "conversation": (None,),
    "echo": (None, False),
    "function_call": (None, "none"),
    "functions": (None, []),
    "image": (None,),
    "max_tool_calls": (None,),
    "modalities": (None, ["text"]),
    "moderation": (None,),
    "prediction": (None,),
    "previous_response_id": (None,),
    "prompt": (None,),  # a stored one, in responses
    "reasoning": (None, {}),
    "reasoning_effort": (None, "none"),
    "suffix": (None, ""),
    "tool_choice": (None, "none"),  # in plain completions, as `tools`
    "tools": (None, []),
    "top_logprobs": (None, 0),
    "truncation": (None, "disabled"),
    "verbosity": (None,),
    "web_search_options": (None,),
}


# The fields that may be written in several forms, and the sentence which says them all.
_TEXTS_OR_TOKENS = "must be a text, a list of token ids, or a list of at most {} of these; none may be empty."
FORMS = {
    "prompt": _TEXTS_OR_TOKENS.format(MAX_PROMPTS),
    "input": _TEXTS_OR_TOKENS.format(MAX_EMBEDDING_INPUTS),
    "stop": "must be a text or a list of texts.",
    "content": 'must be a text or a list of {"type": "text", "text": ...}; only text is understood.',
}


class UnsupportedParameterError(ValidationError):
    """A parameter would change the answer and is not supported; details: param."""


class UnknownParameterError(ValidationError):
    """A parameter nobody knows; details: param."""


class InvalidJsonError(ValidationError):
    """The body is not a JSON document in UTF-8."""


class RequestTooLargeError(ValidationError):
    """The body is larger than any request may be; details: limit (bytes)."""


LONGEST_MODEL_NAME = 256


class WireRequest(BaseModel):
    """What all requests share: strict types, and every unknown field looked at."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)
    wire_name: ClassVar[str] = "request"
    forms: ClassVar[Mapping[str, str]] = FORMS

    model: Annotated[str, Field(min_length=1, max_length=LONGEST_MODEL_NAME)]

    def refuse_unknown(self) -> None:
        """Raise for every field that is not understood and would change the answer."""
        for name, value in (self.model_extra or {}).items():
            if name in _HARMLESS:
                continue
            if name not in _UNSUPPORTED:
                raise UnknownParameterError(f"Unknown parameter: {name[:64]!r}.", param=name[:64])
            # `False == 0`: compare types too, so that 0 never passes for "off" where a boolean belongs.
            if not any(type(value) is type(neutral) and value == neutral for neutral in _UNSUPPORTED[name]):
                raise UnsupportedParameterError(
                    f"The parameter {name!r} is not supported: leave it out.", param=name
                )


class StreamOptions(BaseModel):
    """What a stream carries besides the text."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    include_usage: bool | None = False
    include_obfuscation: bool | None = None


class GenerationBody(WireRequest):
    """The parameters that chat and plain completions share."""

    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = 1
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    json_schema: dict[str, object] | None = None
    grammar: str | None = None

    @property
    def answer_form(self) -> Grammar | None:
        """The form that the answer must have, by whichever parameter it was given."""
        return chosen_form(
            response_format=self.response_format,
            structured_outputs=self.structured_outputs,
            json_schema=self.json_schema,
            grammar=self.grammar,
        )

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """The stop texts as a tuple, however they were written."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def includes_usage(self) -> bool:
        """Whether the stream ends with a chunk of usage numbers."""
        return bool(self.stream_options and self.stream_options.include_usage)


Messages = Annotated[list[Message], Field(min_length=1, max_length=4096)]


class ChatCompletionRequest(GenerationBody):
    """POST /v1/chat/completions."""

    wire_name: ClassVar[str] = "chat completion"
    messages: Messages
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    tools: Annotated[list[ToolDefinition], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None

    @property
    def tool_use(self) -> ToolUse | None:
        """The tools the model is shown; None for none."""
        is_single = self.parallel_tool_calls is False
        return tool_use_of(self.tools or [], self.tool_choice, is_single=is_single)

    @property
    def num_alternatives(self) -> int | None:
        """How many log-probabilities to tell beside each token's own; None to tell none at all."""
        if self.top_logprobs and not self.logprobs:
            raise ValidationError("top_logprobs needs logprobs: set it to true.", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None


_Request = TypeVar("_Request", bound=WireRequest)
TokenIds = Annotated[list[int], Field(min_length=1)]


class CompletionRequest(GenerationBody):
    """POST /v1/completions."""

    wire_name: ClassVar[str] = "completion"
    prompt: (
        str
        | TokenIds
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: bool | None = False


class EmbeddingRequest(WireRequest):
    """POST /v1/embeddings."""

    wire_name: ClassVar[str] = "embedding"
    input: (
        str
        | TokenIds
        | Annotated[list[str], Field(min_length=1, max_length=MAX_EMBEDDING_INPUTS)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_EMBEDDING_INPUTS)]
    )
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = None


class TokenizeRequest(WireRequest):
    """POST /v1/tokenize: what a completion of `prompt` or a chat of `messages` would read."""

    wire_name: ClassVar[str] = "tokenize"
    prompt: Annotated[str, Field(min_length=1)] | None = None
    messages: Messages | None = None
    return_token_strs: bool | None = False


def parse_body(schema: type[_Request], body: bytes) -> _Request:
    """Read a JSON body.

    Raises:
        ValidationError: not JSON, not UTF-8, a wrong type, a refused parameter; details name it as `param`.
    """
    try:
        request = schema.model_validate_json(body)
    except SchemaError as error:
        raise _first_problem(error, forms=schema.forms) from None
    request.refuse_unknown()
    return request


def _first_problem(error: SchemaError, *, forms: Mapping[str, str]) -> ValidationError:
    # The input itself is not repeated: it may be a prompt.
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if problem["type"] == "json_invalid":
        return InvalidJsonError(f"The body is not valid JSON in UTF-8: {problem['msg']}.")
    place = [str(part) for part in problem["loc"]]
    name = place[0] if place else "body"
    message = f"{problem['msg']}."
    for depth, part in enumerate(place):
        if part in forms:  # what follows names only the last of the forms that were tried
            place, message = place[: depth + 1], forms[part]
            break
    return ValidationError(f"{'.'.join(place)[:128] or 'body'}: {message}", param=name)

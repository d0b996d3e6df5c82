"""POST /v1/responses as callers write it: a chat in other words, of which the server keeps nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from tritium.engine.request import MAX_TOP_LOGPROBS
from tritium.errors import ValidationError
from tritium.protocol.messages import (
    CalledFunction,
    ChosenFunction,
    FunctionDefinition,
    Message,
    NamedChoice,
    ToolCall,
    ToolChoice,
    ToolDefinition,
)
from tritium.protocol.schemas import (
    FORMS,
    MAX_TOOLS,
    ChatCompletionRequest,
    UnsupportedParameterError,
    WireRequest,
)
from tritium.protocol.structured import (
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedSchema,
    ResponseFormat,
    TextFormat,
)

if TYPE_CHECKING:
    from tritium.engine.grammar import Grammar

MAX_ITEMS = 4095  # with the instructions as many messages as a chat may have
LOGPROBS = "message.output_text.logprobs"
_EXACT = ConfigDict(extra="forbid", strict=True, frozen=True)
_INPUT = (
    'must be a text, or a list of messages ({"role": ..., "content": ...}) and of items of the types '
    "function_call and function_call_output; only text is understood, and none may be empty."
)


class TextPart(BaseModel):
    """A piece of a message, the caller's or one of an earlier answer; only text is understood."""

    model_config = _EXACT
    type: Literal["input_text", "output_text"]
    text: str
    annotations: list[object] | None = None
    logprobs: list[object] | None = None


class InputMessage(BaseModel):
    """One message."""

    model_config = _EXACT
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class FunctionCall(BaseModel):
    """A call of an earlier answer; `arguments` is JSON."""

    model_config = _EXACT
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None


class FunctionCallOutput(BaseModel):
    """What a call gave."""

    model_config = _EXACT
    type: Literal["function_call_output"]
    call_id: str
    output: str | list[TextPart]
    id: str | None = None
    status: str | None = None


class FunctionTool(FunctionDefinition):
    """A function the model may call, its fields beside its type."""

    type: Literal["function"]


class NamedFunction(BaseModel):
    """One tool that must be called."""

    model_config = _EXACT
    type: Literal["function"]
    name: str


class NamedSchemaFormat(NamedSchema):
    """A JSON text of a schema, its fields beside its type."""

    type: Literal["json_schema"]


class TextConfig(BaseModel):
    """What the answer's text looks like."""

    model_config = _EXACT
    format: Annotated[TextFormat | JsonObjectFormat | NamedSchemaFormat, Field(discriminator="type")] = (
        TextFormat(type="text")
    )
    verbosity: None = None


class ResponseStreamOptions(BaseModel):
    """Nothing that changes the stream: obfuscation pads events against listeners, and TLS has none here."""

    model_config = _EXACT
    include_obfuscation: bool | None = None


class ResponsesRequest(WireRequest):
    """POST /v1/responses."""

    wire_name: ClassVar[str] = "response"
    forms: ClassVar[dict[str, str]] = {**FORMS, "input": _INPUT}
    input: (
        Annotated[str, Field(min_length=1)]
        | Annotated[
            list[InputMessage | FunctionCall | FunctionCallOutput], Field(min_length=1, max_length=MAX_ITEMS)
        ]
    )
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = False
    stream_options: ResponseStreamOptions | None = None
    store: bool | None = None
    text: TextConfig | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    metadata: dict[str, str] | None = None

    def refuse_unknown(self) -> None:
        """Raise for what is not understood, and for what needs answers that are kept."""
        if self.store:
            raise UnsupportedParameterError(
                "Answers are not stored: leave store out or set it to false; earlier turns come as input.",
                param="store",
            )
        super().refuse_unknown()

    def as_chat(self) -> ChatCompletionRequest:
        """Return the same request as a chat.

        Raises:
            ValidationError: `top_logprobs` without asking for log-probabilities.
        """
        has_logprobs = LOGPROBS in (self.include or ())
        if self.top_logprobs and not has_logprobs:
            raise ValidationError(f'top_logprobs needs include: ["{LOGPROBS}"].', param="top_logprobs")
        return _ResponsesChat(
            model=self.model,
            messages=self._messages(),
            max_completion_tokens=self.max_output_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            stream=self.stream,
            response_format=_chat_format(self.text),
            tools=[_chat_tool(tool) for tool in self.tools or ()],
            tool_choice=_chat_choice(self.tool_choice),
            parallel_tool_calls=self.parallel_tool_calls,
            logprobs=has_logprobs,
            top_logprobs=self.top_logprobs,
        )

    def _messages(self) -> list[Message]:
        messages = [Message(role="system", content=self.instructions)] if self.instructions else []
        items = self.input
        if isinstance(items, str):
            return [*messages, Message(role="user", content=items)]
        calls: list[ToolCall] = []
        for item in items:
            if isinstance(item, FunctionCall):  # those of one turn are one message
                function = CalledFunction(name=item.name, arguments=item.arguments)
                calls.append(ToolCall(id=item.call_id, function=function))
                continue
            messages += _calling(calls)
            calls = []
            if isinstance(item, InputMessage):
                messages.append(Message(role=item.role, content=_text_of(item.content)))
            else:
                messages.append(
                    Message(role="tool", content=_text_of(item.output), tool_call_id=item.call_id)
                )
        return [*messages, *_calling(calls)]


class _ResponsesChat(ChatCompletionRequest):
    """A chat whose form of answer was named `text`."""

    @property
    def answer_form(self) -> Grammar | None:
        """The form that the answer must have."""
        form = super().answer_form
        return form and replace(form, param="text")


def _calling(calls: list[ToolCall]) -> list[Message]:
    return [Message(role="assistant", tool_calls=calls)] if calls else []


def _text_of(content: str | list[TextPart]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _chat_format(text: TextConfig | None) -> ResponseFormat | None:
    form = text.format if text else None
    if not isinstance(form, NamedSchemaFormat):
        return form
    return JsonSchemaFormat(
        type="json_schema",
        json_schema=NamedSchema(
            name=form.name, description=form.description, schema=form.json_schema, strict=form.strict
        ),
    )


def _chat_tool(tool: FunctionTool) -> ToolDefinition:
    function = FunctionDefinition(
        name=tool.name, description=tool.description, parameters=tool.parameters, strict=tool.strict
    )
    return ToolDefinition(type="function", function=function)


def _chat_choice(
    choice: Literal["none", "auto", "required"] | NamedFunction | None,
) -> ToolChoice | None:
    if isinstance(choice, NamedFunction):
        return NamedChoice(type="function", function=ChosenFunction(name=choice.name))
    return choice

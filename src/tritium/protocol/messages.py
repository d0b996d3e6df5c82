"""The messages of a chat and the tools beside them, as callers write them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from tritium.engine.tools import Tool, ToolUse
from tritium.errors import ValidationError


class ContentPart(BaseModel):
    """A piece of a message; only text is understood."""

    model_config = ConfigDict(strict=True, frozen=True)
    type: Literal["text"]
    text: str


class CalledFunction(BaseModel):
    """What an earlier answer called; `arguments` is JSON."""

    model_config = ConfigDict(strict=True, frozen=True)
    name: str
    arguments: str


class ToolCall(BaseModel):
    """A call of an earlier answer."""

    model_config = ConfigDict(strict=True, frozen=True)
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_calls: list[ToolCall] | None = None
    content: Annotated[str | list[ContentPart] | None, Field(validate_default=True)] = None
    name: str | None = None
    refusal: None = None
    tool_call_id: str | None = None
    function_call: None = None
    audio: None = None
    annotations: list[object] | None = None

    @field_validator("content")
    @classmethod
    def _require_content(
        cls, content: str | list[ContentPart] | None, known: ValidationInfo
    ) -> str | list[ContentPart] | None:
        if content is None and not known.data.get("tool_calls"):
            raise ValueError("a message that calls no tools needs content")
        return content

    @model_validator(mode="after")
    def _check_role(self) -> Self:
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only the assistant calls tools")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("tool_call_id belongs to the result of a tool, and only there")
        return self

    @property
    def text(self) -> str:
        """The content in one piece."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(part.text for part in self.content)


class FunctionDefinition(BaseModel):
    """A function the model may call; `parameters` is a JSON schema, kept to where a call is required."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, object] | None = None
    strict: bool | None = None


class ToolDefinition(BaseModel):
    """A tool; only functions are understood."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    type: Literal["function"]
    function: FunctionDefinition


class ChosenFunction(BaseModel):
    """The name of the tool that must be called."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    name: str


class NamedChoice(BaseModel):
    """One tool that must be called."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    type: Literal["function"]
    function: ChosenFunction


ToolChoice = Literal["none", "auto", "required"] | NamedChoice


def tool_use_of(
    tools: list[ToolDefinition], choice: ToolChoice | None, *, is_single: bool = False
) -> ToolUse | None:
    """Return what the model is shown and whether it must call, or may only once; None if it shall not.

    Raises:
        ValidationError: a call is required of a tool that is not there.
    """
    is_free = choice in {None, "auto"}
    if choice == "none" or (is_free and not tools):
        return None
    named = choice.function.name if isinstance(choice, NamedChoice) else None
    chosen = [tool.function for tool in tools if named in {None, tool.function.name}]
    if not chosen:
        raise ValidationError("tool_choice asks for a tool that is not in tools.", param="tool_choice")
    shown = [
        Tool(
            name=each.name,
            description=each.description or "",
            parameters=each.parameters or {"type": "object"},
        )
        for each in chosen
    ]
    return ToolUse(tools=tuple(shown), must_call=not is_free, is_single=is_single)

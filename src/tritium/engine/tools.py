"""Tools a model may call: how its template shows them, and the form of a call that must be made.

The dialect follows from the template: Hermes and Qwen write `<tool_call>` around each call, Mistral a list
behind `[TOOL_CALLS]`, Llama 3 a JSON object and nothing else.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tritium.engine.grammar import WHITESPACE, Grammar
from tritium.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tritium.engine.request import SamplingParams
    from tritium.model.tokenizer import Tokenizer

Dialect = Literal["tagged", "listed", "bare"]
OPENING, CLOSING = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function the model may call; `parameters` is the JSON schema of its arguments."""

    name: str
    description: str
    parameters: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """The tools of a request.

    Attributes:
        tools: those which the model is shown, and may call.
        must_call: whether the answer has to be a call, of any of them.
        is_single: whether it may hold one call only.
    """

    tools: tuple[Tool, ...]
    must_call: bool = False
    is_single: bool = False


def shown_tools(tool_use: ToolUse, *, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Return the tools as templates take them.

    Raises:
        ValidationError: the model's template knows no tools.
    """
    if "tools" not in (tokenizer.chat_template_source or ""):
        raise ValidationError("The model's chat template knows no tools: leave them out.", param="tools")
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": dict(tool.parameters),
            },
        }
        for tool in tool_use.tools
    ]


def require_call(
    sampling: SamplingParams, tool_use: ToolUse | None, *, tokenizer: Tokenizer
) -> SamplingParams:
    """Return the parameters with the form of a call, if one must be made.

    Raises:
        ValidationError: another form was asked for as well.
    """
    if tool_use is None or not tool_use.must_call:
        return sampling
    if sampling.grammar is not None:
        raise ValidationError(
            f"tool_choice and {sampling.grammar.param} both say what the answer looks like: give one.",
            param="tool_choice",
        )
    source = _grammar_of(tool_use.tools, dialect_of(tokenizer.chat_template_source or ""))
    return dataclasses.replace(sampling, grammar=Grammar(kind="grammar", source=source, param="tools"))


def dialect_of(template: str) -> Dialect:
    """Return how a model with this chat template writes calls."""
    if OPENING in template:
        return "tagged"
    return "listed" if "[TOOL_CALLS]" in template else "bare"


def _grammar_of(tools: Sequence[Tool], dialect: Dialect) -> str:
    arguments = "parameters" if dialect == "bare" else "arguments"
    call = {
        "x-guidance": {"whitespace_pattern": WHITESPACE},
        "anyOf": [_schema_of(tool, arguments) for tool in tools],
    }
    rules = {
        "tagged": f'start: "{OPENING}\\n" call "\\n{CLOSING}"',
        "listed": 'start: "[" call "]"',
        "bare": "start: call",
    }
    return f"{rules[dialect]}\ncall: %json {json.dumps(call)}"


def _schema_of(tool: Tool, arguments: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, arguments: dict(tool.parameters)},
        "required": ["name", arguments],
        "additionalProperties": False,
    }

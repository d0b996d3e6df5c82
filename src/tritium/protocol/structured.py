"""The form of an answer as callers write it: in OpenAI's words, in vLLM's or in llama-server's."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from tritium.engine.grammar import Grammar, one_of
from tritium.errors import ValidationError

_ANY_OBJECT: dict[str, object] = {"type": "object"}
_EXACT = ConfigDict(extra="forbid", strict=True, frozen=True)


class TextFormat(BaseModel):
    """Plain text."""

    model_config = _EXACT
    type: Literal["text"]


class JsonObjectFormat(BaseModel):
    """Any JSON object, or one of a schema."""

    model_config = _EXACT
    type: Literal["json_object"]
    json_schema: dict[str, object] | None = Field(default=None, alias="schema")


class NamedSchema(BaseModel):
    """A JSON schema; it is always kept to, whatever `strict` says."""

    model_config = _EXACT
    name: str | None = None
    description: str | None = None
    json_schema: dict[str, object] = Field(alias="schema")
    strict: bool | None = None


class JsonSchemaFormat(BaseModel):
    """A JSON text of a schema."""

    model_config = _EXACT
    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class StructuredOutputs(BaseModel):
    """The same in vLLM's words; exactly one of these."""

    model_config = _EXACT
    json_schema: str | dict[str, object] | None = Field(default=None, alias="json")
    json_object: Literal[True] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None


def chosen_form(
    *,
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None,
    structured_outputs: StructuredOutputs | None,
    json_schema: dict[str, object] | None,
    grammar: str | None,
) -> Grammar | None:
    """Return the one form that was asked for; None for plain text.

    Raises:
        ValidationError: two were, or one that can be none.
    """
    forms = [
        _of_response_format(response_format),
        _of_structured_outputs(structured_outputs),
        None if json_schema is None else _of_schema(json_schema, param="json_schema"),
        Grammar(kind="grammar", source=grammar, param="grammar") if grammar else None,
    ]
    given = [form for form in forms if form is not None]
    if len(given) > 1:
        raise ValidationError(
            f"{given[0].param} and {given[1].param} both say what the answer looks like: give one of them.",
            param=given[1].param,
        )
    return given[0] if given else None


def _of_response_format(form: TextFormat | JsonObjectFormat | JsonSchemaFormat | None) -> Grammar | None:
    if form is None or isinstance(form, TextFormat):
        return None
    schema = form.json_schema.json_schema if isinstance(form, JsonSchemaFormat) else form.json_schema
    return _of_schema(_ANY_OBJECT if schema is None else schema, param="response_format")


def _of_structured_outputs(asked: StructuredOutputs | None) -> Grammar | None:
    if asked is None:
        return None
    param = "structured_outputs"
    if len(asked.model_dump(exclude_none=True)) != 1:
        raise ValidationError(
            f"{param} must hold exactly one of json, json_object, regex, choice and grammar.", param=param
        )
    if asked.choice is not None:
        return one_of(asked.choice, param=param)
    if asked.regex is not None:
        return Grammar(kind="regex", source=asked.regex, param=param)
    if asked.grammar is not None:
        return Grammar(kind="grammar", source=asked.grammar, param=param)
    return _of_schema(_ANY_OBJECT if asked.json_schema is None else asked.json_schema, param=param)


def _of_schema(schema: str | dict[str, object], *, param: str) -> Grammar:
    source = schema if isinstance(schema, str) else json.dumps(schema, ensure_ascii=False)
    return Grammar(kind="json_schema", source=source, param=param)

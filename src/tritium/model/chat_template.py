"""A chat template turns messages into one text. It comes with a checkpoint: a stranger's program.

It runs in jinja2's immutable sandbox, which keeps it from reaching out of the template. The bounds here keep it
from eating the machine: every loop turn and macro call costs a step, and no value may grow beyond a limit.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from tritium.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LARGEST_TEMPLATE = 1 << 18  # characters
LARGEST_TEXT = 1 << 22  # characters, of the output and of any value on the way
MOST_STEPS = 200_000  # loop turns and macro calls
_STEP = "__step"

# Methods and filters whose output can be far larger than their input, with no use in a chat template.
_REFUSED_METHODS = frozenset(
    {"center", "expandtabs", "format", "format_map", "ljust", "rjust", "translate", "zfill"}
)
_KEPT_FILTERS = frozenset(
    [
        "abs",
        "capitalize",
        "count",
        "d",
        "default",
        "dictsort",
        "e",
        "escape",
        "first",
        "float",
        "int",
        "items",
        "last",
        "length",
        "list",
        "lower",
        "map",
        "max",
        "min",
        "reject",
        "rejectattr",
        "reverse",
        "round",
        "safe",
        "select",
        "selectattr",
        "sort",
        "string",
        "sum",
        "title",
        "trim",
        "unique",
        "upper",
    ]
)


class ChatTemplate:
    """A compiled template.

    Raises:
        ValidationError: the template does not compile, at construction.
    """

    def __init__(self, source: str) -> None:
        if len(source) > LARGEST_TEMPLATE:
            raise ValidationError(f"The chat template is longer than {LARGEST_TEMPLATE} characters.")
        try:
            self._template = _BoundedEnvironment().from_string(source)
        except (jinja2.TemplateError, RecursionError, ValueError, OverflowError) as error:
            raise ValidationError(f"The chat template is not valid: {_reason(error)}.") from None

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool, **variables: object
    ) -> str:
        """Render messages of role and content.

        Raises:
            ValidationError: the template refuses the messages, fails, or goes beyond its bounds.
        """
        context: dict[str, object] = {
            **variables,
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
            _STEP: _steps(),
        }
        pieces, size = [], 0
        try:
            for piece in self._template.generate(context):
                size += len(piece)
                _require_small(size)
                pieces.append(piece)
        # A stranger's template may raise anything at all; whatever it is, the messages cannot be rendered.
        except Exception as error:  # noqa: BLE001 - see above
            raise ValidationError(
                f"The chat template cannot render these messages: {_reason(error)}."
            ) from None
        return "".join(pieces)


class _BoundedEnvironment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], autoescape=False
        )
        bounded = {"join": _join, "replace": _replace, "tojson": _to_json}
        self.filters = {name: self.filters[name] for name in _KEPT_FILTERS if name in self.filters} | bounded
        self.globals = {
            "range": self.globals["range"],
            "namespace": self.globals["namespace"],
            "dict": self.globals["dict"],
            "raise_exception": _raise_exception,
            "strftime_now": lambda pattern: datetime.now(UTC).strftime(str(pattern)[:64]),
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock))):
            loop.body.insert(0, nodes.Output([_call(_STEP, [])], lineno=loop.lineno))
        _bound_concatenations(tree)
        return tree.set_environment(self)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            _require_small(_size(left) + _size(right))
        elif operator == "*":
            _require_small(max(_size(left) * _count(right), _size(right) * _count(left)))
            _require_small(_bits(left) + _bits(right))
        elif operator == "**":
            _require_small(_bits(left) * _count(right))
        elif isinstance(left, str):
            raise SecurityError("formatting with % is not allowed")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, function: Any, /, *arguments: Any, **named: Any) -> Any:
        owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        if isinstance(owner, str):
            if name in _REFUSED_METHODS:
                raise SecurityError(f"the method {name} is not allowed")
            if name == "join" and arguments:
                return _join(arguments[0], owner)
            if name == "replace":
                return _replace(owner, *arguments)
        return super().call(context, function, *arguments, **named)


def _steps() -> Any:
    left = MOST_STEPS

    def step() -> str:
        nonlocal left
        left -= 1
        if left < 0:
            raise SecurityError(f"it takes more than {MOST_STEPS} steps")
        return ""

    return step


def _bound_concatenations(tree: nodes.Node) -> None:
    """Give every `a ~ b` a check: a text that doubles in a loop fills the memory long before the steps end."""
    for node in list(tree.find_all(nodes.Concat)):
        left, *rest = node.nodes
        node.nodes = [nodes.Filter(nodes.List([left, *rest]), "join", [], [], None, None)]


def _call(name: str, arguments: list[nodes.Expr]) -> nodes.Call:
    return nodes.Call(nodes.Name(name, "load"), arguments, [], None, None)


def _join(values: Any, separator: Any = "", attribute: Any = None) -> str:
    if attribute is not None:
        raise SecurityError("join by attribute is not allowed; use map")
    texts, size = [], 0
    for value in values:
        texts.append(str(value))
        size += len(texts[-1]) + len(str(separator))
        _require_small(size)
    return str(separator).join(texts)


def _replace(text: Any, old: Any, new: Any, count: Any = None) -> str:
    text, old, new = str(text), str(old), str(new)
    _require_small(len(text) + text.count(old) * len(new))
    return text.replace(old, new, -1 if count is None else int(count))


def _to_json(value: Any, *, indent: int | None = None, ensure_ascii: bool = False, **_: Any) -> str:
    width = None if indent is None else min(int(indent), 8)
    return json.dumps(value, indent=width, ensure_ascii=ensure_ascii)


def _raise_exception(message: Any) -> None:
    raise jinja2.TemplateError(str(message))


def _require_small(size: int) -> None:
    if size > LARGEST_TEXT:
        raise SecurityError(f"a value is longer than {LARGEST_TEXT} characters")


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 0


def _count(value: Any) -> int:
    return abs(value) if isinstance(value, int) else 0


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _reason(error: BaseException) -> str:
    text = str(error).strip().rstrip(".")
    return (text or type(error).__name__)[:300]

"""A chat template turns messages into one text. It comes with a checkpoint: a stranger's program.

It runs in jinja2's immutable sandbox, which keeps it from reaching out of the template. The budget here keeps
it from eating the machine: every loop turn and macro call costs a step, every value that is built its size.
"""

from __future__ import annotations

import json
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import wraps
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tritium.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LARGEST_TEMPLATE = 1 << 18  # characters
SMALLEST_BUDGET = 1 << 23  # characters built while rendering
BUDGET_PER_CHARACTER = 64  # more of them for each character of the messages
MOST_STEPS = 100_000  # loop turns, macro calls and numbers of a range
MOST_BITS = 4096  # of a whole number

_STEP, _WEIGH = "__step", "__weigh"
_METHODS = frozenset(
    [
        "capitalize",
        "count",
        "endswith",
        "find",
        "get",
        "index",
        "isalnum",
        "isalpha",
        "isdigit",
        "islower",
        "isspace",
        "isupper",
        "items",
        "join",
        "keys",
        "lower",
        "lstrip",
        "partition",
        "removeprefix",
        "removesuffix",
        "replace",
        "rfind",
        "rindex",
        "rpartition",
        "rsplit",
        "rstrip",
        "split",
        "splitlines",
        "startswith",
        "strip",
        "title",
        "upper",
        "values",
    ]
)
_FILTERS = frozenset(
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


class _Budget:
    """What one rendering may still spend."""

    def __init__(self, characters: int) -> None:
        self.characters = characters
        self.steps = MOST_STEPS

    def step(self, count: int = 1) -> str:
        self.steps -= count
        if self.steps < 0:
            raise SecurityError(f"it takes more than {MOST_STEPS} steps")
        return ""

    def build(self, size: int) -> None:
        self.characters -= size
        if self.characters < 0:
            raise SecurityError("it builds too much text")


_budget: ContextVar[_Budget] = ContextVar("chat_template_budget")


class ChatTemplate:
    """A compiled template.

    Raises:
        ValidationError: the template does not compile, at construction.
    """

    def __init__(self, source: str) -> None:
        if len(source) > LARGEST_TEMPLATE:
            raise ValidationError(f"The chat template is longer than {LARGEST_TEMPLATE} characters.")
        token = _budget.set(_Budget(SMALLEST_BUDGET))  # constants are folded while compiling
        try:
            self._template = _BoundedEnvironment().from_string(source)
        # A stranger's text may break the compiler in any way; whatever it is, there is no template.
        except Exception as error:  # noqa: BLE001 - see above
            raise ValidationError(f"The chat template is not valid: {_reason(error)}.") from None
        finally:
            _budget.reset(token)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: object,
    ) -> str:
        """Render messages of role and content, and the tools a model may call.

        Raises:
            ValidationError: the template refuses the messages, fails, or goes beyond its budget.
        """
        length = sum(len(str(value)) for message in messages for value in message.values())
        length += sum(len(str(tool)) for tool in tools or ())
        budget = _Budget(SMALLEST_BUDGET + BUDGET_PER_CHARACTER * length)
        budget.steps += len(messages)
        token = _budget.set(budget)
        try:
            return self._template.render(
                {
                    **variables,
                    "messages": [dict(message) for message in messages],
                    "tools": None if tools is None else [dict(tool) for tool in tools],
                    "add_generation_prompt": add_generation_prompt,
                    _STEP: budget.step,
                }
            )
        # A stranger's template may raise anything at all; whatever it is, these messages cannot be rendered.
        except Exception as error:  # noqa: BLE001 - see above
            raise ValidationError(f"The chat template cannot render this: {_reason(error)}.") from None
        finally:
            _budget.reset(token)


class _BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox, with every way to build a large value or to loop bound to the budget."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols"],
            finalize=_weighed,
            autoescape=False,
        )
        own = {"join": _join, "replace": _replace, "tojson": _to_json, _WEIGH: _weighed}
        self.filters = {name: _charged(self.filters[name]) for name in sorted(_FILTERS)} | own
        self.globals = {
            "range": _range,
            "namespace": self.globals["namespace"],
            "dict": self.globals["dict"],
            "raise_exception": _raise_exception,
            "strftime_now": lambda pattern: datetime.now(UTC).strftime(str(pattern)[:64]),
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            _count_steps(loop)
            if loop.test is not None:
                # A step is "", which is not true.
                loop.test = nodes.Or(_step_call(nodes.Const(1)), loop.test)
        for macro in tree.find_all(nodes.Macro):
            _count_steps(macro)
        for block in tree.find_all(nodes.CallBlock):
            _count_steps(block)
        for concatenation in tree.find_all(nodes.Concat):
            concatenation.nodes = [_filtered(nodes.List(concatenation.nodes), "join")]
        for comparison in tree.find_all(nodes.Compare):
            for operand in comparison.ops:
                operand.expr = _filtered(operand.expr, _WEIGH)
        for item in tree.find_all(nodes.Getitem):
            if isinstance(item.arg, nodes.Slice):
                item.node = _filtered(item.node, _WEIGH)
        tree.set_environment(self)
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        is_known = attr in _METHODS or not isinstance(obj, str | bytes | int | float)
        return is_known and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Any:
        """Leave str.format to is_safe_attribute, which refuses it: a width in a format builds any size."""
        del value

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            _budget.get().build(_size(left) + _size(right))
        elif operator == "*":
            _budget.get().build(max(_size(left) * _count(right), _size(right) * _count(left)))
            _require_small(_bits(left) + _bits(right))
        elif operator == "**":
            _require_small(_bits(left) * _count(right))
        elif isinstance(left, str):
            raise SecurityError("formatting with % is not allowed")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, function: Any, /, *arguments: Any, **named: Any) -> Any:
        owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        if isinstance(owner, str):
            if name == "join":
                return _join(arguments[0], owner)
            if name == "replace":
                return _replace(owner, *arguments)
            _budget.get().build(len(owner))
        return super().call(context, function, *arguments, **named)


def _count_steps(node: nodes.For | nodes.Macro | nodes.CallBlock) -> None:
    """Charge each turn: one step, and one more for every hundred characters of text in the body."""
    text = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
    cost = nodes.Const(1 + text // 100)
    node.body.insert(0, nodes.Output([_step_call(cost)], lineno=node.lineno))


def _step_call(cost: nodes.Expr) -> nodes.Call:
    return nodes.Call(nodes.Name(_STEP, "load"), [cost], [], None, None)


def _filtered(expression: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(expression, name, [], [], None, None)


def _charged(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)  # keeps jinja2's mark of what it passes first
    def charged(*arguments: Any, **named: Any) -> Any:
        _budget.get().build(sum(_size(argument) for argument in arguments))
        return function(*arguments, **named)

    return charged


def _weighed(value: Any) -> Any:
    _budget.get().build(_size(value))
    return value


def _range(*arguments: int) -> range:
    numbers = range(*arguments)
    _budget.get().step(len(numbers[: MOST_STEPS + 1]))
    return numbers


def _join(values: Any, separator: Any = "", attribute: Any = None) -> str:
    if attribute is not None:
        raise SecurityError("join by attribute is not allowed; use map")
    texts = []
    for value in values:
        texts.append(str(value))
        _budget.get().build(len(texts[-1]) + len(str(separator)))
    return str(separator).join(texts)


def _replace(text: Any, old: Any, new: Any, count: Any = None) -> str:
    text, old, new = str(text), str(old), str(new)
    _budget.get().build(len(text) + text.count(old) * len(new))
    return str.replace(text, old, new, -1 if count is None else int(count))


def _to_json(value: Any, *, indent: int | None = None, ensure_ascii: bool = False, **_: Any) -> str:
    text = json.dumps(
        value, indent=None if indent is None else min(int(indent), 8), ensure_ascii=ensure_ascii
    )
    _budget.get().build(len(text))
    return text


def _raise_exception(message: Any) -> None:
    raise jinja2.TemplateError(str(message))


def _require_small(bits: int) -> None:
    if bits > MOST_BITS:
        raise SecurityError(f"a number has more than {MOST_BITS} bits")


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict) else 0


def _count(value: Any) -> int:
    return max(value, 0) if isinstance(value, int) else 0


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _reason(error: BaseException) -> str:
    text = str(error).strip().rstrip(".")
    return (text or type(error).__name__)[:300]

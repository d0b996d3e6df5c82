"""Calls of tools in a model's text, found while it streams, whichever of the known dialects it speaks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tritium.engine.tools import CLOSING, OPENING

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

_LISTED = "[TOOL_CALLS]"  # a special token in most vocabularies, and then not in the text
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class WrittenCall:
    """A call as the model wrote it; `arguments` is JSON."""

    name: str
    arguments: str


class ToolCallReader:
    """Divides one answer into text and calls.

    Text is passed on as soon as it cannot be part of a call, a call when it is complete. What looked like a
    call and is none comes out as text. The result does not depend on how the answer was cut into pieces.

    Args:
        names: of the tools; what calls another one is text.
        is_single: whether there may be one call only; what follows it is dropped.
    """

    def __init__(self, names: AbstractSet[str], *, is_single: bool = False) -> None:
        self._names = names
        self._is_single = is_single
        self._held = ""
        self._before = ""  # the tag that is held: shown if it turns out to be none of a call
        self._is_start = True  # of the answer, or right behind a call: JSON is a call only here
        self._has_calls = False

    def feed(self, text: str, *, is_last: bool) -> tuple[str, list[WrittenCall]]:
        """Take new text; return the text and the calls that are certain now."""
        self._held += text
        shown, calls = "", list[WrittenCall]()
        while self._held and not (self._is_single and self._has_calls):
            step = self._at_start(is_last=is_last) if self._is_start else self._in_text(is_last=is_last)
            if step is None:
                break
            shown += step[0]
            calls += step[1]
        return shown, calls[:1] if self._is_single else calls

    def _at_start(self, *, is_last: bool) -> tuple[str, list[WrittenCall]] | None:
        """Find out what comes first; None while that is open."""
        head = self._held.lstrip()
        if not is_last and any(mark.startswith(head) for mark in (OPENING, _LISTED)):
            return None
        if not head and self._has_calls:  # white space behind the last call
            self._held = ""
            return "", []
        head = head.removeprefix(_LISTED).lstrip()
        if not head and not is_last:
            return None
        if head[:1] in {"{", "["}:
            try:
                value, end = _DECODER.raw_decode(head)
            except (ValueError, RecursionError):
                if not is_last:
                    return None
            else:
                calls = self._calls_of(value)
                if calls:
                    self._held, self._has_calls = head[end:], True
                    return "", calls
        if head.startswith(OPENING):
            self._before, self._held = self._held[: len(self._held) - len(head)], head
        self._is_start = False
        return "", []

    def _in_text(self, *, is_last: bool) -> tuple[str, list[WrittenCall]] | None:
        """Pass text on up to the next call; None where it may go on."""
        start = self._held.find(OPENING)
        if start < 0:
            keep = 0 if is_last else _beginning_of_mark(self._held)
            cut = len(self._held) - keep
            shown, self._held = self._held[:cut], self._held[cut:]
            return (shown, []) if shown else None
        if start > 0:
            shown, self._held = self._held[:start], self._held[start:]
            return shown, []
        end = self._held.find(CLOSING)
        if end < 0 and not is_last:
            return None
        body, rest = (self._held, "") if end < 0 else (self._held[:end], self._held[end + len(CLOSING) :])
        calls = self._calls_in(body.removeprefix(OPENING))
        if not calls:
            shown = self._before + self._held[: len(self._held) - len(rest)]
            self._before, self._held = "", rest
            return shown, []
        self._before = ""
        self._held, self._is_start, self._has_calls = rest, True, True
        return "", calls

    def _calls_in(self, text: str) -> list[WrittenCall]:
        try:
            return self._calls_of(json.loads(text))
        except (ValueError, RecursionError):
            return []

    def _calls_of(self, value: Any) -> list[WrittenCall]:
        """Return the calls of a JSON value; none if any part of it is not one."""
        items = value if isinstance(value, list) else [value]
        calls = [self._call_of(item) for item in items]
        return [] if None in calls else [call for call in calls if call is not None]

    def _call_of(self, item: Any) -> WrittenCall | None:
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str) or name not in self._names:
            return None
        arguments = item.get("arguments", item.get("parameters", {}))
        if not isinstance(arguments, dict):
            return None
        return WrittenCall(name, json.dumps(arguments, ensure_ascii=False))


def _beginning_of_mark(text: str) -> int:
    """Return the length of the longest end of a text with which a call may begin."""
    lengths = range(min(len(text), len(OPENING) - 1), 0, -1)
    return next((length for length in lengths if text.endswith(OPENING[:length])), 0)

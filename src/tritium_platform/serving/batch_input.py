"""The input file of a batch: one request per line, checked line by line before any of them runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tritium_platform.serving.batch import InputLine, InputProblem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tritium_platform.serving.batch import BatchEndpoint

MAX_LINES = 50_000
# As long as the body of a request of its own may be.
LONGEST_LINE = 4_000_000
LONGEST_CUSTOM_ID = 512
# Who has this many mistakes has made one mistake this often.
MAX_PROBLEMS = 50


def check_input(path: Path, *, endpoint: BatchEndpoint) -> tuple[int, tuple[InputProblem, ...]]:
    """Return how many requests an input file holds, and what is wrong with it (the first of many problems).

    Whether a body is one its endpoint takes shows when it runs: then that line fails, and no other.
    """
    problems: list[InputProblem] = []
    seen: set[str] = set()
    total = 0
    for line in _read(path, endpoint=endpoint):
        total += 1
        if total > MAX_LINES:
            message = f"The file holds more than {MAX_LINES} requests: split it."
            return total, (InputProblem(code="too_many_requests", message=message),)
        if isinstance(line, InputProblem):
            problems.append(line)
        elif line.custom_id in seen:
            problems.append(_problem("duplicate_custom_id", line.number, "custom_id", "was there before."))
        else:
            seen.add(line.custom_id)
        if len(problems) >= MAX_PROBLEMS:
            break
    if not total:
        problems.append(InputProblem(code="empty_file", message="The file holds no request."))
    return total, tuple(problems)


def read_input(path: Path, *, endpoint: BatchEndpoint) -> Iterator[InputLine]:
    """Yield the requests of a file that was checked before; what is not one of them any more is left out."""
    return (line for line in _read(path, endpoint=endpoint) if isinstance(line, InputLine))


def _read(path: Path, *, endpoint: BatchEndpoint) -> Iterator[InputLine | InputProblem]:
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(LONGEST_LINE + 1):
            number += 1
            if len(raw) > LONGEST_LINE:
                yield _problem("line_too_long", number, None, f"is longer than {LONGEST_LINE} bytes.")
                return  # where the next line begins is not looked for
            if not raw.isspace():
                yield _parse(raw, number=number, endpoint=endpoint)


def _parse(raw: bytes, *, number: int, endpoint: BatchEndpoint) -> InputLine | InputProblem:
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):  # no UTF-8, no JSON, a number too long to be read, nested too deep
        return _problem("invalid_json_line", number, None, "is not valid JSON in UTF-8.")
    if not isinstance(value, dict):
        return _problem("invalid_json_line", number, None, "is not a JSON object.")
    return _check(value, number=number, endpoint=endpoint)


def _check(value: dict[str, Any], *, number: int, endpoint: BatchEndpoint) -> InputLine | InputProblem:
    for name in ("custom_id", "method", "url", "body"):
        if value.get(name) is None:
            return _problem("missing_required_parameter", number, name, "is missing.")
    for name in value:
        if name not in ("custom_id", "method", "url", "body"):
            # As it is escaped: half a character pair could not be sent.
            return _problem("unknown_parameter", number, ascii(name[:64])[1:-1], "is not known.")
    custom_id, body = value["custom_id"], value["body"]
    is_named = isinstance(custom_id, str) and 0 < len(custom_id) <= LONGEST_CUSTOM_ID
    for name, is_right, wanted in (
        ("custom_id", is_named, f"must be a text of 1 to {LONGEST_CUSTOM_ID} characters."),
        ("method", value["method"] == "POST", "must be POST."),
        ("url", value["url"] == endpoint.value, f"must be {endpoint.value}, the batch's endpoint."),
        ("body", isinstance(body, dict), "must be a JSON object."),
    ):
        if not is_right:
            return _problem(f"invalid_{name}", number, name, wanted)
    return InputLine(number=number, custom_id=custom_id, body=body)


def _problem(code: str, number: int, param: str | None, what: str) -> InputProblem:
    subject = f"Line {number}: {param}" if param else f"Line {number}"
    return InputProblem(code=code, message=f"{subject} {what}", line=number, param=param)


def _refuse_constant(name: str) -> None:
    raise ValueError(name)

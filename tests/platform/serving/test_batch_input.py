"""What an input file may hold, and how what it may not is named."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium_platform.serving import batch_input
from tritium_platform.serving.batch import BatchEndpoint
from tritium_platform.serving.batch_input import check_input, read_input

ENDPOINT = BatchEndpoint.COMPLETIONS
RIGHT = {"custom_id": "a", "method": "POST", "url": ENDPOINT.value, "body": {"model": "m"}}


def written(path, *lines):
    file = path / "input.jsonl"
    file.write_bytes(
        b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
    )
    return file


def problems_of(path, *lines):
    _, problems = check_input(written(path, *lines), endpoint=ENDPOINT)
    return [(problem.line, problem.code, problem.param) for problem in problems]


@pytest.mark.parametrize(
    "raw",
    [
        b"{\n",
        b"[1]\n",
        b"null\n",
        b"\xff\xfe\n",
        b'{"custom_id": NaN}\n',
        b"[" * 100_000 + b"\n",
        b"1" * 5_000 + b"\n",
        "﻿{}\n".encode("utf-16"),
    ],
)
def test_what_is_no_json_object_is_named_by_its_line(tmp_path, raw):
    assert problems_of(tmp_path, RIGHT, raw)[0] == (2, "invalid_json_line", None)


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"custom_id": None}, "missing_required_parameter", "custom_id"),
        ({"custom_id": ""}, "invalid_custom_id", "custom_id"),
        ({"custom_id": 7}, "invalid_custom_id", "custom_id"),
        ({"custom_id": "x" * 513}, "invalid_custom_id", "custom_id"),
        ({"method": "post"}, "invalid_method", "method"),
        ({"url": "/v1/chat/completions"}, "invalid_url", "url"),
        ({"url": ["/v1/completions"]}, "invalid_url", "url"),
        ({"body": "text"}, "invalid_body", "body"),
        ({"body": None}, "missing_required_parameter", "body"),
        ({"headers": {}}, "unknown_parameter", "headers"),
        ({"\ud800": 1}, "unknown_parameter", "\\ud800"),
    ],
)
def test_what_a_line_must_not_say_is_named_by_line_and_parameter(tmp_path, change, code, param):
    assert problems_of(tmp_path, {**RIGHT, **change}) == [(1, code, param)]


def test_empty_lines_are_counted_and_mean_nothing(tmp_path):
    file = written(tmp_path, b"\n", RIGHT, b"   \n", {**RIGHT, "custom_id": "b"}, b"\n")
    assert check_input(file, endpoint=ENDPOINT) == (2, ())
    assert [(line.number, line.custom_id) for line in read_input(file, endpoint=ENDPOINT)] == [
        (2, "a"),
        (4, "b"),
    ]


@pytest.mark.parametrize("content", [b"\n", b" \n\n"])
def test_a_file_without_a_request_is_refused(tmp_path, content):
    assert problems_of(tmp_path, content) == [(None, "empty_file", None)]


def test_bounds_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_input, "MAX_LINES", 3)
    lines = [{**RIGHT, "custom_id": str(number)} for number in range(4)]
    assert problems_of(tmp_path, *lines[:3]) == []
    assert problems_of(tmp_path, *lines) == [(None, "too_many_requests", None)]
    monkeypatch.setattr(batch_input, "LONGEST_LINE", 200)
    assert problems_of(tmp_path, RIGHT, {**RIGHT, "body": {"prompt": "x" * 200}}) == [
        (2, "line_too_long", None)
    ]
    monkeypatch.setattr(batch_input, "MAX_PROBLEMS", 2)
    assert len(problems_of(tmp_path, b"{\n", b"{\n", b"{\n")) == 2


def test_a_repeated_custom_id_is_named_where_it_is_repeated(tmp_path):
    assert problems_of(tmp_path, RIGHT, RIGHT, RIGHT) == [
        (2, "duplicate_custom_id", "custom_id"),
        (3, "duplicate_custom_id", "custom_id"),
    ]


@given(content=st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
def test_any_bytes_give_problems_or_requests_and_never_an_exception(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("any") / "input.jsonl"
    file.write_bytes(content)
    total, problems = check_input(file, endpoint=ENDPOINT)
    assert problems or total == len(list(read_input(file, endpoint=ENDPOINT)))

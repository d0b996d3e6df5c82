"""Requests that are wrong: each gets a clear answer, none a traceback, and the books stay straight."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def shop(running):
    """A tenant with a deployed model: (key, model name)."""
    _, key = running.tenant()
    return key, running.deploy(key)


def completion(running, key, content, **headers):
    with running.http(key) as http:
        return http.post(
            "/v1/completions", content=content, headers={"content-type": "application/json", **headers}
        )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b'{"model": "\xff\xfe", "prompt": "a"}',
        b'{"model": "m", "prompt": "\\ud800"',
        b"\x00" * 100,
        b'{"model": NaN, "prompt": "a"}',
        b'{"model": 7, "prompt": "a"}',
        b'{"model": "m", "prompt": {"a": 1}}',
        b'{"model": "m", "prompt": "a", "max_tokens": "many"}',
        b'{"model": "m", "prompt": "a", "max_tokens": 0}',
        b'{"model": "m", "prompt": "a", "max_tokens": -1}',
        b'{"model": "m", "prompt": "a", "max_tokens": true}',
        b'{"model": "m", "prompt": "a", "temperature": 1e999}',
        b'{"model": "m", "prompt": "a", "temperature": 9}',
        b'{"model": "m", "prompt": "a", "stream": "yes"}',
        b'{"model": "m", "prompt": "a", "surprise": 1}',
        b"[" * 20000,
    ],
)
def test_a_wrong_body_is_400_in_openais_envelope(running, shop, content):
    answer = completion(running, shop[0], content)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert error["recovery"] == "fix_request"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", "a" * 200_000),
        ("prompt", []),
        ("prompt", [10**9]),
        ("prompt", [-1]),
        ("prompt", ""),
        ("max_tokens", 10**9),
        ("stop", ["a"] * 100),
        ("seed", 2**80),
        ("n", 100),
    ],
)
def test_values_out_of_range_are_refused_and_nothing_stays_reserved(running, shop, field, value):
    key, model = shop
    body = {"model": model, "prompt": "a", "max_tokens": 1, field: value}
    answer = completion(running, key, json.dumps(body).encode())
    assert answer.status_code == 400, answer.text
    with running.http(key) as http:
        assert http.get("/api/v1/account").json()["requests_this_month"]["held"] == 0
        # Refused before the work: nothing of it is a use, and nothing a failure of the service.
        assert "failed" not in {each["outcome"] for each in http.get("/api/v1/usage").json()["records"]}


def test_a_body_that_is_too_large_is_413_whether_or_not_it_says_so(running, shop):
    limit = running.platform.config.max_request_bytes
    answer = completion(running, shop[0], b"x" * (limit + 1))
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"

    def chunks():
        for _ in range(limit // 65536 + 2):
            yield b"x" * 65536

    answer = completion(running, shop[0], chunks())
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/v1/models", {"name": "m"}),
        ("POST", "/api/v1/models", {"name": "../x", "path": "/"}),
        ("POST", "/api/v1/models", {"name": "x", "path": "/etc"}),
        ("POST", "/api/v1/models", {"name": "x", "path": "a\x00b"}),
        ("POST", "/api/v1/models", {"name": "x", "path": "/proc/self/root"}),
        ("POST", "/api/v1/models", {"name": "x", "path": "x" * 4097}),
        ("POST", "/api/v1/models", {"name": 1, "path": "/"}),
        ("POST", "/api/v1/models", {"name": "x", "path": "/", "surprise": 1}),
        ("POST", "/api/v1/deployments", {"model": "x", "replicas": 0}),
        ("POST", "/api/v1/deployments", {"model": "x", "replicas": 1000}),
        ("POST", "/api/v1/deployments", {"model": "x", "replicas": True}),
        ("POST", "/api/v1/deployments", {"model": "x", "replicas": "2"}),
        ("GET", "/api/v1/usage?period=2026-13", None),
        ("GET", "/api/v1/usage?period=yesterday", None),
        ("GET", "/api/v1/usage?limit=0", None),
        ("GET", "/api/v1/usage?limit=99999999", None),
        ("GET", "/api/v1/usage?after=nobody", None),
        ("GET", "/api/v1/invoices/preview?period=0000-00", None),
        ("GET", "/api/v1/quantizations/not-a-uuid", None),
    ],
)
def test_wrong_management_requests_are_problems_that_name_the_field(running, shop, method, path, body):
    with running.http(shop[0]) as http:
        answer = http.request(method, path, json=body)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["recovery"] == "fix_request"
    assert problem["instance"].startswith("urn:tritium:request:")


def test_malformed_json_outside_of_v1_is_a_400_problem(running, shop):
    with running.http(shop[0]) as http:
        answer = http.post("/api/v1/models", content=b"{", headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["code"] == "invalid_json"


def test_addresses_and_methods_that_do_not_exist_are_answered_in_the_form_of_their_place(running, shop):
    with running.http(shop[0]) as http:
        assert http.get("/v1/nothing").json()["error"]["type"] == "invalid_request_error"
        assert http.get("/api/v1/nothing").json()["code"] == "not_found"
        wrong_method = http.delete("/api/v1/usage")
        assert wrong_method.status_code == 405
        assert wrong_method.json()["status"] == 405
        assert http.put("/v1/completions").status_code == 405


@pytest.mark.parametrize("header", [b"Basic abc", b"Bearer", b"Bearer \xff", b"Token x"])
def test_wrong_authorization_headers_are_401(running, header):
    with running.http("x") as http:
        assert http.get("/v1/models", headers=[(b"authorization", header)]).status_code == 401


def test_a_wild_request_id_is_replaced_and_a_sane_one_is_kept(running, shop):
    with running.http(shop[0]) as http:
        assert http.get("/v1/models", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
        wild = http.get("/v1/models", headers={"x-request-id": "a b<script>" + "x" * 500})
        assert "script" not in wild.headers["x-request-id"]


def test_two_clients_may_choose_the_same_request_id(running, shop):
    key, model = shop
    body = json.dumps({"model": model, "prompt": "a", "max_tokens": 1}).encode()
    for _ in range(2):
        answer = completion(running, key, body, **{"x-request-id": "same"})
        assert answer.status_code == 200


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    )
)
def test_no_json_document_at_all_makes_the_server_fail(running, shop, document):
    for body in (document, {"model": shop[1], "prompt": "a", "max_tokens": document}):
        answer = completion(running, shop[0], json.dumps(body).encode())
        assert answer.status_code in {200, 400}, answer.text

"""Requests generated from the OpenAPI document: none fails the server, all answers are documented."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks as openapi_checks

from tritium.protocol.schemas import LONGEST_MODEL_NAME

CHECKS = [
    not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.negative_data_rejection,
    openapi_checks.unsupported_method,
]
MODES = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]
FEW_TOKENS = 3
LIMITS = {
    "/v1/chat/completions": "max_tokens",
    "/v1/completions": "max_tokens",
    "/v1/responses": "max_output_tokens",
}


@pytest.fixture(scope="module")
def operations(base_url):
    document = schemathesis.openapi.from_url(f"{base_url}/openapi.json")
    return [found.ok() for found in document.get_all_operations()]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_any_request_gets_a_documented_answer(operations, mode):
    wrong = mode is schemathesis.GenerationMode.NEGATIVE
    asked = [each for each in operations if each.body or not wrong]  # what takes nothing takes nothing wrong
    for operation in asked:

        @given(operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=10,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        def ask(case):
            if isinstance(case.body, dict):
                # What reaches the model is short, for the time of the test.
                name = LIMITS.get(case.operation.path)
                asked_for = case.body.get(name)
                if name and (asked_for is None or (type(asked_for) is int and asked_for > FEW_TOKENS)):
                    case.body[name] = FEW_TOKENS
                # A name that is no name, being too short or too long, stays what it is.
                if (
                    isinstance(case.body.get("model"), str)
                    and 0 < len(case.body["model"]) <= LONGEST_MODEL_NAME
                ):
                    case.body["model"] = "scripture"
            answer = case.call_and_validate(headers={"authorization": "Bearer sk-local-test"}, checks=CHECKS)
            assert answer.headers["x-request-id"]

        ask()
    assert len(asked) >= (5 if wrong else 8)

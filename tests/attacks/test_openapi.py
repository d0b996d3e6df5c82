"""Requests generated from the OpenAPI document: none fails the platform, all answers are documented."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks as openapi_checks

from tritium.protocol.schemas import LONGEST_MODEL_NAME
from tritium_platform.api.middleware import NOTICE_BYTES

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
OF_THE_OPERATOR = (
    *("/api/v1/tenants", "/api/v1/security", "/api/v1/recommendations", "/api/v1/billing"),
    *("/api/v1/capacity", "/api/v1/fair-use"),
)


@pytest.fixture(scope="module")
def shop(running):
    """A tenant with a deployed model: (key, model name)."""
    _, key = running.tenant(requests_per_minute=10**6, tokens_per_minute=10**9)
    return key, running.deploy(key)


@pytest.fixture(scope="module")
def operations(running):
    document = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
    # An upload is an archive, which no generator writes: test_api_uploads.py has those.
    return [found.ok() for found in document.exclude(path="/api/v1/uploads").get_all_operations()]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_any_request_gets_a_documented_answer(running, shop, operations, mode):
    key, model = shop
    wrong = mode is schemathesis.GenerationMode.NEGATIVE
    asked = [each for each in operations if each.body or not wrong]  # what takes nothing takes nothing wrong
    for operation in asked:

        @given(operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=4,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        def ask(case):
            token = running.platform.admin_token if case.path.startswith(OF_THE_OPERATOR) else key
            if case.path.startswith("/v1/") and isinstance(case.body, dict):
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
                    case.body["model"] = model
            headers = {"authorization": f"Bearer {token}"}
            answer = case.call(headers=headers)
            # A generator may make a body of megabytes, and that check does not know 413 as a refusal.
            is_too_large = answer.status_code == 413 and len(answer.request.body or b"") > NOTICE_BYTES
            unknown = [openapi_checks.negative_data_rejection] if is_too_large else []
            case.validate_response(answer, checks=CHECKS, excluded_checks=unknown)
            assert answer.headers["x-request-id"]

        ask()
    assert len(asked) >= (11 if wrong else 35)

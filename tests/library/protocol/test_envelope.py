from __future__ import annotations

import pytest

from tritium import errors
from tritium.engine.request import ContextLengthExceededError, QueueFullError
from tritium.protocol.calls import ModelNotFoundError
from tritium.protocol.decoding import UnsupportedCodingError
from tritium.protocol.envelope import LIBRARY_RULES, ErrorRule, error_envelope
from tritium.protocol.schemas import InvalidJsonError, RequestTooLargeError, UnsupportedParameterError

TABLE = [
    (errors.AuthenticationError("m"), 401, "invalid_api_key", {"WWW-Authenticate": "Bearer"}),
    (errors.AuthorizationError("m"), 403, "authorization", {}),
    (errors.ComplianceError("m"), 403, "compliance", {}),
    (errors.ValidationError("m", param="p"), 400, "validation", {}),
    (ContextLengthExceededError("m", param="p"), 400, "context_length_exceeded", {}),
    (UnsupportedParameterError("m", param="p"), 400, "unsupported_parameter", {}),
    (InvalidJsonError("m"), 400, "invalid_json", {}),
    (ModelNotFoundError("m", param="p"), 404, "model_not_found", {}),
    (RequestTooLargeError("m"), 413, "request_too_large", {}),
    (UnsupportedCodingError("m"), 415, "unsupported_coding", {"Accept-Encoding": "gzip, zstd"}),
    (QueueFullError("m", retry_after=1.2), 429, "queue_full", {"Retry-After": "2"}),
    (errors.ResourceError("m"), 503, "resource", {"Retry-After": "1"}),
    (errors.InsufficientMemoryError("m"), 503, "insufficient_memory", {"Retry-After": "1"}),
    (errors.ProcessingError("m"), 500, "processing", {}),
    (errors.QuantizationError("m"), 500, "quantization", {}),
    (errors.PlatformError("m", retry_after=5), 503, "platform", {"Retry-After": "5"}),
    (errors.MissingExtraError(extra="hub", feature="m"), 501, "missing_extra", {}),
    (errors.BitNetServiceError("m"), 500, "bit_net_service", {}),
]


@pytest.mark.parametrize(
    ("error", "status", "code", "headers"), TABLE, ids=lambda value: type(value).__name__
)
def test_every_error_has_its_status_code_and_headers(error, status, code, headers):
    given_status, body, given_headers = error_envelope(error)
    assert (given_status, given_headers) == (status, headers)
    assert body["error"]["code"] == code
    assert body["error"]["message"] == error.message
    assert body["error"]["param"] == error.details.get("param")


def test_the_table_covers_the_whole_tree():
    def tree(root):
        return {root}.union(*map(tree, root.__subclasses__()))

    library = {kind for kind in tree(errors.BitNetServiceError) if kind.__module__ == "tritium.errors"}
    assert library <= {type(error) for error, *_ in TABLE}


def test_a_foreign_error_tells_nothing():
    status, body, _ = error_envelope(RuntimeError("password=hunter2"))
    assert status == 500
    assert "hunter2" not in str(body)


def test_rules_of_ones_own_go_before():
    class StorageFullError(errors.ResourceError):
        pass

    rules = {**LIBRARY_RULES, StorageFullError: ErrorRule(507, "storage_error")}
    assert error_envelope(StorageFullError("m"))[0] == 503
    status, body, headers = error_envelope(StorageFullError("m"), rules=rules)
    assert (status, body["error"]["type"], body["error"]["code"]) == (507, "storage_error", "storage_full")
    assert headers == {}

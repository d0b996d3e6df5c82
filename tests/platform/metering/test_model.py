"""Usage records: whole numbers, and a body that is the same only if everything is."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from tritium_platform.errors import ValidationError
from tritium_platform.metering.model import (
    Meter,
    OperationType,
    Report,
    ResourceUsage,
    UsageQuantities,
    UsageRecord,
    key_prefix,
    unique_key,
)
from tritium_platform.tenancy.model import TenantTier

RECORD = UsageRecord(
    id=UUID(int=1),
    tenant_id=UUID(int=2),
    source="gateway",
    event_id="request-1",
    operation=OperationType.EMBEDDING,
    tier=TenantTier.TEAM,
    outcome="success",
    occurred_at=datetime(2026, 11, 23, 12, tzinfo=UTC),
    quantities=UsageQuantities(embedding_tokens=5),
    resources=ResourceUsage(compute_time_ms=7, memory_peak_bytes=9),
    model="minilm",
    key_id="abcDEF012345",
)
CHANGES = {
    "tenant_id": UUID(int=3),
    "source": "worker",
    "event_id": "request-2",
    "operation": OperationType.CHAT,
    "tier": TenantTier.BUSINESS,
    "outcome": "failed",
    "occurred_at": RECORD.occurred_at + timedelta(microseconds=1),
    "quantities": UsageQuantities(embedding_tokens=6),
    "resources": ResourceUsage(compute_time_ms=7, memory_peak_bytes=10),
    "model": "",
    "key_id": None,
}


def test_a_record_says_every_meter() -> None:
    assert RECORD.metered() == {
        Meter.INPUT_TOKENS: 0,
        Meter.OUTPUT_TOKENS: 0,
        Meter.EMBEDDING_TOKENS: 5,
        Meter.QUANTIZED_PARAMETERS: 0,
        Meter.COMPUTE_MS: 7,
    }


@pytest.mark.parametrize("name", CHANGES)
def test_any_change_of_the_body_shows_in_its_digest(name: str) -> None:
    assert replace(RECORD, **{name: CHANGES[name]}).body_sha256() != RECORD.body_sha256()


TEXTS = st.text(st.characters(codec=None, exclude_categories=()), min_size=1, max_size=30)


@given(source=TEXTS, event_id=TEXTS, model=TEXTS, key_id=st.none() | TEXTS, tokens=st.integers(0, 2**63 - 1))
def test_a_digest_is_that_of_the_sorted_json_of_the_standard_library(
    source: str, event_id: str, model: str, key_id: str | None, tokens: int
) -> None:
    quantities = UsageQuantities(input_tokens=tokens)
    record = replace(
        RECORD, source=source, event_id=event_id, model=model, key_id=key_id, quantities=quantities
    )
    body = {
        **{name: getattr(record, name) for name in ("source", "event_id", "outcome", "model", "key_id")},
        "tenant_id": str(record.tenant_id),
        "operation": record.operation.value,
        "tier": record.tier.value,
        "occurred_at": record.occurred_at.isoformat(),
        "quantities": asdict(quantities),
        "resources": asdict(record.resources),
    }
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert record.body_sha256() == hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def test_the_id_and_the_time_zone_are_not_part_of_the_body() -> None:
    elsewhere = RECORD.occurred_at.astimezone(timezone(timedelta(hours=5)))
    assert replace(RECORD, id=UUID(int=9), occurred_at=elsewhere).body_sha256() == RECORD.body_sha256()


def test_only_the_id_is_not_part_of_the_body_and_a_report_brings_its_own() -> None:
    assert set(CHANGES) | {"id", "report"} == set(UsageRecord.__struct_fields__)
    report = Report(dimensions={}, received_at=RECORD.occurred_at, body_sha256=b"what its sender said")
    assert replace(RECORD, report=report, **CHANGES).body_sha256() == b"what its sender said"


@given(
    st.integers(0, 2**48 - 1),
    st.integers(0, 2**48 - 1),
    st.binary(min_size=10, max_size=10),
    st.text(max_size=9),
)
def test_keys_of_ids_with_a_time_are_in_its_order(one: int, other: int, rest: bytes, behind: str) -> None:
    moments = sorted((one, other))
    ids = [UUID(bytes=moment.to_bytes(6) + b"\x7f\xff" + rest[2:]) for moment in moments]
    keys = [replace(RECORD, event_id=f"{each}{behind}").unique_key() for each in ids]
    assert [key[:6] for key in keys] == [moment.to_bytes(6) for moment in moments]
    assert all(len(key) == 16 for key in keys)


@given(
    st.lists(
        st.tuples(st.integers(1, 2), st.sampled_from("ab"), st.text("\x00a7-f", max_size=3)), unique=True
    )
)
@pytest.mark.parametrize("begin", ["", "019ad3c0-ffee-7abc-", "019ad3c0-ffee-4abc-"])
def test_no_two_uses_have_one_key(begin: str, uses: list[tuple[int, str, str]]) -> None:
    keys = {
        unique_key(key_prefix(tenant_id=UUID(int=tenant), source=source), f"{begin}{event_id}")
        for tenant, source, event_id in uses
    }
    assert len(keys) == len(uses)


@pytest.mark.parametrize("wrong", [-1, 1.5, True, 2**63, "3", None])
def test_quantities_are_whole_numbers_that_a_database_can_hold(wrong: object) -> None:
    with pytest.raises(ValidationError):
        UsageQuantities(input_tokens=wrong)
    with pytest.raises(ValidationError):
        ResourceUsage(compute_time_ms=wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"event_id": ""}, {"source": "x" * 201}, {"outcome": ""}, {"occurred_at": datetime(2026, 1, 1)}],  # noqa: DTZ001 - the naive time is the point
)
def test_a_record_without_its_key_or_zone_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        replace(RECORD, **wrong)

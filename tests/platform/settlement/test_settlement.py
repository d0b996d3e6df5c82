"""Settlements: what the audit log could not say is refused at once, the rest is read as it was written."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tritium_platform.adapters.settlement_codec import decode_settlements, encode_settlements
from tritium_platform.audit.model import (
    MAX_EXACT_INTEGER,
    ActionOutcome,
    AuditLogEntry,
    ResourceIdentifier,
    leaf_data,
)
from tritium_platform.errors import PlatformError, ValidationError
from tritium_platform.insight.health import OutcomeKind
from tritium_platform.metering.model import OperationType, ResourceUsage, UsageQuantities, UsageRecord
from tritium_platform.settlement import PLAINLY_SHORT, Settlement
from tritium_platform.tenancy.model import TenantTier

NOW = datetime(2026, 11, 30, 12, 1, 2, 345678, tzinfo=UTC)
SETTLEMENT = Settlement(
    record=UsageRecord(
        id=UUID(int=1),
        tenant_id=UUID(int=2),
        source="gateway",
        event_id=UUID(int=3).hex,
        operation=OperationType.CHAT,
        tier=TenantTier.TEAM,
        outcome="failed",
        occurred_at=NOW,
        quantities=UsageQuantities(input_tokens=4, output_tokens=5),
        resources=ResourceUsage(compute_time_ms=6),
        model="m",
        key_id="abcDEF012345",
    ),
    event_id=UUID(int=3),
    subject=ResourceIdentifier("deployment", "d"),
    request_id="r",
    cost="1/3",
    code="engine_failed",
    kind=OutcomeKind.FAILED,
    latency_bucket=7,
    reservation_id=UUID(int=8),
    is_leased=True,
    requests=1,
)
ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=40)
TEXTS = ANY_TEXT | st.builds("{}{}".format, st.sampled_from(["\x01" * 4000, "x" * 70_000]), ANY_TEXT)
QUANTITIES = st.integers(0, 2**63 - 1)


def logged(settlement: Settlement) -> bytes:
    """The leaf of a settlement's line at its longest."""
    intent = settlement.intent()
    fields = {name: getattr(intent, name) for name in type(intent).__slots__}
    entry = AuditLogEntry(**fields, tenant_seq=MAX_EXACT_INTEGER, timestamp=NOW, digital_signature="s" * 88)
    return leaf_data(entry)


@given(request_id=TEXTS, code=st.none() | TEXTS, model=TEXTS, tokens=QUANTITIES, milliseconds=QUANTITIES)
def test_what_is_taken_can_be_logged_and_what_is_refused_could_not(
    request_id: str, code: str | None, model: str, tokens: int, milliseconds: int
) -> None:
    record = replace(
        SETTLEMENT.record,
        model=model,
        quantities=UsageQuantities(output_tokens=tokens),
        resources=ResourceUsage(compute_time_ms=milliseconds),
    )
    changes = {"record": record, "request_id": request_id, "code": code}
    try:
        settlement = replace(SETTLEMENT, **changes)
    except ValidationError:
        texts = f"{request_id}{code}{model}"
        is_exact = max(tokens, milliseconds) <= MAX_EXACT_INTEGER
        assert not (is_exact and texts.isascii() and len(texts) < PLAINLY_SHORT - 100)
        return
    assert logged(settlement)
    assert decode_settlements(encode_settlements([settlement])) == [settlement]


def test_the_longest_that_is_not_looked_at_twice_fits_into_a_line() -> None:
    """A control character is six in JSON."""
    rest = len("deploymentd1/3engine_failedfailedmabcDEF012345")
    settlement = replace(SETTLEMENT, request_id="\x01" * (PLAINLY_SHORT - rest))
    assert settlement._is_plain()
    assert not replace(SETTLEMENT, request_id=settlement.request_id + "x")._is_plain()
    assert len(logged(settlement)) > 6 * (PLAINLY_SHORT - rest)


def test_the_line_of_the_log_says_what_the_record_does_not() -> None:
    intent = SETTLEMENT.intent()
    assert (intent.action, intent.outcome) == ("chat.fail", ActionOutcome.FAILURE)
    assert (intent.id, intent.event_id, intent.occurred_at) == (UUID(int=1), UUID(int=3), NOW)
    assert intent.details == {
        "request_id": "r",
        "ended": "failed",
        "model": "m",
        "input_tokens": 4,
        "output_tokens": 5,
        "embedding_tokens": 0,
        "compute_ms": 6,
        "cost": "1/3",
        "code": "engine_failed",
    }


@pytest.mark.parametrize("code", [None, "engine_failed"])
def test_what_a_spool_kept_before_is_read_as_what_it_keeps_now(code: str | None) -> None:
    settlement = replace(SETTLEMENT, code=code)
    ends = ("kind", "latency_bucket", "reservation_id", "is_leased", "requests")
    before = {
        "record": settlement.record,
        "intent": settlement.intent(),
        **{name: getattr(settlement, name) for name in ends},
    }
    frame = msgspec.msgpack.Encoder(uuid_format="bytes").encode([before, before])
    assert decode_settlements(frame) == [settlement, settlement]


@pytest.mark.parametrize("place", range(0, 500, 7))
def test_a_frame_that_is_something_else_is_not_read_as_if_it_were_right(place: int) -> None:
    data = bytearray(encode_settlements([SETTLEMENT]))
    data[place] ^= 0x80
    with contextlib.suppress(PlatformError):
        assert decode_settlements(bytes(data)) != [SETTLEMENT]

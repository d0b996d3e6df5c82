from __future__ import annotations

import dataclasses
import hashlib
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from tritium_platform.audit.model import (
    MAX_LEAF_BYTES,
    ActionOutcome,
    AuditIntent,
    AuditLogEntry,
    ComplianceImpact,
    ResourceIdentifier,
    canonical_json,
    entry_from_dict,
    entry_to_dict,
    intent_from_dict,
    intent_to_dict,
    leaf_data,
    payload_digest,
    size_bound,
)
from tritium_platform.errors import ValidationError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
DETAIL = st.one_of(TEXT, st.integers(-(2**53) + 1, 2**53 - 1), st.booleans(), st.none())
INTENTS = st.builds(
    AuditIntent,
    id=st.uuids(),
    event_id=st.uuids(),
    occurred_at=st.datetimes(datetime(1970, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - zone is added
    action=st.from_regex(r"[a-z]{1,8}\.[a-z]{1,8}", fullmatch=True),
    resource_affected=st.builds(ResourceIdentifier, TEXT, TEXT),
    outcome=st.sampled_from(ActionOutcome),
    tenant_id=st.none() | st.uuids(),
    user_id=st.none() | st.uuids(),
    key_id=st.none() | TEXT,
    compliance_impact=st.sampled_from(ComplianceImpact),
    details=st.dictionaries(TEXT, DETAIL, max_size=5),
)


ANY_TEXT = st.text(max_size=12)  # lone surrogates, too
ANY = st.recursive(
    st.one_of(ANY_TEXT, st.integers(-(2**54), 2**54), st.booleans(), st.none(), st.floats()),
    lambda inner: st.dictionaries(ANY_TEXT, inner, max_size=4) | st.lists(inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(ANY_TEXT, ANY, max_size=6))
def test_canonical_json_is_rfc_8785_to_the_byte_and_refuses_what_has_no_such_form(value):
    try:
        expected = rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, ValueError):
        with pytest.raises(ValidationError):
            canonical_json(value)
    else:
        assert canonical_json(value) == expected


@given(INTENTS)
def test_an_intent_survives_its_plain_form(intent):
    assert intent_from_dict(intent_to_dict(intent)) == intent


@given(INTENTS, st.integers(0, 2**40))
def test_an_entry_survives_its_plain_form_and_fits_where_the_intent_fitted(intent, number):
    fields = {field.name: getattr(intent, field.name) for field in dataclasses.fields(AuditIntent)}
    entry = AuditLogEntry(
        **fields, tenant_seq=number, timestamp=intent.occurred_at, digital_signature="A" * 88
    )
    assert entry_from_dict(entry_to_dict(entry)) == entry
    assert len(leaf_data(entry)) - len(canonical_json(intent_to_dict(intent))) <= 512


def simple_intent(**changes):
    values = {
        "id": UUID(int=1),
        "event_id": UUID(int=2),
        "occurred_at": datetime(2026, 1, 1, tzinfo=UTC),
        "action": "tenant.create",
        "resource_affected": ResourceIdentifier("tenant", "1"),
        "outcome": ActionOutcome.SUCCESS,
    }
    return AuditIntent(**values | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"occurred_at": datetime(2026, 1, 1)}, "time zone"),  # noqa: DTZ001 - that is the point
        ({"action": "Create"}, "noun.verb"),
        ({"details": {"ratio": 0.5}}, "ratio"),
        ({"details": {"big": 2**53}}, "big"),
        ({"details": {"nested": {}}}, "nested"),
        ({"details": {"bad": "\ud800"}}, "canonical"),
        ({"details": {"payload": "x" * MAX_LEAF_BYTES}}, "digest"),
    ],
)
def test_what_a_leaf_cannot_carry_is_refused_at_its_author(changes, message):
    with pytest.raises(ValidationError, match=message):
        simple_intent(**changes)


def test_a_big_payload_goes_in_by_its_digest():
    payload = b"x" * 100_000
    intent = simple_intent(details=payload_digest(payload))
    assert intent.details["payload_sha256"] == hashlib.sha256(payload).hexdigest()


def test_times_are_written_in_utc():
    east = simple_intent(occurred_at=datetime(2026, 1, 1, 5, tzinfo=timezone(timedelta(hours=5))))
    assert intent_to_dict(east)["occurred_at"] == "2026-01-01T00:00:00.000000Z"


@pytest.mark.parametrize("field", ["id", "occurred_at", "resource_affected", "outcome", "details"])
def test_a_damaged_intent_is_refused(field):
    plain = intent_to_dict(simple_intent())
    with pytest.raises(ValidationError):
        intent_from_dict({name: value for name, value in plain.items() if name != field})
    with pytest.raises(ValidationError):
        intent_from_dict(plain | {field: "nonsense"})


ASCII = st.text(st.characters(max_codepoint=127), max_size=40)


@given(
    INTENTS, ASCII, ASCII, st.dictionaries(ASCII, ASCII | st.integers(-(2**53) + 1, 2**53 - 1), max_size=8)
)
def test_no_canonical_form_is_larger_than_its_bound(intent, kind, name, details):
    for each in (
        intent,
        dataclasses.replace(intent, resource_affected=ResourceIdentifier(kind, name), details=details),
    ):
        bound = size_bound(each)
        assert bound is None or len(canonical_json(intent_to_dict(each))) <= bound
    is_ascii = "".join((intent.action, intent.key_id or "")).isascii()
    assert (bound is not None) == is_ascii

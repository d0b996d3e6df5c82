"""What makes an event the same one for ever."""

from __future__ import annotations

import hashlib
import json
import uuid
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from tritium_platform.errors import BitNetServiceError
from tritium_platform.metering.event import ReportedEvent, Sender, accept_events, body_sha256
from tritium_platform.metering.model import Meter
from tritium_platform.tenancy.model import TenantTier

TENANT = uuid.UUID("01997f3e-0000-7000-8000-000000000001")
NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
EVENTS = st.builds(
    ReportedEvent,
    source=TEXT,
    id=TEXT,
    meter=st.sampled_from([*Meter]).map(str),
    quantity=st.integers(0, 10**12),
    event_time=st.datetimes(datetime(2000, 1, 2), datetime(2026, 11, 28), timezones=ZONES),  # noqa: DTZ001
    dimensions=st.dictionaries(TEXT, TEXT, max_size=4),
)


def slow_digest(event):
    """The same digest by the standard library, from the words of its description."""
    moment = event.event_time.astimezone(UTC)
    body = [
        str(TENANT),
        event.source,
        event.id,
        event.meter,
        event.quantity,
        moment.isoformat().replace("+00:00", "Z"),
        {name: event.dimensions[name] for name in sorted(event.dimensions)},
    ]
    return hashlib.sha256(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()).digest()


@given(EVENTS)
def test_the_digest_is_that_of_the_standard_library_for_what_can_be_accepted(event):
    (judged,) = accept_events(
        [event], sender=Sender(tiers={TENANT: TenantTier.TEAM}, tenant_id=TENANT), now=NOW
    )
    if not isinstance(judged, BitNetServiceError):
        assert judged.body_sha256 == slow_digest(event)
        assert judged.event_time == event.event_time
        assert judged.event_time.utcoffset() == timedelta()


def test_the_digest_of_today_is_the_digest_for_ever():
    event = ReportedEvent(
        source="https://example.com/7",
        id='größte-✓ "1"\\',
        meter="output_tokens",
        quantity=10**12,
        event_time=datetime(2026, 11, 29, 12, 0, 0, 120, tzinfo=UTC),
        dimensions={"model": "llama", "device": "cpu", "a/b": "c"},
    )
    known = "62830fc8b19f25d036e50ac654e9e3f60c3513bb982ae9db3b19c2bb33150473"
    assert (
        body_sha256(event, tenant_id=TENANT, moment=event.event_time).hex()
        == known
        == slow_digest(event).hex()
    )


FEW = st.builds(
    ReportedEvent,
    source=st.sampled_from(["a", "b", "gateway", ""]),
    id=st.sampled_from(["1", "\n"]),
    meter=st.sampled_from(["output_tokens", "compute_ms", "seconds"]),
    quantity=st.sampled_from([-1, 7, 10**12 + 1]),
    event_time=st.sampled_from([NOW, NOW.astimezone(), NOW.replace(tzinfo=None), NOW + timedelta(days=1)]),
    tenant_id=st.sampled_from([None, TENANT, uuid.UUID(int=1)]),
    dimensions=st.dictionaries(st.sampled_from(["model", "tier"]), st.sampled_from(["m", "team", ""])),
)


@given(st.lists(FEW, max_size=30), st.sampled_from([None, TENANT]))
def test_events_are_judged_together_as_each_by_itself(events, tenant_id):
    sender = Sender(tiers={TENANT: TenantTier.DEVELOPER}, tenant_id=tenant_id, key_id="key")
    together = accept_events(events, sender=sender, now=NOW)
    alone = [each for event in events for each in accept_events([event], sender=sender, now=NOW)]
    assert [told(each) for each in together] == [told(each) for each in alone]


def told(judged):
    """Return all that an outcome says."""
    if isinstance(judged, BitNetServiceError):
        return type(judged), str(judged), judged.details
    return judged.record(TENANT)

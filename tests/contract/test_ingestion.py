"""What taking in events promises: once for ever, in groups, and nothing acknowledged that is not durable."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tritium_platform.adapters.ingestion_trail import AuditedIngestion
from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.sql.database import Database
from tritium_platform.errors import BitNetServiceError, ConflictError, OverloadedError
from tritium_platform.metering import event_writer
from tritium_platform.metering import ingestion as ingestion_module
from tritium_platform.metering.event import ReportedEvent, Sender, UsageEvent, accept_events
from tritium_platform.metering.event_writer import EventWriter, Ingested
from tritium_platform.metering.ingestion import Ingestion
from tritium_platform.metering.model import Meter, UsageTotal
from tritium_platform.metering.service import MeteringService
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from conftest import Books

    from tritium_platform.metering.event_writer import Outcome

ACCEPTED, DUPLICATE = Ingested.ACCEPTED, Ingested.DUPLICATE


class CountingTrail:
    """Counts the groups, and can fail as a database that goes away does."""

    def __init__(self) -> None:
        self.groups: list[dict[Any, int]] = []
        self.failures: list[Exception] = []

    async def note(self, accepted: Any) -> None:
        self.groups.append(dict(accepted))
        if self.failures:
            raise self.failures.pop(0)


@pytest.fixture
def trail() -> CountingTrail:
    return CountingTrail()


@pytest.fixture
def ingestion(books: Books, clock: ManualClock, trail: CountingTrail) -> Ingestion:
    return ingestion_over(books, clock, trail)


def ingestion_over(books: Books, clock: ManualClock, trail: Any) -> Ingestion:
    writer = EventWriter(store=books.events, trail=trail, unit_of_work=books.unit_of_work, clock=clock)
    return Ingestion(writer=writer, clock=clock)


def sender_of(*tenants: UUID) -> Sender:
    return Sender(tiers=dict.fromkeys(tenants, TenantTier.TEAM))


def an_event(clock: ManualClock, tenant_id: UUID, **changes: Any) -> ReportedEvent:
    fields = {
        "source": "engine-7",
        "id": "1",
        "meter": "output_tokens",
        "quantity": 7,
        "event_time": clock.now(),
        "tenant_id": tenant_id,
        "dimensions": {"model": "größte-✓", "device": 'c"p\\u', "region": "{eu},null"},
    }
    return ReportedEvent(**{**fields, **changes})


def named(outcomes: Sequence[Outcome]) -> list[str]:
    return [each.code if isinstance(each, BitNetServiceError) else each.value for each in outcomes]


async def all_of(books: Books, clock: ManualClock, tenant_id: UUID) -> list[Any]:
    month = CalendarMonth.of(clock.now())
    return list(await books.usage.list(tenant_id, start=month.start, end=month.end, limit=1000))


@pytest.mark.parametrize("meter", Meter)
async def test_an_event_comes_back_as_a_use(
    books: Books, clock: ManualClock, ingestion: Ingestion, meter: Meter
) -> None:
    tenant_id = uuid7(clock)
    sender = Sender(tiers={tenant_id: TenantTier.BUSINESS}, tenant_id=tenant_id, key_id="abcDEF012345")
    reported = an_event(clock, tenant_id, meter=meter.value, quantity=10**12)
    assert await ingestion.ingest([reported], sender=sender) == [ACCEPTED]
    (event,) = accept_events([reported], sender=sender, now=clock.now())
    assert not isinstance(event, BitNetServiceError)
    (found,) = await all_of(books, clock, tenant_id)
    assert found == event.record(found.id)
    assert {each: count for each, count in found.metered().items() if count} == {meter: 10**12}
    assert (found.model, found.device) == ("größte-✓", 'c"p\\u')
    assert found.report.dimensions == reported.dimensions
    assert found.body_sha256() == event.body_sha256


async def test_the_same_event_counts_once_for_ever_and_another_one_is_a_conflict(
    books: Books, clock: ManualClock, ingestion: Ingestion
) -> None:
    tenant_id = uuid7(clock)
    event, sender = an_event(clock, tenant_id), sender_of(tenant_id)
    assert await ingestion.ingest([event], sender=sender) == [ACCEPTED]
    clock.advance(seconds=86_400 * 400)
    assert await ingestion.ingest([event], sender=sender) == [DUPLICATE]
    # The same moment in another time zone and a tier that has changed are no other event.
    dearer = Sender(tiers={tenant_id: TenantTier.BUSINESS}, key_id="another")
    for changes, expected in (
        ({"event_time": event.event_time.astimezone()}, DUPLICATE),
        ({"quantity": 8}, ConflictError),
        ({"meter": "input_tokens"}, ConflictError),
        ({"event_time": event.event_time + timedelta(microseconds=1)}, ConflictError),
        ({"dimensions": {}}, ConflictError),
        ({"dimensions": event.dimensions | {"model": "another"}}, ConflictError),
        ({"id": "2"}, ACCEPTED),
        ({"source": "engine-8"}, ACCEPTED),
    ):
        (outcome,) = await ingestion.ingest(
            [an_event(clock, tenant_id, **{"event_time": event.event_time} | changes)], sender=dearer
        )
        assert outcome == expected or isinstance(outcome, expected), changes
    total = await books.usage.totals(
        tenant_id, start=event.event_time, end=event.event_time + timedelta(seconds=1)
    )
    assert sum(each.quantity for each in total) == 7 * 3


async def test_tenants_do_not_share_ids(books: Books, clock: ManualClock, ingestion: Ingestion) -> None:
    mine, yours = uuid7(clock), uuid7(clock)
    events = [an_event(clock, mine), an_event(clock, yours, quantity=8)]
    assert await ingestion.ingest(events, sender=sender_of(mine, yours)) == [ACCEPTED, ACCEPTED]
    assert [each.quantities.output_tokens for each in await all_of(books, clock, yours)] == [8]


async def test_one_batch_keeps_its_first_event_under_an_id(
    books: Books, clock: ManualClock, ingestion: Ingestion, trail: CountingTrail
) -> None:
    tenant_id = uuid7(clock)
    first, other = an_event(clock, tenant_id), an_event(clock, tenant_id, quantity=8)
    outcomes = await ingestion.ingest(
        [first, first, other, an_event(clock, tenant_id, id="2")], sender=sender_of(tenant_id)
    )
    assert named(outcomes) == ["accepted", "duplicate", ConflictError("").code, "accepted"]
    assert trail.groups == [{(tenant_id, None): 2}]
    assert await ingestion.ingest([other, first], sender=sender_of(tenant_id)) != outcomes[:2]
    assert len(await all_of(books, clock, tenant_id)) == 2


async def test_what_arrives_together_is_written_together(
    books: Books, clock: ManualClock, ingestion: Ingestion, trail: CountingTrail
) -> None:
    tenant_id = uuid7(clock)
    batches = [[an_event(clock, tenant_id, id=str(number))] for number in range(40)]
    outcomes = await asyncio.gather(
        *(ingestion.ingest(batch, sender=sender_of(tenant_id)) for batch in batches + batches)
    )
    assert named([each for (each,) in outcomes]).count("accepted") == 40
    assert len(trail.groups) < 20
    assert len(await all_of(books, clock, tenant_id)) == 40


async def test_nothing_is_acknowledged_that_was_rolled_back(
    books: Books, clock: ManualClock, ingestion: Ingestion, trail: CountingTrail
) -> None:
    tenant_id = uuid7(clock)
    trail.failures = [OverloadedError("The database does not answer.")]
    with pytest.raises(OverloadedError):
        await ingestion.ingest([an_event(clock, tenant_id)], sender=sender_of(tenant_id))
    assert await all_of(books, clock, tenant_id) == []
    assert await ingestion.ingest([an_event(clock, tenant_id)], sender=sender_of(tenant_id)) == [ACCEPTED]


async def test_what_is_wrong_with_one_batch_is_not_the_others_fault(
    books: Books, clock: ManualClock, ingestion: Ingestion, trail: CountingTrail
) -> None:
    tenant_id, sender = uuid7(clock), sender_of(uuid7(clock))
    sender = sender_of(tenant_id)
    trail.failures = [ValueError("of the group"), ValueError("of the first batch")]
    mine = [
        asyncio.create_task(ingestion.ingest([an_event(clock, tenant_id, id=name)], sender=sender))
        for name in ("a", "b", "c")
    ]
    results = await asyncio.gather(*mine, return_exceptions=True)
    failed = [each for each in results if isinstance(each, ValueError)]
    # How they fall into groups depends on the threads; whoever was told of success is in the books.
    assert 1 <= len(failed) <= 2
    assert [each for each in results if each not in failed] == [[ACCEPTED]] * (3 - len(failed))
    assert len(await all_of(books, clock, tenant_id)) == 3 - len(failed)


async def test_too_many_that_wait_are_refused_and_a_client_that_leaves_changes_nothing(
    books: Books, clock: ManualClock, ingestion: Ingestion, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant_id = uuid7(clock)
    monkeypatch.setattr(ingestion_module, "MOST_WAITING", 2)
    events = [an_event(clock, tenant_id, id=str(number)) for number in range(3)]
    with pytest.raises(OverloadedError):
        await ingestion.ingest(events, sender=sender_of(tenant_id))
    leaving = asyncio.create_task(ingestion.ingest(events[:2], sender=sender_of(tenant_id)))
    while not ingestion._waiting and not leaving.done():
        await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await ingestion.close()
    assert len(await all_of(books, clock, tenant_id)) == 2
    assert await ingestion.ingest(events[:2], sender=sender_of(tenant_id)) == [DUPLICATE] * 2


async def test_a_group_is_one_entry_of_the_audit_log_per_tenant_and_key(
    books: Books, clock: ManualClock
) -> None:
    audited = ingestion_over(books, clock, AuditedIngestion(intents=books.outbox, clock=clock))  # type: ignore[arg-type]  # every outbox adds
    mine, yours = uuid7(clock), uuid7(clock)
    events = [an_event(clock, mine), an_event(clock, mine, id="2"), an_event(clock, yours)]
    for _ in range(2):  # what is a duplicate changes nothing, and there is nothing to log
        await audited.ingest(events, sender=sender_of(mine, yours))
    found = {each.tenant_id: dict(each.details) for each in await books.outbox.pending(limit=10)}
    assert found == {mine: {"events": 2}, yours: {"events": 1}}


async def test_what_others_report_is_no_load_of_ours(
    books: Books, clock: ManualClock, ingestion: Ingestion
) -> None:
    tenant_id = uuid7(clock)
    await ingestion.ingest([an_event(clock, tenant_id)], sender=sender_of(tenant_id))
    start, end = clock.now(), clock.now() + timedelta(seconds=1)
    assert list(await books.usage.activity(start=start, end=end)) == []
    assert list(await books.usage.hourly_tokens(start=start, end=end)) == []
    totals = await books.usage.totals(tenant_id, start=start, end=end)
    assert list(totals) == [UsageTotal(TenantTier.TEAM, Meter.OUTPUT_TOKENS, 7)]


async def test_two_processes_may_take_in_the_same_events_in_any_order(
    sql_books: Books, sql_url: str, clock: ManualClock, books_in: Any
) -> None:
    tenants = [uuid7(clock), uuid7(clock)]
    sender = sender_of(*tenants)
    other = Database(sql_url)
    try:
        first, second = (
            ingestion_over(each, clock, CountingTrail()) for each in (sql_books, books_in(other))
        )
        for turn in range(5):
            events = [
                an_event(clock, tenant_id, id=f"{turn}-{number:03}")
                for number in range(150)
                for tenant_id in tenants
            ]
            mine, yours = await asyncio.gather(
                first.ingest(events, sender=sender), second.ingest(events[::-1], sender=sender)
            )
            together = list(zip(named(mine), named(yours[::-1]), strict=True))
            assert all(sorted(each) == ["accepted", "duplicate"] for each in together)
    finally:
        await other.close()


async def test_all_write_in_one_order_of_keys(clock: ManualClock) -> None:
    """Whatever order they came in; else two transactions could wait for each other."""
    mine, yours = uuid7(clock), uuid7(clock)
    reported = [
        an_event(clock, tenant_id, id=name, source=source)
        for tenant_id in (mine, yours)
        for name in "ab"
        for source in ("x", "y")
    ]
    events = accept_events(reported, sender=sender_of(mine, yours), now=clock.now())
    orders = []
    for sent in (events, events[::-1], events[3:] + events[:3]):
        arranged = event_writer._arranged([each for each in sent if isinstance(each, UsageEvent)])
        orders.append([each.key for each in arranged.firsts])
    assert orders == [sorted(orders[0])] * 3
    assert len(orders[0]) == len(events)


async def test_nobody_waits_for_a_writer_that_has_ended(
    books: Books, clock: ManualClock, ingestion: Ingestion
) -> None:
    tenant_id = uuid7(clock)

    async def send(name: int) -> list[Outcome]:
        sent = [an_event(clock, tenant_id, id=f"{name}-{number}") for number in range(20)]
        return [(await ingestion.ingest([each], sender=sender_of(tenant_id)))[0] for each in sent]

    found = await asyncio.wait_for(asyncio.gather(*map(send, range(5))), timeout=120)
    assert found == [[ACCEPTED] * 20] * 5
    assert ingestion._writers == set()
    assert len(await all_of(books, clock, tenant_id)) == 100


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
EVENTS = st.lists(
    st.fixed_dictionaries(
        {
            "source": st.sampled_from(["a", "b"]) | TEXT,
            "id": st.sampled_from("xyz") | TEXT,
            "meter": st.sampled_from([*Meter, "seconds"]),
            "quantity": st.integers(-1, 3) | st.integers(10**12 - 1, 10**12 + 1),
            "dimensions": st.dictionaries(
                st.sampled_from(["model", "device", "region"]) | TEXT, TEXT, max_size=3
            ),
        }
    ),
    max_size=12,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(EVENTS, max_size=4))
async def test_groups_do_what_one_event_after_the_other_does(books: Books, batches: Any) -> None:
    """The slow twin: single inserts of usage records, each in a transaction of its own."""
    clock, trail = ManualClock(), CountingTrail()
    fast, slow = uuid7(clock), uuid7(clock)
    ingestion = ingestion_over(books, clock, trail)
    metering = MeteringService(store=books.usage)
    for batch in batches:
        mine = [an_event(clock, fast, **fields) for fields in batch]
        outcomes = await ingestion.ingest(mine, sender=sender_of(fast))
        theirs = [an_event(clock, slow, **fields) for fields in batch]
        assert named(outcomes) == [
            await one_by_one(metering, each, clock=clock)
            for each in accept_events(theirs, sender=sender_of(slow), now=clock.now())
        ]
    assert [content(each) for each in await all_of(books, clock, fast)] == unordered(
        [content(each) for each in await all_of(books, clock, slow)]
    )


async def one_by_one(metering: MeteringService, event: Any, *, clock: ManualClock) -> str:
    if isinstance(event, BitNetServiceError):
        return event.code
    try:
        is_new = await metering.record(event.record(uuid7(clock)))
    except ConflictError as error:
        return error.code
    return "accepted" if is_new else "duplicate"


def content(record: Any) -> tuple[Any, ...]:
    return (
        record.source,
        record.event_id,
        record.quantities,
        record.resources,
        record.model,
        record.device,
        record.report.dimensions,
    )


class unordered(list):  # noqa: N801 - reads as a claim
    def __eq__(self, other: object) -> bool:
        return sorted(map(repr, self)) == sorted(map(repr, other))  # type: ignore[call-overload]

    __hash__ = None  # type: ignore[assignment]

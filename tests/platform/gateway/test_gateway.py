"""The one road: what is reserved, settled, recorded and logged, however a request ends."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fractions import Fraction
from typing import ClassVar

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tritium_platform.adapters.memory.audit_outbox import MemoryAuditOutbox
from tritium_platform.adapters.memory.billing_store import MemoryPriceStore
from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.fairuse_store import MemoryFairUseStore
from tritium_platform.adapters.memory.health_store import MemoryOutcomeStore
from tritium_platform.adapters.memory.metering_store import MemoryUsageStore
from tritium_platform.adapters.memory.quota_store import MemoryReservationStore
from tritium_platform.adapters.memory.spool_positions import MemorySpoolPositions
from tritium_platform.adapters.memory.tenancy_store import MemoryTenantStore
from tritium_platform.adapters.metrics import Metrics
from tritium_platform.adapters.settlement_store import GroupSettlement, RoomStores
from tritium_platform.adapters.spooled_settlements import SpooledSettlements
from tritium_platform.api.traffic import HttpTraffic
from tritium_platform.audit.log import AuditLog
from tritium_platform.audit.model import ResourceIdentifier
from tritium_platform.audit.note import NoteSigner
from tritium_platform.audit.service import AuditService
from tritium_platform.audit.verify import verify_log
from tritium_platform.billing.invoicing import BillingService
from tritium_platform.billing.pricing import default_price_version
from tritium_platform.books import Books
from tritium_platform.changes import tenant_changed
from tritium_platform.errors import (
    ConflictError,
    FairUseSuspendedError,
    InsufficientMemoryError,
    InsufficientPermissionsError,
    InvalidTokenError,
    NotFoundError,
    OverloadedError,
    ProcessingError,
    QuotaExceededError,
    RateLimitExceededError,
)
from tritium_platform.gateway import Gateway
from tritium_platform.insight.health import HealthService, OutcomeKind
from tritium_platform.metering.model import OperationType, UsageQuantities
from tritium_platform.metering.service import MeteringService
from tritium_platform.passage import OnceOnly
from tritium_platform.quotas.enforcement import FairUseMode, FairUseService
from tritium_platform.quotas.fairuse import FairUseAction, FairUseMeasure, FairUseRule
from tritium_platform.quotas.service import QuotaService
from tritium_platform.serving.model import Consumption, Outcome
from tritium_platform.tenancy.model import Scope, TenantTier
from tritium_platform.tenancy.service import TenancyService
from tritium_platform.values import SystemClock, uuid7

ENDINGS = ["finish", "fail", "close", "abandon"]
FROM, UNTIL = datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


class Office:
    """A gateway over memory, with one tenant; `spool_directory` decides which of the two ways it settles."""

    spool_directory = None
    opened: ClassVar = []

    @classmethod
    async def open(cls, directory, *, outbox=None, **limits):
        office = cls()
        clock, database = SystemClock(), MemoryDatabase()
        office.database = database
        signer = NoteSigner("test.example/audit", private_key=Ed25519PrivateKey.generate())
        office.verifier_key = signer.verifier.vkey
        office.outbox = outbox(database) if outbox else MemoryAuditOutbox(database)
        office.audit = None
        if directory is not None:
            log = AuditLog.open(directory, signer=signer, clock=clock)
            office.audit = AuditService(log, outbox=office.outbox)
        office.metering = MeteringService(store=MemoryUsageStore(database))
        billing = BillingService(prices=MemoryPriceStore(database), clock=clock)
        await billing.publish_prices(default_price_version())
        office.quotas = QuotaService(store=MemoryReservationStore(database), clock=clock)
        office.tenancy = TenancyService(store=MemoryTenantStore(database), pepper=bytes(32), clock=clock)
        office.fair_use = FairUseService(
            store=MemoryFairUseStore(database),
            activity=MemoryUsageStore(database),
            tenants=office.tenancy,
            trail=office.outbox,
            unit_of_work=database.unit_of_work,
            clock=clock,
            mode=FairUseMode.ENFORCE,
        )
        office.health = HealthService(store=MemoryOutcomeStore(database), clock=clock)
        office.journal = None
        if cls.spool_directory is not None and outbox is None:
            office.journal = a_journal(cls.spool_directory / uuid7().hex, database=database, clock=clock)
        cls.opened.append(office)
        office.gateway = Gateway(
            tenancy=office.tenancy,
            books=Books(
                unit_of_work=database.unit_of_work,
                quotas=office.quotas,
                fair_use=office.fair_use,
                metering=office.metering,
                billing=billing,
                outbox=office.outbox,
                audit=office.audit,
                health=office.health,
                telemetry=Metrics(),
                clock=clock,
                journal=office.journal,
            ),
        )
        tenant = await office.tenancy.create_tenant(
            organization_name="Acme", tier=TenantTier.DEVELOPER, limit_overrides=limits
        )
        office.tenant_id = tenant.id
        _, office.key = await office.tenancy.create_key(tenant.id, name="k")
        office.context = await office.tenancy.authenticate_request(office.key)
        return office

    async def close(self):
        Office.opened.remove(self)
        if self.journal is not None:
            await self.journal.close()

    async def walk(self, work, *, key=None):
        return await self.gateway.process_customer_request(work, token=key or self.key, request_id="r")

    async def records(self):
        return list(await self.metering.list(self.tenant_id, start=FROM, end=UNTIL, limit=1000))

    async def actions(self):
        await self.gateway.close()
        return sorted(intent.action for intent in await self.outbox.pending(limit=1000))


def a_journal(directory, *, database, clock):
    """Settlements through a spool into the stores of a database in memory."""
    stores = RoomStores(
        unit_of_work=database.unit_of_work,
        usage=MemoryUsageStore(database),
        reservations=MemoryReservationStore(database),
        intents=MemoryAuditOutbox(database),
        outcomes=MemoryOutcomeStore(database),
        positions=MemorySpoolPositions(database),
        clock=clock,
    )
    journal = SpooledSettlements(directory, store=GroupSettlement(stores), clock=clock)
    database.settle_first = journal.drained
    return journal


@pytest.fixture(autouse=True, params=["one transaction", "spool"])
async def settling(request, tmp_path_factory, monkeypatch):
    """Every test runs on both: what the spool does, one transaction does."""
    if request.param == "spool":
        monkeypatch.setattr(Office, "spool_directory", tmp_path_factory.mktemp("spools"))
    yield
    while Office.opened:
        await Office.opened[-1].close()


@dataclass
class CountToThree:
    """Work of three pieces and three tokens, which may fail before a piece."""

    fails_at: int | None = None
    refuses: Exception | None = None
    scope: Scope = Scope.INFERENCE
    operation: OperationType = OperationType.COMPLETION
    model: str = "m"
    subject: ResourceIdentifier = field(default_factory=lambda: ResourceIdentifier("deployment", "d"))
    pieces: int = 0
    releases: int = 0
    is_closed: bool = False

    async def admit(self, context):
        if self.refuses is not None:
            raise self.refuses
        return 10

    async def execute(self):
        try:
            for piece in range(3):
                await asyncio.sleep(0)
                if self.fails_at == piece:
                    raise ProcessingError("it failed")
                self.pieces += 1
                yield piece
        finally:
            self.is_closed = True

    def is_last(self, piece):
        return piece == 2

    def release(self):
        self.releases += 1

    def consumed(self, outcome):
        if self.pieces == 0 and outcome is Outcome.FAILED:
            return Consumption(is_counted=False)
        return Consumption(quantities=UsageQuantities(output_tokens=self.pieces), tokens=self.pieces)


async def test_the_books_are_closed_before_the_last_piece_is_handed_out():
    office = await Office.open(None)
    passage = await office.walk(CountToThree())
    assert [await anext(passage), await anext(passage)] == [0, 1]
    assert await office.records() == []
    assert (await office.quotas.usage_of_month(office.context)).held == 1
    assert await anext(passage) == 2
    (record,) = await office.records()
    assert (record.outcome, record.quantities.output_tokens) == ("success", 3)
    quota = await office.quotas.usage_of_month(office.context)
    assert (quota.used, quota.held) == (1, 0)
    with pytest.raises(StopAsyncIteration):
        await anext(passage)


async def walk_counted(office, *works):
    """Admit works of one call of which 100 bytes were received."""
    traffic = HttpTraffic()
    traffic.received = 100
    passages = await office.gateway.process_customer_requests(
        works, token=office.key, request_id="r", traffic=traffic
    )
    return traffic, passages


def network_bytes(records):
    return [record.resources.network_bytes_transferred for record in records]


async def test_an_answer_that_is_counted_is_in_the_books_before_its_end_goes_out():
    office = await Office.open(None)
    work = CountToThree()
    traffic, (passage,) = await walk_counted(office, work)
    await passage.finish()  # nothing is done yet, so nothing is written
    assert [piece async for piece in passage] == [0, 1, 2]
    assert (await office.records(), passage.is_settled, work.releases, work.is_closed) == ([], False, 1, True)
    traffic.sent, traffic.announced = 20, 7
    await passage.finish()
    await passage.aclose()
    (record,) = await office.records()
    assert (record.outcome, record.quantities.output_tokens) == ("success", 3)
    assert network_bytes([record]) == [127]
    assert (await office.quotas.usage_of_month(office.context)).held == 0


async def test_an_answer_that_cannot_be_made_of_its_pieces_was_worked_for_all_the_same():
    office = await Office.open(None)
    _, (passage,) = await walk_counted(office, CountToThree())
    assert [piece async for piece in passage] == [0, 1, 2]
    await passage.aclose()
    (record,) = await office.records()
    assert (record.outcome, network_bytes([record])) == ("success", [100])


async def test_the_bytes_of_several_texts_sum_to_those_of_their_request_however_they_end():
    office = await Office.open(None)
    traffic, passages = await walk_counted(
        office, CountToThree(fails_at=1), CountToThree(), CountToThree(), CountToThree()
    )
    failing, left, *whole = passages
    traffic.sent = 5
    with pytest.raises(ProcessingError):
        assert [piece async for piece in failing] == [0]
    traffic.sent = 11
    await anext(left)
    await left.aclose()
    for passage in whole:
        assert [piece async for piece in passage] == [0, 1, 2]
    traffic.announced = 1000
    await asyncio.gather(*(passage.finish() for passage in whole))
    records = await office.records()
    assert [record.outcome for record in records] == ["failed", "cancelled", "success", "success"]
    assert network_bytes(records) == [105, 6, 1000, 0]


async def test_the_log_tells_the_exact_price_of_a_use():
    office = await Office.open(None)
    assert [piece async for piece in await office.walk(CountToThree())] == [0, 1, 2]
    (intent,) = await office.outbox.pending(limit=10)
    # Three tokens at 0.40 USD a million, in cents.
    assert Fraction(intent.details["cost"]) == Fraction(3 * 40, 1_000_000)


async def test_tokens_that_were_not_needed_come_back_and_the_others_do_not():
    office = await Office.open(None, tokens_per_minute=13)  # each walk wants 10 and uses 3
    for _ in range(2):
        assert [piece async for piece in await office.walk(CountToThree())] == [0, 1, 2]
    with pytest.raises(RateLimitExceededError, match="tokens per minute"):
        await office.walk(CountToThree())


async def test_a_failure_without_result_gives_everything_back():
    office = await Office.open(None)
    passage = await office.walk(CountToThree(fails_at=0))
    with pytest.raises(ProcessingError):
        await anext(passage)
    quota = await office.quotas.usage_of_month(office.context)
    assert (quota.used, quota.held) == (0, 0)
    (record,) = await office.records()
    assert record.outcome == "failed"
    assert await office.actions() == ["completion.fail"]


async def test_closing_early_counts_what_was_done_and_stops_the_work():
    office = await Office.open(None)
    work = CountToThree()
    passage = await office.walk(work)
    await anext(passage)
    await passage.aclose()
    await passage.aclose()
    assert work.is_closed
    (record,) = await office.records()
    assert (record.outcome, record.quantities.output_tokens) == ("cancelled", 1)


async def test_a_passage_that_is_closed_before_it_began_holds_nothing():
    office = await Office.open(None)
    passage = await office.walk(CountToThree())
    await passage.aclose()
    assert (await office.quotas.usage_of_month(office.context)).held == 0
    assert len(await office.records()) == 1


async def test_a_cancelled_caller_does_not_cancel_the_settlement():
    office = await Office.open(None)
    passage = await office.walk(CountToThree())

    async def read():
        await anext(passage)
        await asyncio.sleep(60)

    reader = asyncio.create_task(read())
    await asyncio.sleep(0.01)
    reader.cancel()
    closing = asyncio.create_task(passage.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(reader, closing, return_exceptions=True)
    await office.gateway.close()
    assert (await office.quotas.usage_of_month(office.context)).held == 0
    assert len(await office.records()) == 1


async def test_refusals_reserve_nothing_and_are_logged_as_denied():
    office = await Office.open(None)
    with pytest.raises(NotFoundError):
        await office.walk(CountToThree(refuses=NotFoundError("no")))
    assert (await office.quotas.usage_of_month(office.context)).held == 0
    assert await office.actions() == ["completion.refuse"]
    assert await office.records() == []


async def test_only_refusals_that_a_tenant_brings_about_itself_count_against_it():
    office = await Office.open(None, requests_per_minute=2, monthly_quota=2)
    for _ in range(2):
        assert [piece async for piece in await office.walk(CountToThree())] == [0, 1, 2]
    with pytest.raises(RateLimitExceededError):
        await office.walk(CountToThree())
    once = OnceOnly(event_id=uuid.uuid4(), keep=lambda: asyncio.sleep(0))
    with pytest.raises(QuotaExceededError):  # our own turn
        await office.gateway.process_deferred_request(
            CountToThree(), context=office.context, request_id="r", num_requests=1, once=once
        )
    (requests,) = [each for each in await office.fair_use.read() if each.rule == "requests"]
    (quota,) = [each for each in await office.fair_use.read() if each.rule == "quota"]
    assert (requests.used, quota.used) == (1, 0)


async def test_a_tenant_that_floods_is_throttled_then_suspended_and_the_reason_is_told():
    office = await Office.open(None)
    measure = FairUseMeasure(
        id=uuid.uuid4(),
        tenant_id=office.tenant_id,
        rule=FairUseRule.REQUESTS,
        action=FairUseAction.THROTTLE,
        reason="Too many came.",
        used=9,
        share=Fraction(1),
        starts_at=FROM,
        ends_at=UNTIL,
        is_dry_run=False,
    )
    measure = replace(measure, starts_at=SystemClock().now())
    store = office.fair_use._store
    await store.add(measure)
    await office.fair_use.refresh()
    passage = await office.walk(CountToThree())
    limits, normal = passage.context.limits, office.context.limits
    assert limits.requests_per_minute == normal.requests_per_minute // 4
    assert passage.admission.allowance.requests.limit == limits.requests_per_minute
    assert [piece async for piece in passage] == [0, 1, 2]
    await store.add(replace(measure, id=uuid.uuid4(), action=FairUseAction.SUSPEND))
    await office.fair_use.refresh()
    with pytest.raises(FairUseSuspendedError, match=r"Too many came\. To appeal, name the measure"):
        await office.walk(CountToThree())
    once = OnceOnly(event_id=uuid.uuid4(), keep=lambda: asyncio.sleep(0))
    with pytest.raises(FairUseSuspendedError):
        await office.gateway.process_deferred_request(
            CountToThree(), context=office.context, request_id="r", num_requests=1, once=once
        )
    assert (await office.quotas.usage_of_month(office.context)).held == 0


async def test_a_customers_health_tells_failures_from_wrong_requests_and_success():
    async def kinds_after(*works):
        office = await Office.open(None)
        for work in works:
            with contextlib.suppress(ProcessingError, NotFoundError):
                assert [piece async for piece in await office.walk(work)]
        await office.database.read_books()
        return [kind for _, _, kind, _ in office.database.tables["health_outcomes"]]

    assert await kinds_after(CountToThree()) == [OutcomeKind.SUCCESS]
    assert await kinds_after(CountToThree(refuses=NotFoundError("no"))) == [OutcomeKind.REJECTED]
    assert await kinds_after(CountToThree(fails_at=0)) == [OutcomeKind.FAILED]
    assert await kinds_after(CountToThree(refuses=ProcessingError("ours"))) == [OutcomeKind.FAILED]


async def test_a_key_without_the_scope_and_a_stranger_get_nowhere():
    office = await Office.open(None)
    _, key = await office.tenancy.create_key(office.tenant_id, name="u", scopes=frozenset({Scope.USAGE}))
    with pytest.raises(InsufficientPermissionsError):
        await office.walk(CountToThree(), key=key)
    with pytest.raises(InvalidTokenError):
        await office.walk(CountToThree(), key=key[:-1] + ("0" if key[-1] != "0" else "1"))


async def test_the_quota_holds_against_many_at_once():
    office = await Office.open(None, monthly_quota=5, max_concurrent_requests=100)
    results = await asyncio.gather(*(office.walk(CountToThree()) for _ in range(20)), return_exceptions=True)
    admitted = [each for each in results if not isinstance(each, Exception)]
    assert len(admitted) == 5
    assert all(isinstance(each, QuotaExceededError) for each in results if isinstance(each, Exception))
    for passage in admitted:
        assert [piece async for piece in passage] == [0, 1, 2]
    assert (await office.quotas.usage_of_month(office.context)).used == 5


async def test_if_the_books_cannot_be_written_the_last_piece_is_not_handed_out():
    class FullOutbox(MemoryAuditOutbox):
        async def add(self, intent):
            raise ProcessingError("the disk is full")

    office = await Office.open(None, outbox=FullOutbox)
    passage = await office.walk(CountToThree())
    await anext(passage)
    await anext(passage)
    with pytest.raises(ProcessingError, match="disk is full"):
        await anext(passage)
    # One transaction: no record without its audit intent.
    assert await office.records() == []


@pytest.mark.parametrize("error", [OverloadedError("away", retry_after=0), InsufficientMemoryError("full")])
async def test_a_database_that_is_away_for_a_moment_loses_no_use_and_doubles_none(error):
    failures = [error, error]

    class AwayTwice(MemoryAuditOutbox):
        async def add(self, intent):
            if failures:
                raise failures.pop()
            await super().add(intent)

    office = await Office.open(None, outbox=AwayTwice, max_concurrent_requests=1)
    assert [piece async for piece in await office.walk(CountToThree())] == [0, 1, 2]
    (record,) = await office.records()
    assert record.quantities.output_tokens == 3
    assert await office.actions() == ["completion.complete"]
    quota = await office.quotas.usage_of_month(office.context)
    assert (quota.used, quota.held) == (1, 0)
    passage = await office.walk(CountToThree())  # its place is free
    await passage.aclose()


async def test_a_commit_that_was_not_answered_is_one_outcome_of_the_customers_health():
    office = await Office.open(None)
    database, failures = office.database, [OverloadedError("nobody knows", retry_after=0)]

    @contextlib.asynccontextmanager
    async def unanswered():
        async with database.unit_of_work():
            yield
        if failures:
            raise failures.pop()

    books = replace(office.gateway._books, unit_of_work=unanswered, journal=None)
    gateway = Gateway(tenancy=office.tenancy, books=books)
    (passage,) = await gateway.process_customer_requests(
        [CountToThree()], token=office.key, request_id="r", event_ids=[uuid7()]
    )
    assert [piece async for piece in passage] == [0, 1, 2]
    assert not failures
    assert len(await office.records()) == 1
    assert sum(database.tables["health_outcomes"].values()) == 1
    await gateway.close()


async def test_work_whose_end_fails_is_in_the_books_nevertheless():
    class Stubborn(CountToThree):
        async def execute(self):
            try:
                yield 0
                yield 1
            finally:
                raise ProcessingError("it does not end")

    office = await Office.open(None)
    passage = await office.walk(Stubborn(pieces=1))
    await anext(passage)
    with pytest.raises(ProcessingError):
        await passage.aclose()
    (record,) = await office.records()
    assert record.outcome == "cancelled"


async def test_every_ending_becomes_one_leaf_of_the_log(tmp_path):
    office = await Office.open(tmp_path)
    for work in (CountToThree(), CountToThree(fails_at=1)):
        passage = await office.walk(work)
        with contextlib.suppress(ProcessingError):
            assert [piece async for piece in passage] == [0, 1, 2]
    await office.gateway.change(
        lambda: office.tenancy.change_tenant(office.tenant_id, tier=TenantTier.TEAM),
        describe=lambda tenant: tenant_changed("tenant.change", tenant),
    )
    await office.gateway.close()
    assert office.audit.head().size == 3
    assert await office.outbox.pending(limit=10) == []
    await office.audit.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(["finish", "fail", "close", "abandon"]), st.integers(0, 3)), max_size=8
    )
)
def test_however_requests_end_nothing_stays_held_and_each_is_recorded_once(endings):
    async def play():
        office = await Office.open(None)

        async def one(ending, after):
            work = CountToThree(fails_at=after if ending == "fail" and after < 3 else None)
            passage = await office.walk(work)
            try:
                for _ in range(3 if ending in {"finish", "fail"} else after):
                    await anext(passage)
            except (ProcessingError, StopAsyncIteration):
                return work
            if ending == "close":
                await passage.aclose()
            if ending == "abandon":
                task = asyncio.create_task(passage.aclose())
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            return work

        works = await asyncio.gather(*(one(*ending) for ending in endings))
        await office.gateway.close()
        records = await office.records()
        assert len(records) == len(endings)
        assert sum(record.quantities.output_tokens for record in records) == sum(
            work.pieces for work in works
        )
        assert (await office.quotas.usage_of_month(office.context)).held == 0
        await office.close()

    asyncio.run(play())


async def test_an_intent_is_logged_once_although_two_empty_the_outbox_at_the_same_time(tmp_path):
    office = await Office.open(tmp_path, max_concurrent_requests=100)

    async def walk_through():
        async for _ in await office.walk(CountToThree()):
            pass

    async def keep_recovering():
        while True:
            await office.audit.recover()
            await asyncio.sleep(0)

    recovering = asyncio.create_task(keep_recovering())
    for _ in range(5):
        await asyncio.gather(*(walk_through() for _ in range(8)))
        await asyncio.sleep(0.05)
    await office.gateway.close()
    recovering.cancel()
    await asyncio.gather(recovering, return_exceptions=True)
    assert office.audit.head().size == 40
    report = verify_log(tmp_path, office.verifier_key)
    assert report.is_intact, report.problems
    await office.audit.close()


async def test_what_may_run_twice_is_counted_once_however_it_ended_first():
    office = await Office.open(None)
    ids = [uuid7(), uuid7()]

    async def walk(*works):
        return await office.gateway.process_customer_requests(
            works, token=office.key, request_id="r", event_ids=ids
        )

    for passage in await walk(CountToThree(fails_at=0), CountToThree()):
        with contextlib.suppress(ProcessingError):
            assert [piece async for piece in passage] == [0, 1, 2]
    # The first used nothing: it is in the books as a failure under an id of its own, and may still count.
    assert [record.quantities.output_tokens for record in await office.records()] == [0, 3]
    for _ in range(2):
        for passage in await walk(CountToThree(), CountToThree()):
            assert [piece async for piece in passage] == [0, 1, 2]
    counted = [record for record in await office.records() if record.quantities.output_tokens]
    assert sorted(record.event_id for record in counted) == sorted(each.hex for each in ids)
    quota = await office.quotas.usage_of_month(office.context)
    assert (quota.used, quota.held) == (2, 0)


async def test_requests_of_one_call_are_refused_together():
    office = await Office.open(None)
    works = [CountToThree(), CountToThree(refuses=NotFoundError("no such thing"))]
    with pytest.raises(NotFoundError):
        await office.gateway.process_customer_requests(works, token=office.key, request_id="r")
    assert (await office.quotas.usage_of_month(office.context)).held == 0
    assert await office.actions() == ["completion.refuse"]


async def test_what_was_held_for_a_request_is_let_go_however_it_ends():
    office = await Office.open(None)
    for work in (CountToThree(), CountToThree(fails_at=1), CountToThree(fails_at=0)):
        passage = await office.walk(work)
        assert work.releases == 0
        with contextlib.suppress(ProcessingError):
            async for _ in passage:
                pass
        assert work.releases == 1
    left = CountToThree()
    passage = await office.walk(left)
    await anext(passage)
    await passage.aclose()
    never_begun = CountToThree()
    await (await office.walk(never_begun)).aclose()
    refused = CountToThree(refuses=ProcessingError("no"))
    with pytest.raises(ProcessingError):
        await office.walk(refused)
    cancelled = CountToThree(refuses=asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await office.walk(cancelled)
    assert [each.releases for each in (left, never_begun, refused, cancelled)] == [1, 1, 1, 1]
    await office.gateway.close()


class Nightly:
    """A deferred request whose result is kept in a table of the same database."""

    def __init__(self, office, *, event_id, breaks=0):
        self.office = office
        self.kept = []
        self.event_id = event_id
        self.breaks = breaks

    async def keep(self):
        if self.breaks:
            self.breaks -= 1
            raise OverloadedError("the database is away", retry_after=0)
        self.kept.append("answer")

    async def walk(self, work):
        once = OnceOnly(event_id=self.event_id, keep=self.keep)
        return await self.office.gateway.process_deferred_request(
            work, context=self.office.context, request_id="r", num_requests=2, once=once
        )


class AllOrNothing(CountToThree):
    """Work that consumes nothing unless it succeeds."""

    def consumed(self, outcome):
        return super().consumed(outcome) if outcome is Outcome.SUCCESS else Consumption(is_counted=False)


async def test_a_deferred_request_happens_once_with_its_result_however_often_it_is_tried():
    office = await Office.open(None, requests_per_minute=1, monthly_quota=10)
    nightly = Nightly(office, event_id=uuid.uuid5(uuid.NAMESPACE_OID, "line 1"))
    for fails_at in (0, 2):
        passage = await nightly.walk(AllOrNothing(fails_at=fails_at))
        with pytest.raises(ProcessingError):
            [piece async for piece in passage]
    closed = await nightly.walk(AllOrNothing())
    await anext(closed)
    await closed.aclose()
    quota = await office.quotas.usage_of_month(office.context)
    assert (nightly.kept, quota.used, quota.held) == ([], 0, 0)

    assert [piece async for piece in await nightly.walk(AllOrNothing())] == [0, 1, 2]
    quota = await office.quotas.usage_of_month(office.context)
    assert (nightly.kept, quota.used, quota.held) == (["answer"], 2, 0)
    records = await office.records()
    assert sum(record.quantities.output_tokens for record in records) == 3
    (success,) = [record for record in records if record.outcome == "success"]
    assert success.event_id == nightly.event_id.hex
    # A second success is another use under the same id: it is refused, and nothing of it is kept.
    again = await nightly.walk(AllOrNothing())
    with pytest.raises(ConflictError):
        [piece async for piece in again]
    assert nightly.kept == ["answer"]
    assert len(await office.records()) == len(records)


async def test_a_result_that_cannot_be_kept_at_once_is_kept_later_and_billed_once():
    office = await Office.open(None)
    nightly = Nightly(office, event_id=uuid.uuid4(), breaks=2)
    assert [piece async for piece in await nightly.walk(AllOrNothing())] == [0, 1, 2]
    assert nightly.kept == ["answer"]
    assert len(await office.records()) == 1


async def test_a_deferred_request_needs_its_scope_and_the_month():
    office = await Office.open(None, monthly_quota=3)
    nightly = Nightly(office, event_id=uuid.uuid4())
    office.context = replace(office.context, scopes=frozenset({Scope.INFERENCE}))
    with pytest.raises(InsufficientPermissionsError):
        await nightly.walk(AllOrNothing(scope=Scope.AUDIT))
    await nightly.walk(AllOrNothing())
    with pytest.raises(QuotaExceededError):
        await nightly.walk(AllOrNothing())
    assert (await office.actions()).count("completion.refuse") == 2

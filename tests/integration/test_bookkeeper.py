"""The process that writes the books can be killed or stopped at any time: nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from tritium_platform.adapters import bookkeeper_process, spooled_settlements
from tritium_platform.audit.log import lock_for_writing
from tritium_platform.audit.model import ResourceIdentifier
from tritium_platform.audit.verify import verify_log
from tritium_platform.compose import initialize_platform
from tritium_platform.config import load_config
from tritium_platform.errors import OverloadedError, PlatformError, ResourceError
from tritium_platform.insight.health import OutcomeKind
from tritium_platform.metering.model import OperationType, ResourceUsage, UsageQuantities, UsageRecord
from tritium_platform.settlement import Settlement
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tritium_platform.compose import Platform
    from tritium_platform.tenancy.model import TenantContext

FROM, UNTIL = datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
USES = 60


class Counter:
    """A platform whose bookkeeper is apart, and a tenant that uses it."""

    def __init__(self, platform: Platform, context: TenantContext) -> None:
        self.platform, self.context = platform, context
        self.bookkeeper = platform.books.audit

    async def use(self) -> None:
        """Take one request through the books, as the gateway does."""
        books, context = self.platform.books, self.context
        (admission,) = await books.quotas.admit_all(context, tokens=[5])
        identity, now = uuid7(), datetime.now(UTC)
        record = UsageRecord(
            id=identity,
            tenant_id=context.tenant_id,
            source="gateway",
            event_id=identity.hex,
            operation=OperationType.CHAT,
            tier=context.tier,
            outcome="success",
            occurred_at=now,
            quantities=UsageQuantities(output_tokens=5),
            resources=ResourceUsage(),
        )
        settlement = Settlement(
            record=record,
            event_id=identity,
            subject=ResourceIdentifier("deployment", "d"),
            request_id=identity.hex,
            cost="0",
            code=None,
            kind=OutcomeKind.SUCCESS,
            latency_bucket=4,
            reservation_id=admission.reservation.id,
            is_leased=admission.is_leased,
            requests=1,
        )
        await books.journal.append(settlement)
        books.quotas.finish(context, admission=admission, tokens=5, is_counted=True)

    def signal(self, number: signal.Signals) -> None:
        """Send the bookkeeper a signal, if there is one."""
        with contextlib.suppress(TypeError, ProcessLookupError):
            os.kill(self.bookkeeper.process_id, number)

    async def written(self) -> tuple[int, int]:
        """Return uses and tokens that are in the books."""
        await self.platform.books.journal.drained()
        records = await self.platform.books.metering.list(
            self.context.tenant_id, start=FROM, end=UNTIL, limit=1000
        )
        return len(records), sum(each.quantities.output_tokens for each in records)

    def logged(self) -> int:
        """Return the entries of the log; it must be intact."""
        report = verify_log(self.platform.config.audit_dir, self.platform.verifier_key)
        assert report.is_intact
        return report.entries


@asynccontextmanager
async def opened(directory: Path, *, database_url: str | None = None) -> AsyncIterator[Counter]:
    config = load_config(flags={"data_dir": directory, "log_level": "warning", "database_url": database_url})
    platform = await initialize_platform(config, is_audit_required=True, is_bookkeeper_apart=True)
    try:
        tenant = await platform.tenancy.create_tenant(organization_name="Acme", tier=TenantTier.BUSINESS)
        _, key = await platform.tenancy.create_key(tenant.id, name="test")
        yield Counter(platform, await platform.tenancy.authenticate_request(key))
    finally:
        await platform.stop()


@pytest.fixture(autouse=True)
def patience():
    """A busy machine starts processes slowly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spooled_settlements, "DRAIN_SECONDS", 300)
        yield


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def database_url(request):
    return None if request.param == "sqlite" else request.getfixturevalue("postgresql_url")


async def test_a_bookkeeper_that_is_killed_loses_and_doubles_nothing(tmp_path, database_url):
    async with opened(tmp_path, database_url=database_url) as counter:
        seen = set()
        for number in range(USES):
            await counter.use()
            if number % 20 == 10:  # while it brings in what was before
                bringing = asyncio.create_task(counter.platform.books.journal.drained())
                await asyncio.sleep(0)
                seen.add(counter.bookkeeper.process_id)
                counter.signal(signal.SIGKILL)
                await bringing
        assert await counter.written() == (USES, 5 * USES)
        assert await counter.bookkeeper.recover() <= USES
        assert counter.logged() == USES
        assert await counter.bookkeeper.recover() == 0
        assert len(seen) == 3
        month = await counter.platform.books.quotas.usage_of_month(counter.context)
        assert (month.used, month.held) == (USES, 0)


async def test_a_bookkeeper_that_does_not_answer_is_replaced(tmp_path, monkeypatch):
    async with opened(tmp_path) as counter:
        await counter.use()
        assert await counter.written() == (1, 5)
        assert await counter.bookkeeper.recover() == 1
        first = counter.bookkeeper.process_id
        counter.signal(signal.SIGSTOP)
        monkeypatch.setattr(bookkeeper_process, "ANSWER_SECONDS", 0.2)
        with pytest.raises(OverloadedError):
            await counter.bookkeeper.recover()
        monkeypatch.undo()
        await counter.use()
        assert await counter.written() == (2, 10)
        assert counter.bookkeeper.process_id != first


async def test_a_bookkeeper_that_looks_through_a_long_log_after_its_start_is_waited_for(
    tmp_path, monkeypatch
):
    async with opened(tmp_path) as counter:
        await counter.use()
        assert await counter.written() == (1, 5)
        first = counter.bookkeeper.process_id
        monkeypatch.setattr(bookkeeper_process, "ANSWER_SECONDS", 0.2)
        counter.signal(signal.SIGSTOP)
        looking = asyncio.create_task(counter.bookkeeper.recover())
        await asyncio.sleep(0.6)
        counter.signal(signal.SIGCONT)
        assert await looking == 1
        assert counter.bookkeeper.process_id == first
        monkeypatch.undo()


async def test_a_bookkeeper_that_is_slow_to_end_has_ended_before_the_next_one_begins(tmp_path):
    async with opened(tmp_path) as counter:
        first = counter.bookkeeper._process
        counter.signal(signal.SIGSTOP)
        counter.bookkeeper._link.close()
        await asyncio.sleep(0)
        replacing = asyncio.create_task(counter.bookkeeper.start())
        await asyncio.sleep(0.1)
        replacing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await replacing
        again = asyncio.create_task(counter.bookkeeper.start())
        await asyncio.sleep(0.1)
        assert not again.done()
        counter.signal(signal.SIGCONT)
        await again
        assert first.returncode is not None
        assert counter.bookkeeper._process is not first


async def test_while_the_bookkeeper_is_gone_nobody_else_can_take_its_place(tmp_path):
    async with opened(tmp_path) as counter:
        counter.signal(signal.SIGKILL)
        with pytest.raises(ResourceError):
            lock_for_writing(counter.platform.config.audit_dir)
    os.close(lock_for_writing(tmp_path / "audit"))  # after the end anybody may


async def test_what_is_settled_when_the_platform_stops_is_in_the_log(tmp_path):
    async with opened(tmp_path) as counter:
        await counter.use()
    assert counter.logged() == 1
    with pytest.raises(PlatformError):
        await counter.bookkeeper.recover()


async def test_a_log_that_was_tampered_with_stops_the_start(tmp_path):
    async with opened(tmp_path) as counter:
        await counter.use()
    (tmp_path / "audit" / "checkpoint").write_text("another")
    with pytest.raises(PlatformError, match="checkpoint"):
        async with opened(tmp_path):
            pass
    os.close(lock_for_writing(tmp_path / "audit"))

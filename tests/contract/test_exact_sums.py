"""Sums of quantities are exact beyond 64 bits, on every kind of books."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import BigInteger, Column, MetaData, Table, create_engine, func, insert, literal, select
from sqlalchemy.exc import OperationalError

from tritium_platform.adapters.sql.exact_sum import ExactSum
from tritium_platform.insight.analytics import Dimension, Step
from tritium_platform.metering.model import Meter, OperationType, ResourceUsage, UsageQuantities, UsageRecord
from tritium_platform.tenancy.model import Tenant, TenantTier
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Books
    from sqlalchemy import Connection

    from tritium_platform.adapters.memory.clock import ManualClock

LARGEST = 2**63 - 1
USES = 3
numbers = Table("numbers", MetaData(), Column("number", BigInteger))


@pytest.fixture(scope="module")
def sqlite() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        numbers.metadata.create_all(connection)
        yield connection
    engine.dispose()


@settings(deadline=None)
@given(values=st.lists(st.integers(-(2**63), LARGEST), max_size=20))
def test_sqlite_sums_any_integers_as_python_does(sqlite: Connection, values: list[int]) -> None:
    sqlite.execute(numbers.delete())
    if values:
        sqlite.execute(insert(numbers), [{"number": each} for each in values])
    column = numbers.c.number
    assert sqlite.scalar(select(ExactSum(column))) == (sum(values) if values else None)
    assert sqlite.scalar(select(func.coalesce(ExactSum(column), 0))) == sum(values)
    of_positive = sqlite.scalar(select(ExactSum(column)).where(column > literal(0)))
    assert of_positive == (sum(each for each in values if each > 0) or None)


def test_its_own_sum_ends_in_an_error_there(sqlite: Connection) -> None:
    sqlite.execute(numbers.delete())
    sqlite.execute(insert(numbers), [{"number": LARGEST}, {"number": 1}])
    with pytest.raises(OperationalError, match="integer overflow"):
        sqlite.scalar(select(func.sum(numbers.c.number)))
    assert sqlite.scalar(select(ExactSum(numbers.c.number))) == 2**63


async def test_uses_of_any_quantity_are_summed_up(books: Books, clock: ManualClock) -> None:
    tenant = Tenant(id=uuid7(clock), organization_name="Acme", tier=TenantTier.TEAM, created_at=clock.now())
    await books.tenants.add_tenant(tenant)
    await books.usage.insert_all(
        [
            UsageRecord(
                id=uuid7(clock),
                tenant_id=tenant.id,
                source="gateway",
                event_id=str(number),
                operation=OperationType.CHAT,
                tier=TenantTier.TEAM,
                outcome="success",
                occurred_at=clock.now(),
                quantities=UsageQuantities(
                    input_tokens=LARGEST,
                    output_tokens=LARGEST - number,
                    embedding_tokens=number,
                    quantized_parameters=LARGEST,
                ),
                resources=ResourceUsage(compute_time_ms=LARGEST),
                model="small",
            )
            for number in range(USES)
        ]
    )
    whole = USES * LARGEST
    meters = {
        Meter.INPUT_TOKENS: whole,
        Meter.OUTPUT_TOKENS: whole - 3,
        Meter.EMBEDDING_TOKENS: 3,
        Meter.QUANTIZED_PARAMETERS: whole,
        Meter.COMPUTE_MS: whole,
    }
    month = CalendarMonth.of(clock.now())
    start, end = month.start, month.end
    totals = await books.usage.totals(tenant.id, start=start, end=end)
    assert {each.meter: each.quantity for each in totals} == meters
    [activity] = await books.usage.activity(start=start, end=end)
    assert activity.compute_ms == whole
    [count] = await books.usage.hourly_tokens(start=start, end=end)
    assert (count.tokens, count.compute_ms) == (2 * whole, whole)
    [point] = await books.series.series(
        tenant.id, start=start, end=end, step=Step.DAY, dimension=None, limit=2
    )
    assert point.meters == meters
    [point] = await books.series.top(tenant.id, start=start, end=end, dimension=Dimension.MODEL, limit=2)
    assert point.meters == meters
    billed = await books.money.usage.usage(tenant.id, interval=month.interval, is_only_billed=False)
    assert {each.meter: each.quantity for each in billed} == meters

"""What the stores of prices, outcomes, audit intents, models and deployments promise."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest

from tritium_platform.audit.model import ActionOutcome, AuditIntent, ResourceIdentifier
from tritium_platform.billing.model import MeterPrice, PriceVersion
from tritium_platform.billing.party import Party
from tritium_platform.billing.pricing import default_price_version
from tritium_platform.errors import ConflictError
from tritium_platform.insight.health import OutcomeCount, OutcomeKind
from tritium_platform.metering.model import Meter
from tritium_platform.serving.model import Alias, Deployment, ModelKind, RegisteredModel
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from uuid import UUID

    from conftest import Books

    from tritium_platform.adapters.memory.clock import ManualClock


async def test_a_price_version_keeps_its_exact_fractions(books: Books) -> None:
    version = PriceVersion(
        currency="JPY",
        valid_from=datetime(2026, 3, 1, tzinfo=UTC),
        prices={TenantTier.TEAM: {Meter.INPUT_TOKENS: MeterPrice(Fraction(1, 3_000_007), 12)}},
    )
    assert await books.prices.add(version)
    assert not await books.prices.add(version)
    assert not await books.prices.add(replace(version, currency="KRW"))
    assert await books.prices.add(default_price_version())
    kept = await books.prices.list()
    assert [each.id for each in kept] == [default_price_version().id, version.id]
    assert kept[1].price_of(Meter.INPUT_TOKENS, tier=TenantTier.TEAM) == MeterPrice(
        Fraction(1, 3_000_007), 12
    )


async def test_outcomes_add_up_over_the_hours_asked_for(books: Books, clock: ManualClock) -> None:
    tenant_id = uuid7(clock)
    noon = clock.now()
    earlier = noon - timedelta(hours=1)
    for hour, kind, bucket in (
        (noon, OutcomeKind.SUCCESS, 3),
        (noon, OutcomeKind.SUCCESS, 3),
        (earlier, OutcomeKind.SUCCESS, 3),
        (noon, OutcomeKind.REFUSED, 0),
        (noon - timedelta(hours=2), OutcomeKind.FAILED, 9),
    ):
        await books.outcomes.count(tenant_id, hour=hour, kind=kind, latency_bucket=bucket)
    await books.outcomes.count(uuid7(clock), hour=noon, kind=OutcomeKind.FAILED, latency_bucket=1)
    later = noon + timedelta(hours=1)
    assert list(await books.outcomes.between(tenant_id, start=earlier, end=noon)) == [
        OutcomeCount(OutcomeKind.SUCCESS, 3, 1)
    ]
    assert await books.outcomes.last_success(tenant_id, before=later) == noon
    assert await books.outcomes.last_success(tenant_id, before=noon) == earlier
    assert await books.outcomes.last_success(tenant_id, before=earlier) is None
    assert list(await books.outcomes.between(tenant_id, start=earlier, end=later)) == [
        OutcomeCount(OutcomeKind.REFUSED, 0, 1),
        OutcomeCount(OutcomeKind.SUCCESS, 3, 3),
    ]


def an_intent(clock: ManualClock) -> AuditIntent:
    return AuditIntent(
        id=uuid7(clock),
        event_id=uuid7(clock),
        occurred_at=clock.now(),
        action="api_key.create",
        resource_affected=ResourceIdentifier("api_key", "abcDEF012345"),
        outcome=ActionOutcome.SUCCESS,
        tenant_id=uuid7(clock),
        details={"name": "Grüße ✓", "count": 2**53 - 1, "flag": True, "nothing": None},
    )


async def test_intents_wait_oldest_first_until_they_are_in_the_log(books: Books, clock: ManualClock) -> None:
    intents = []
    for _ in range(5):
        intents.append(an_intent(clock))
        clock.advance(seconds=0.001)
    for intent in reversed(intents):
        await books.outbox.add(intent)
    await books.outbox.add(intents[0])
    assert await books.outbox.pending(limit=3) == intents[:3]
    await books.outbox.mark({intents[0].id: 0, intents[2].id: 1, uuid7(clock): 2})
    await books.outbox.mark({})
    assert await books.outbox.pending(limit=10) == [intents[1], intents[3], intents[4]]


def a_model(clock: ManualClock, *, tenant_id: UUID, name: str = "small-llama") -> RegisteredModel:
    return RegisteredModel(
        id=uuid7(clock),
        tenant_id=tenant_id,
        name=name,
        path="/models/ö",
        kind=ModelKind.GENERATE,
        size_bytes=2**40,
        source="path",
        created_at=clock.now(),
    )


async def test_a_model_name_belongs_to_its_tenant_once(books: Books, clock: ManualClock) -> None:
    first, second = uuid7(clock), uuid7(clock)
    model = a_model(clock, tenant_id=first)
    await books.models.add(model)
    await books.models.add(a_model(clock, tenant_id=second))
    with pytest.raises(ConflictError):
        await books.models.add(a_model(clock, tenant_id=first))
    assert list(await books.models.list(first)) == [model]
    assert not await books.models.remove(tenant_id=second, model_id=model.id)
    assert await books.models.remove(tenant_id=first, model_id=model.id)
    assert not await books.models.remove(tenant_id=first, model_id=model.id)
    assert not await books.models.list(first)
    await books.models.add(a_model(clock, tenant_id=first))


async def test_a_deployment_name_belongs_to_its_tenant_once(books: Books, clock: ManualClock) -> None:
    first, second = uuid7(clock), uuid7(clock)
    deployment = Deployment(
        id=uuid7(clock),
        tenant_id=first,
        model_id=uuid7(clock),
        name="chat",
        replicas=2,
        threads=4,
        memory_limit_bytes=2**35,
        created_at=clock.now(),
    )
    await books.deployments.add(deployment)
    other = replace(
        deployment, id=uuid7(clock), tenant_id=second, created_at=clock.now() + timedelta(hours=1)
    )
    await books.deployments.add(other)
    with pytest.raises(ConflictError):
        await books.deployments.add(replace(deployment, id=uuid7(clock)))
    assert list(await books.deployments.list()) == [deployment, other]
    swapped = replace(deployment, model_id=uuid7(clock), is_pinned=True)
    assert await books.deployments.change(swapped)
    assert not await books.deployments.change(replace(deployment, id=uuid7(clock)))
    assert not await books.deployments.change(replace(deployment, tenant_id=second))
    assert list(await books.deployments.list()) == [swapped, other]
    assert await books.deployments.change(deployment)
    await books.deployments.remove(tenant_id=second, deployment_id=deployment.id)
    assert list(await books.deployments.list(first)) == [deployment]
    await books.deployments.remove(tenant_id=first, deployment_id=deployment.id)
    assert not await books.deployments.list(first)


async def test_an_alias_is_replaced_under_its_name_and_belongs_to_its_tenant(
    books: Books, clock: ManualClock
) -> None:
    first, second = sorted((uuid7(clock), uuid7(clock)))
    alias = Alias(tenant_id=first, name="chat", target="llama-1", changed_at=clock.now())
    await books.aliases.put(alias)
    await books.aliases.put(replace(alias, tenant_id=second))
    await books.aliases.put(replace(alias, name="Best"))
    later = replace(alias, target="llama-2", changed_at=clock.now() + timedelta(hours=1))
    await books.aliases.put(later)
    assert list(await books.aliases.list(first)) == [replace(alias, name="Best"), later]
    assert list(await books.aliases.list()) == [
        replace(alias, name="Best"),
        later,
        replace(alias, tenant_id=second),
    ]
    assert await books.aliases.remove(tenant_id=first, name="chat")
    assert not await books.aliases.remove(tenant_id=first, name="chat")
    assert list(await books.aliases.list(second)) == [replace(alias, tenant_id=second)]


async def test_an_alias_of_a_transaction_that_fails_is_not_kept(books: Books, clock: ManualClock) -> None:
    alias = Alias(tenant_id=uuid7(clock), name="chat", target="llama-1", changed_at=clock.now())

    async def put_and_fail() -> None:
        async with books.unit_of_work():
            await books.aliases.put(alias)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await put_and_fail()
    assert not await books.aliases.list()


async def test_who_buys_is_kept_as_it_was_last_said(books: Books, clock: ManualClock) -> None:
    tenant_id, other = uuid7(clock), uuid7(clock)
    assert await books.plans.buyer(tenant_id) is None
    first = Party(name="Acme", street=("1 Rue X", "bâtiment 株式会社"), country="FR", reference="PO 7")
    await books.plans.put_buyer(tenant_id, first, at=clock.now())
    assert await books.plans.buyer(tenant_id) == first
    second = Party(name="Acme Holding")
    await books.plans.put_buyer(tenant_id, second, at=clock.now())
    assert await books.plans.buyer(tenant_id) == second
    assert await books.plans.buyer(other) is None

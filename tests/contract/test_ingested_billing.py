"""Events are billed as any use is: no order, split or repetition of them changes an invoice by a byte."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tritium_platform.adapters.ingestion_trail import AuditedIngestion
from tritium_platform.audit.note import NoteSigner
from tritium_platform.billing.contract import UNTAXED
from tritium_platform.billing.desk import open_desk, open_payments
from tritium_platform.billing.invoicing import BillingService
from tritium_platform.billing.rating.plan_json import plan_from_dict
from tritium_platform.errors import BitNetServiceError, ConflictError
from tritium_platform.metering.event import ReportedEvent, Sender
from tritium_platform.metering.event_writer import EventWriter, Ingested
from tritium_platform.metering.ingestion import Ingestion
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from conftest import Books

    from tritium_platform.billing.invoice import Invoice

SEPTEMBER, OCTOBER = CalendarMonth(2026, 9), CalendarMonth(2026, 10)
PLAN = {
    "name": "matrix",
    "currency": "EUR",
    "charges": [
        {
            "name": "output",
            "meter": "output_tokens",
            "included": 5,
            "price": {
                "kind": "matrix",
                "dimensions": ["model", "device", "tier"],
                "cells": [
                    {"values": ["big", "gpu", "*"], "price": {"kind": "per_unit", "unit_price": "7"}},
                    {"values": ["*", "gpu", "business"], "price": {"kind": "per_unit", "unit_price": "1/3"}},
                    {
                        "values": ["*", "*", "*"],
                        "price": {
                            "kind": "volume",
                            "steps": [
                                {"up_to": 100, "unit_price": "10"},
                                {"up_to": None, "unit_price": "1"},
                            ],
                        },
                    },
                ],
            },
        },
        {"name": "compute", "meter": "compute_ms", "price": {"kind": "package", "size": 3, "amount": "11"}},
    ],
}


class Shop:
    """What bills, and what takes events in, over one set of books."""

    def __init__(self, books: Books) -> None:
        self.clock: Any = books.money.clock
        writer = EventWriter(
            store=books.events,
            trail=AuditedIngestion(intents=books.outbox, clock=self.clock),
            unit_of_work=books.unit_of_work,
            clock=self.clock,
        )
        self.ingestion = Ingestion(writer=writer, clock=self.clock)
        self.desk = open_desk(
            books.money,
            plan_store=books.plans,
            prices=BillingService(prices=books.prices, clock=self.clock),
            tenants=self,
            signer=NoteSigner("example/audit", private_key=Ed25519PrivateKey.from_private_bytes(b"7" * 32)),
            grace_days=None,
            payments=open_payments(books.money, events=books.notices),
        )

    async def list_tenants(self) -> list[Any]:
        return []

    async def customer(self) -> UUID:
        """Return a tenant with a contract from September on; it is November."""
        tenant_id = uuid7(self.clock)
        while self.clock.now() < OCTOBER.end:
            self.clock.advance(seconds=86_400)
        plan_id = await self.desk.plans.publish(plan_from_dict(PLAN), actor="test")
        await self.desk.plans.conclude(
            tenant_id,
            plan=plan_id,
            starts_at=SEPTEMBER.start,
            ends_at=None,
            payment_days=14,
            tax=UNTAXED,
            actor="test",
        )
        return tenant_id

    async def send(self, tenant_id: UUID, events: Sequence[dict[str, Any]]) -> list[Any]:
        reported = [ReportedEvent(**event, tenant_id=tenant_id) for event in events]
        return await self.ingestion.ingest(reported, sender=Sender(tiers={tenant_id: TenantTier.TEAM}))

    async def draft(self, tenant_id: UUID, period: CalendarMonth) -> Invoice:
        """Return the draft of a month that has at least one use."""
        await self.desk.invoices.generate(tenant_id, period=period, actor="test")
        (draft,) = [
            each for each in await self.desk.invoices.list(tenant_id=tenant_id) if each.period == period
        ]
        return draft

    async def said(self, tenant_id: UUID, period: CalendarMonth) -> bytes:
        """Return the canonical bytes of what the draft says, but for what names it and its customer."""
        body = await self.desk.invoices.body(await self.draft(tenant_id, period))
        return rfc8785.dumps({**body, "id": "", "tenant_id": "", "contract_id": ""})


@pytest.fixture
def shop(books: Books) -> Shop:
    return Shop(books)


def an_event(
    name: str, quantity: int = 10, *, at: datetime = SEPTEMBER.start, **changes: Any
) -> dict[str, Any]:
    return {
        "source": "s",
        "id": name,
        "meter": "output_tokens",
        "quantity": quantity,
        "event_time": at,
        **changes,
    }


TIMES = st.integers(0, 60 * 86_400).map(lambda seconds: SEPTEMBER.start + timedelta(seconds=seconds))
DIMENSIONS = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["big", "small"]),
        "device": st.sampled_from(["cpu", "gpu"]),
        "tier": st.sampled_from([*TenantTier]),
    },
)
EVENT = st.builds(
    dict,
    source=st.sampled_from(["a", "b"]),
    meter=st.sampled_from(["output_tokens", "compute_ms"]),
    quantity=st.integers(0, 200),
    event_time=TIMES,
    dimensions=DIMENSIONS,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), drawn=st.lists(EVENT, min_size=1, max_size=12))
async def test_permuting_splitting_and_resending_gives_the_same_draft_byte_for_byte(
    books: Books, data: st.DataObject, drawn: list[dict[str, Any]]
) -> None:
    shop = Shop(books)
    events = [{**each, "id": str(number)} for number, each in enumerate(drawn)]
    events.append(an_event("first", 1))  # so that there is a draft of both months
    events.append(an_event("last", 1, at=OCTOBER.start))
    plain, mixed = await shop.customer(), await shop.customer()
    assert set(await shop.send(plain, events)) == {Ingested.ACCEPTED}
    resent = data.draw(st.lists(st.sampled_from(events), max_size=8))
    shuffled = data.draw(st.permutations(events + resent))
    while shuffled:
        size = data.draw(st.integers(1, len(shuffled)))
        await shop.send(mixed, shuffled[:size])
        shuffled = shuffled[size:]
    for period in (SEPTEMBER, OCTOBER):
        assert await shop.said(plain, period) == await shop.said(mixed, period)


async def test_an_invoice_beyond_what_json_counts_exactly_is_finalized_and_says_the_same_again(
    shop: Shop,
) -> None:
    tenant_id, on = await shop.customer(), {"model": "big", "device": "gpu"}
    await shop.send(tenant_id, [an_event(str(each), 10**12, dimensions=on) for each in range(1300)])
    invoice = await shop.desk.invoices.finalize((await shop.draft(tenant_id, SEPTEMBER)).id, actor="test")
    assert invoice.total_minor == (1300 * 10**12 - 5) * 7 > 2**53
    assert (await shop.desk.invoices.body(invoice))["due_minor"] == invoice.total_minor


async def test_a_draft_is_rated_anew_while_events_come(shop: Shop) -> None:
    tenant_id = await shop.customer()
    await shop.send(tenant_id, [an_event("1", 105)])  # 5 are free, 100 cost 10 each
    draft = await shop.draft(tenant_id, SEPTEMBER)
    assert (await shop.desk.invoices.body(draft))["net_minor"] == 1000
    await shop.send(tenant_id, [an_event("2", 50), an_event("1", 105)])  # of 150, each costs 1
    assert (await shop.desk.invoices.body(draft))["net_minor"] == 150
    gpu = an_event("3", 2, dimensions={"model": "big", "device": "gpu"})
    await shop.send(tenant_id, [gpu])
    lines = (await shop.desk.invoices.body(draft))["lines"]
    # The included units go to the first cell: two of five, and three to the last one.
    assert [(line["cell"], line["quantity"], line["included"], line["net_minor"]) for line in lines] == [
        (["big", "gpu", "*"], "2", "2", 0),
        (["*", "*", "*"], "155", "3", 152),
    ]


async def test_what_comes_after_the_invoice_is_an_adjustment_of_the_next(shop: Shop) -> None:
    tenant_id = await shop.customer()
    await shop.send(tenant_id, [an_event("1", 105), an_event("october", 6, at=OCTOBER.start)])
    september = await shop.desk.invoices.finalize((await shop.draft(tenant_id, SEPTEMBER)).id, actor="test")
    said = await shop.desk.invoices.body(september)
    assert (september.total_minor, said["lines"][0]["events"]["count"]) == (1000, "1")
    late = an_event("2", 50, at=SEPTEMBER.end - timedelta(microseconds=1))
    outcomes = await shop.send(tenant_id, [late, an_event("1", 105), an_event("1", 106)])
    assert outcomes[:2] == [Ingested.ACCEPTED, Ingested.DUPLICATE]
    assert isinstance(outcomes[2], ConflictError)
    draft = await shop.draft(tenant_id, OCTOBER)
    before = await shop.said(tenant_id, OCTOBER)
    for _ in range(2):  # however often it is sent again
        await shop.send(tenant_id, [late, an_event("1", 105)])
    assert await shop.said(tenant_id, OCTOBER) == before
    october = await shop.desk.invoices.finalize(draft.id, actor="test")
    body = await shop.desk.invoices.body(october)
    lines = [(line["period"], line["kind"], line["quantity"], line["net_minor"]) for line in body["lines"]]
    # In time the 155 units would have cost 150: what was charged is 850 too much.
    assert lines == [("2026-10", "charge", "6", 10), ("2026-09", "adjustment", "50", -850)]
    assert await shop.desk.invoices.body(september) == said


async def test_events_that_come_while_an_invoice_is_finalized_are_billed_once(
    sql_books: Books,
) -> None:
    shop = Shop(sql_books)
    tenant_id = await shop.customer()
    await shop.send(tenant_id, [an_event("first", 1), an_event("october", 1, at=OCTOBER.start)])
    draft = await shop.draft(tenant_id, SEPTEMBER)

    async def keep_sending() -> int:
        sent = 0
        for turn in range(12):
            outcomes = await shop.send(tenant_id, [an_event(f"{turn} {each}", 3) for each in range(20)])
            sent += sum(not isinstance(each, BitNetServiceError) for each in outcomes)
            await asyncio.sleep(0)
        return sent

    sent, september = await asyncio.gather(
        keep_sending(), shop.desk.invoices.finalize(draft.id, actor="test")
    )
    october = await shop.desk.invoices.finalize((await shop.draft(tenant_id, OCTOBER)).id, actor="test")
    charged = [
        int(line["quantity"])
        for invoice in (september, october)
        for line in (await shop.desk.invoices.body(invoice))["lines"]
        if line["period"] == str(SEPTEMBER)
    ]
    assert (sent, sum(charged)) == (240, 240 * 3 + 1)

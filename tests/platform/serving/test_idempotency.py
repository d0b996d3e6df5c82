"""A key runs one request, and gives its answer to nobody but who asked it."""

from __future__ import annotations

from dataclasses import replace

import http_sf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.idempotency_store import MemoryIdempotencyStore
from tritium_platform.api.idempotency import parse_key
from tritium_platform.api.problems import IdempotencyKeyMalformedError
from tritium_platform.errors import PlatformError, RateLimitExceededError
from tritium_platform.serving.idempotency import (
    LEASE_SECONDS,
    MOST_ANSWER_BYTES,
    AnswerNotKeptError,
    IdempotencyKeyReusedError,
    IdempotencyService,
    KeptRequest,
    StillRunningError,
    StoredAnswer,
    event_id_of,
)
from tritium_platform.tenancy.model import ALL_SCOPES, TIER_LIMITS, TenantContext, TenantTier
from tritium_platform.values import uuid7

ANSWER = StoredAnswer(
    status=200, headers=(("content-type", "application/json"),), body=b"{}", request_id="r1"
)
REQUEST = (b"/v1/completions", b'{"prompt": "a"}')


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def database():
    return MemoryDatabase()


@pytest.fixture
def service(clock, database):
    return IdempotencyService(
        store=MemoryIdempotencyStore(database),
        clock=clock,
        secret=bytes(32),
        retention_seconds=3600,
        most_keys=3,
    )


@pytest.fixture
def caller(clock):
    limits = TIER_LIMITS[TenantTier.DEVELOPER]
    return TenantContext(uuid7(clock), "Ada", TenantTier.DEVELOPER, limits, "abcDEF012345", ALL_SCOPES)


async def test_the_answer_of_the_first_is_given_again_while_it_is_kept(service, caller, clock):
    first = await service.begin(caller, key="k", request=REQUEST)
    assert isinstance(first, KeptRequest)
    with pytest.raises(StillRunningError) as running:
        await service.begin(caller, key="k", request=REQUEST)
    assert running.value.details["retry_after"] == 1
    assert await service.finish(first, ANSWER)
    assert await service.begin(caller, key="k", request=REQUEST) == ANSWER
    clock.advance(seconds=3599)
    assert await service.begin(caller, key="k", request=REQUEST) == ANSWER
    clock.advance(seconds=1)
    again = await service.begin(caller, key="k", request=REQUEST)
    assert isinstance(again, KeptRequest)
    assert again.id != first.id


@pytest.mark.parametrize("is_finished", [True, False])
async def test_another_request_under_the_same_key_is_refused(service, caller, is_finished):
    first = await service.begin(caller, key="k", request=REQUEST)
    if is_finished:
        await service.finish(first, ANSWER)
    for other in ((b"/v1/completions", b"{}"), (b"/v1/embeddings", REQUEST[1]), (b"".join(REQUEST), b"")):
        with pytest.raises(IdempotencyKeyReusedError):
            await service.begin(caller, key="k", request=other)


async def test_whoever_takes_over_counts_under_the_same_id(service, caller, clock):
    first = await service.begin(caller, key="k", request=REQUEST)
    clock.advance(seconds=LEASE_SECONDS - 1)
    assert await service.renew(first)
    clock.advance(seconds=LEASE_SECONDS)
    second = await service.begin(caller, key="k", request=REQUEST)
    assert event_id_of(second.id, index=1) == event_id_of(first.id, index=1) != event_id_of(first.id, index=0)
    assert not await service.finish(first, ANSWER)
    assert await service.abandon(second)
    third = await service.begin(caller, key="k", request=REQUEST)
    assert (third.id, third.owner != second.owner) == (first.id, True)
    assert await service.release(third)
    assert (await service.begin(caller, key="k", request=REQUEST)).id != first.id


async def test_an_answer_is_not_given_to_another_key_or_tenant(service, caller, clock):
    await service.finish(await service.begin(caller, key="k", request=REQUEST), ANSWER)
    for other in (replace(caller, key_id="zzzDEF012345"), replace(caller, tenant_id=uuid7(clock))):
        assert isinstance(await service.begin(other, key="k", request=REQUEST), KeptRequest)


async def test_a_tenant_has_so_many_keys_and_is_told_when_it_has_room(service, caller, clock):
    for number in range(3):
        await service.begin(caller, key=str(number), request=REQUEST)
        clock.advance(seconds=0.25)
    with pytest.raises(RateLimitExceededError, match="3 idempotency keys") as refusal:
        await service.begin(caller, key="more", request=REQUEST)
    clock.advance(seconds=30)
    await service.begin(caller, key="0", request=REQUEST)  # what is kept already needs no room
    clock.advance(seconds=int(refusal.value.details["retry_after"]) - 30)
    assert await service.begin(caller, key="more", request=REQUEST)


async def test_an_answer_that_is_too_large_is_said_to_exist(service, caller, database):
    first = await service.begin(caller, key="k", request=REQUEST)
    await service.finish(first, StoredAnswer(status=200, headers=(), body=bytes(2**22 + 1), request_id="r"))
    with pytest.raises(AnswerNotKeptError) as refusal:
        await service.begin(caller, key="k", request=REQUEST)
    assert refusal.value.details["limit"] == MOST_ANSWER_BYTES
    (row,) = database.tables["idempotency_keys"].values()
    assert len(row.answer) < 1000


async def test_nothing_that_is_kept_can_be_read_or_guessed_without_the_secret(
    service, caller, database, clock
):
    secret = StoredAnswer(status=200, headers=(), body=b"the answer is hunter2", request_id="r")
    await service.finish(await service.begin(caller, key="order-1", request=REQUEST), secret)
    (row,) = database.tables["idempotency_keys"].values()
    assert not any(part in repr(row).encode() for part in (b"hunter2", b"order-1", REQUEST[1]))
    other = IdempotencyService(
        store=MemoryIdempotencyStore(database),
        clock=clock,
        secret=b"1" * 32,
        retention_seconds=3600,
        most_keys=9,
    )
    assert isinstance(await other.begin(caller, key="order-1", request=REQUEST), KeptRequest)


async def test_an_answer_moved_to_another_tenants_row_does_not_open(service, caller, database, clock):
    await service.finish(await service.begin(caller, key="k", request=REQUEST), ANSWER)
    thief = replace(caller, tenant_id=uuid7(clock))
    await service.begin(thief, key="k", request=REQUEST)
    rows = database.tables["idempotency_keys"]
    stolen = next(row.answer for row in rows.values() if row.answer)
    place = next(place for place, row in rows.items() if row.tenant_id == thief.tenant_id)
    rows[place] = replace(rows[place], answer=stolen)
    with pytest.raises(PlatformError, match="cannot be read"):
        await service.begin(thief, key="k", request=REQUEST)


async def test_what_has_expired_is_swept(service, caller, database, clock):
    await service.begin(caller, key="k", request=REQUEST)
    assert await service.sweep() == 0
    clock.advance(seconds=3600)
    assert await service.sweep() == 1
    assert not database.tables["idempotency_keys"]


VISIBLE = st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='",;\\')


@given(st.text(VISIBLE, min_size=1, max_size=255))
def test_a_key_means_the_same_with_quotes_and_without(key):
    assert parse_key([f'"{key}"'.encode()]) == parse_key([key.encode()]) == key


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=255))
def test_a_string_of_structured_fields_means_its_characters(key):
    assert parse_key([http_sf.ser(key).encode()]) == key


@pytest.mark.parametrize(
    "values",
    [
        [b""],
        [b'""'],
        [b"a b"],
        [b'"a'],
        [b'a"'],
        [b'"a";p=1'],
        [b"a,b"],
        [b"a", b"b"],
        [b"x" * 256],
        [b"\xc3\xa9"],
        [b"a\x00"],
        [b'"a\\b"'],
        [b"a\\b"],
    ],
)
def test_a_malformed_key_is_refused_by_name(values):
    with pytest.raises(IdempotencyKeyMalformedError) as refusal:
        parse_key(values)
    assert refusal.value.details["param"] == "Idempotency-Key"


@given(st.lists(st.binary(max_size=40), max_size=3))
def test_any_header_is_a_key_or_refused(values):
    try:
        key = parse_key(values or [b""])
    except IdempotencyKeyMalformedError:
        return
    assert 1 <= len(key) <= 255

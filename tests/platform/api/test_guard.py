"""The guard around a real platform: what it takes down, what it lets go, what it never lets fail."""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.api import guard
from tritium_platform.api.app import create_app
from tritium_platform.api.guard import source_of
from tritium_platform.compose import initialize_platform
from tritium_platform.config import PlatformConfig
from tritium_platform.errors import PlatformError
from tritium_platform.tenancy.keys import generate_token
from tritium_platform.tenancy.model import TenantTier


@pytest.mark.parametrize(
    ("client", "source"),
    [
        (("192.0.2.1", 5), "192.0.2.1"),
        (("::ffff:192.0.2.1", 5), "192.0.2.1"),
        (("2001:db8:1:2:3:4:5:6", 5), "2001:db8:1:2::/64"),
        (("2001:db8:1:2::", 5), "2001:db8:1:2::/64"),
        (("::1", 5), "::1"),
        (("127.0.0.1", 0), "127.0.0.1"),
        (("a unix socket", 0), None),
        (("1.2.3.4; DROP TABLE", 0), None),
        (None, None),
    ],
)
def test_the_source_is_an_address_or_the_network_of_one_customer(client, source):
    assert source_of({"type": "http", "client": client}) == source


@pytest.fixture
async def platform(tmp_path):
    platform = await initialize_platform(PlatformConfig(data_dir=tmp_path / "data"), clock=ManualClock())
    yield platform
    await platform.stop()


@pytest.fixture
async def stranger(platform):
    transport = httpx2.ASGITransport(app=create_app(platform), client=("192.0.2.1", 4))
    async with httpx2.AsyncClient(transport=transport, base_url="http://platform.test") as client:
        yield client


async def fail(client, *, key: str = "wrong", path: str = "/v1/models") -> int:
    return (await client.get(path, headers={"authorization": f"Bearer {key}"})).status_code


async def test_a_flood_is_not_written_down_event_by_event(platform, stranger, monkeypatch):
    monkeypatch.setattr("tritium_platform.security.threats.RULES", ())
    monkeypatch.setattr(guard.time, "monotonic", lambda: 1000.5)
    for _ in range(guard.MAX_PER_SECOND + 30):
        assert await fail(stranger, key=generate_token().plaintext) == 401
    assert len(await platform.security.recent(limit=100)) == guard.MAX_PER_SECOND


async def test_what_a_flood_kept_from_being_written_down_is_written_down_after_it(
    platform, stranger, monkeypatch
):
    monkeypatch.setattr("tritium_platform.security.threats.RULES", ())
    now = [1000.5]
    monkeypatch.setattr(guard.time, "monotonic", lambda: now[0])
    tenant = await platform.tenancy.create_tenant(organization_name="Acme", tier=TenantTier.TEAM)
    _, key = await platform.tenancy.create_key(tenant.id, name="k")
    for _ in range(guard.MAX_PER_SECOND):
        assert await fail(stranger, key=generate_token().plaintext) == 401
    for _ in range(2):
        assert await fail(stranger, key=key, path="/api/v1/models/nothing") == 404
        now[0] += 1
    assert len(await platform.security.recent(limit=100)) == guard.MAX_PER_SECOND + 1


async def test_the_same_missing_thing_is_an_event_once_a_minute(platform, stranger, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(guard.time, "monotonic", lambda: now[0])
    tenant = await platform.tenancy.create_tenant(organization_name="Acme", tier=TenantTier.TEAM)
    _, key = await platform.tenancy.create_key(tenant.id, name="k")
    for _ in range(5):
        assert await fail(stranger, key=key, path="/api/v1/models/nothing") == 404
    assert len(await platform.security.recent(limit=100)) == 1
    assert await fail(stranger, key=key, path="/api/v1/models/other") == 404
    now[0] += guard.QUIET_SECONDS
    assert await fail(stranger, key=key, path="/api/v1/models/nothing") == 404
    assert len(await platform.security.recent(limit=100)) == 3


async def test_the_memory_of_what_was_asked_for_has_an_end(platform, stranger, monkeypatch):
    monkeypatch.setattr(guard, "MAX_QUIET", 2)
    tenant = await platform.tenancy.create_tenant(organization_name="Acme", tier=TenantTier.TEAM)
    _, key = await platform.tenancy.create_key(tenant.id, name="k")
    for name in ("a", "b", "c", "a"):
        await fail(stranger, key=key, path=f"/api/v1/models/{name}")
    assert len(await platform.security.recent(limit=100)) == 4


async def test_an_event_that_cannot_be_kept_changes_no_answer(platform, stranger, monkeypatch):
    async def broken(*_, **__):
        raise PlatformError("The disk of the database is full.")

    monkeypatch.setattr(platform.security, "observe_refusal", broken)
    assert await fail(stranger) == 401


async def test_every_kind_of_wrong_authorization_is_one_failure(platform, stranger):
    for header in ("", "Bearer", "Basic abc", "Bearer \u00e4", "Bearer " + "x" * 3000):
        answer = await stranger.get("/v1/models", headers={"authorization": header.encode()})
        assert answer.status_code == 401
    assert len(await platform.security.recent(limit=100)) == 5
    for header in ("", "Bearer", "Basic abc", "Bearer \u00e4", "Bearer " + "x" * 3000) * 4:
        answer = await stranger.get("/v1/models", headers={"authorization": header.encode()})
    assert answer.status_code == 429
    assert len(await platform.security.recent(limit=100)) == 20


async def test_guesses_do_not_overtake_their_judgement(platform, stranger, monkeypatch):
    tenant = await platform.tenancy.create_tenant(organization_name="Acme", tier=TenantTier.TEAM)
    _, key = await platform.tenancy.create_key(tenant.id, name="k")
    assert await fail(stranger, key=key) == 200
    observe, may_judge = platform.security.observe_refusal, asyncio.Event()

    async def observe_slowly(*arguments, **more):
        await may_judge.wait()
        return await observe(*arguments, **more)

    monkeypatch.setattr(platform.security, "observe_refusal", observe_slowly)
    now = [1000.0]
    monkeypatch.setattr(guard.time, "monotonic", lambda: now[0])
    guesses = [asyncio.create_task(fail(stranger)) for _ in range(guard.MAX_UNJUDGED)]
    while len(guesses) > sum(guard_of(stranger)._unjudged.values()):
        await asyncio.sleep(0)
    assert await fail(stranger) == 429
    assert await fail(stranger, key=key) == 200  # whoever was at work there goes on
    may_judge.set()
    assert set(await asyncio.gather(*guesses)) == {401}
    assert not guard_of(stranger)._unjudged
    now[0] += 1
    assert await fail(stranger) == 401  # judged beside those before it, which were judged side by side
    assert await fail(stranger) == 429


def guard_of(client):
    app = client._transport.app.middleware_stack
    while not isinstance(app, guard.Guard):
        app = getattr(app, "app", None) or app._app
    return app

"""What the platform does again and again in the background."""

from __future__ import annotations

import asyncio

import pytest

from tritium_platform.compose import initialize_platform
from tritium_platform.compose import platform as composed
from tritium_platform.config import PlatformConfig
from tritium_platform.errors import OverloadedError


@pytest.mark.parametrize("error", [OverloadedError("The database is away."), RuntimeError("a fault")])
async def test_what_fails_keeps_nothing_else_back_and_is_tried_again(tmp_path, monkeypatch, error):
    monkeypatch.setattr(composed, "SWEEP_SECONDS", 0.01)
    platform = await initialize_platform(PlatformConfig(data_dir=tmp_path / "data"))
    tries: asyncio.Queue[str] = asyncio.Queue()
    swept = asyncio.Event()

    async def fail():
        tries.put_nowait("quotas")
        raise error

    async def sweep():
        swept.set()

    monkeypatch.setattr(platform.books.quotas, "sweep", fail)
    monkeypatch.setattr(platform.idempotency, "sweep", sweep)
    await platform.start()
    try:
        async with asyncio.timeout(30):
            await swept.wait()
            for _ in range(2):
                await tries.get()
    finally:
        await platform.stop()

"""One gateway as a process of its own, with engines that are none and a clock that the test moves.

Its arguments (tests/programs.py runs it): server|gateway DATA_DIR DATABASE_URL CLOCK_FILE.

CLOCK_FILE holds the monotonic time in nanoseconds, 8 bytes, for all of them. An answer of HELD tokens stands
still after its first one.
"""

# ruff: noqa: T201 - it says where it listens

from __future__ import annotations

import asyncio
import json
import mmap
import sys
from pathlib import Path

from tritium.engine.request import TokenOutput
from tritium_platform.adapters.telemetry import configure_logging
from tritium_platform.api.server import serve_platform
from tritium_platform.compose import initialize_platform
from tritium_platform.config import PlatformConfig
from tritium_platform.serving.model import ModelFacts, ModelKind, ReplicaState, ReplicaStatus
from tritium_platform.values import SystemClock

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"
HELD = 7


class MovedClock(SystemClock):
    """A clock whose monotonic time is written by somebody else."""

    def __init__(self, path):
        with Path(path).open("r+b") as file:
            self._time = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)

    def monotonic_nanoseconds(self):
        return int.from_bytes(self._time[:], "little")


class NoEngine:
    """Answers at once."""

    def __init__(self, *, name, **_):
        facts = ModelFacts(kind=ModelKind.GENERATE, vocabulary_size=2048, maximum_positions=512, places=32)
        self.status = ReplicaStatus(name=name, state=ReplicaState.READY, facts=facts)

    def weigh(self, weight):
        pass

    async def start(self):
        pass

    async def wait_ready(self):
        pass

    async def generate(self, request):
        wanted = request.sampling.max_tokens
        for count in range(1, wanted + 1):
            yield TokenOutput(
                request_id=request.request_id,
                text=" word",
                token_ids=(7,),
                finish_reason="length" if count == wanted else None,
                prompt_tokens=len(request.prompt_token_ids),
                completion_tokens=count,
                compute_seconds=0.0,
                queue_seconds=0.0,
                peak_kv_bytes=0,
            )
            if wanted == HELD:
                await asyncio.Event().wait()

    async def drain(self, *, timeout):  # noqa: ASYNC109 - the protocol's signature
        pass


async def serve():
    role, data_dir, database_url, clock_file = sys.argv[1:]
    config = PlatformConfig(
        data_dir=Path(data_dir), database_url=database_url, port=0, model_roots=(MODELS,), drain_seconds=1.0
    )
    configure_logging(level="error")
    is_beside = role == "gateway"
    platform = await initialize_platform(
        config,
        clock=MovedClock(clock_file),
        launch=NoEngine,
        is_audit_required=not is_beside,
        is_beside_server=is_beside,
    )
    facts = {"admin": platform.admin_token}
    await serve_platform(
        platform, on_listening=lambda url: print(json.dumps({**facts, "url": url}), flush=True)
    )


def main():
    asyncio.run(serve())

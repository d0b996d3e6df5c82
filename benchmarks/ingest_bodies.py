"""The bodies that `ingest.py` sends."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tritium_platform.metering.model import key_prefix, unique_key
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence
    from uuid import UUID

SOURCE = "https://engines.example.com/7"
METERS = ("input_tokens", "output_tokens", "embedding_tokens")
MODELS = ("bitnet-2b4t", "llama-8b", "qwen3-4b")


def near_ids(tenant_id: UUID, generator: random.Random, *, within: range) -> Iterator[str]:
    """Return random ids of keys whose first four bytes lie in a range."""
    prefix = key_prefix(tenant_id=tenant_id, source=SOURCE)
    while True:
        event_id = generator.randbytes(16).hex()
        if int.from_bytes(unique_key(prefix, event_id)[:4]) in within:
            yield event_id


def ordered_ids() -> Iterator[str]:
    """Return ids in the order of time: UUIDs of version 7."""
    while True:
        yield str(uuid7())


def random_ids(generator: random.Random) -> Iterator[str]:
    """Return random ids."""
    while True:
        yield generator.randbytes(16).hex()


def bodies(
    count: int, *, batch: int, sources: Sequence[Iterator[str]], generator: random.Random
) -> list[bytes]:
    """Make the bodies of so many events, about 250 bytes an event, each body with ids of the next source."""
    made, moment = [], datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    for start in range(0, count, batch):
        ids = sources[len(made) % len(sources)]
        events = [
            f'{{"source":"{SOURCE}","id":"{next(ids)}",'
            f'"meter":"{METERS[place % 3]}","quantity":{generator.randrange(4096)},'
            f'"event_time":"{moment}.{place:06}Z",'
            f'"dimensions":{{"model":"{MODELS[place % 3]}","device":"cpu"}}}}'
            for place in range(min(batch, count - start))
        ]
        made.append(f'{{"events":[{",".join(events)}]}}'.encode())
    return made

"""A streaming client that does next to nothing: it shares the cores with the server that is measured."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass
class Stream:
    """When a request was sent and when each piece of its answer arrived, in seconds."""

    sent: float
    arrivals: list[float] = field(default_factory=list)

    @property
    def first(self) -> float:
        """Seconds to the first piece."""
        return self.arrivals[0] - self.sent

    def gaps(self, *, since: float = 0.0, until: float = float("inf")) -> list[float]:
        """Seconds between pieces, of the gaps that end after `since` and begin before `until`."""
        pairs = zip(self.arrivals, self.arrivals[1:], strict=False)
        return [after - before for before, after in pairs if after > since and before < until]


async def stream_completion(
    port: int, *, prompt: str, max_tokens: int, extra: Mapping[str, Any], stream: Stream | None = None
) -> Stream:
    """Send one request and note when each piece of text arrives; cancelled, it hangs up."""
    body = {
        "model": "m",
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        **extra,
    }
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    try:
        stream = stream or Stream(0.0)
        stream.sent = time.perf_counter()
        writer.write(head.encode() + data)
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError((status + await reader.read()).decode(errors="replace"))
        while line := await reader.readline():
            # Every piece is one event; the last ones carry the reason for the end, or no choice at all.
            if line.startswith(b"data: {") and _has_text(line[6:]):
                stream.arrivals.append(time.perf_counter())
    finally:
        writer.close()
    return stream


def _has_text(event: bytes) -> bool:
    choices = json.loads(event).get("choices") or []
    return any(choice.get("text") for choice in choices)

"""One end of the socket between a gateway and a child of its own: messages in both directions, in order.

A message is its length in four bytes, little-endian, and its MessagePack. What is sent while the loop is
busy goes out together; what comes in together is taken at once, without a task being woken for each.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Generic, TypeVar, cast

import msgspec

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

_Incoming = TypeVar("_Incoming")
_LENGTH = struct.Struct("<I")
_encode = msgspec.msgpack.Encoder().encode


class ProcessLink(asyncio.Protocol, Generic[_Incoming]):
    """One end; when the other is gone, or what it says cannot be read, `lost` is called once."""

    def __init__(
        self,
        *,
        decode: Callable[[memoryview], _Incoming],
        take: Callable[[_Incoming], None],
        lost: Callable[[], None],
    ) -> None:
        self._decode = decode
        self._take = take
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._wanted = _LENGTH.size

    @classmethod
    async def over(
        cls,
        connected: socket.socket,
        *,
        decode: Callable[[memoryview], _Incoming],
        take: Callable[[_Incoming], None],
        lost: Callable[[], None],
    ) -> ProcessLink[_Incoming]:
        """Return the end that reads from a connected socket, and owns it."""
        loop = asyncio.get_running_loop()
        _, link = await loop.create_unix_connection(
            lambda: cls(decode=decode, take=take, lost=lost), sock=connected
        )
        return link

    @property
    def is_open(self) -> bool:
        """Whether the other end is there."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, message: msgspec.Struct) -> None:
        """Send a message; to an end that is gone it is lost, as it would be a moment later."""
        if self._transport is not None and not self._transport.is_closing():
            payload = _encode(message)
            self._transport.write(_LENGTH.pack(len(payload)) + payload)

    def close(self) -> None:
        """Close the socket once what was sent is out."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # a stream socket has no other

    def data_received(self, data: bytes) -> None:
        """Take every message that is complete; a long one is put together once, when it is."""
        self._parts.append(data)
        self._size += len(data)
        if self._size >= self._wanted:
            whole = b"".join(self._parts)
            rest = whole[self._take_all(whole) :]
            self._parts, self._size = [rest], len(rest)

    def _take_all(self, data: bytes) -> int:
        """Take the messages of some bytes and return where the one begins that is not complete."""
        view, start = memoryview(data), 0
        while True:
            begin = start + _LENGTH.size
            self._wanted = begin - start
            if begin <= len(data):
                self._wanted += _LENGTH.unpack_from(data, start)[0]
            end = start + self._wanted
            if end > len(data) or not self.is_open:
                return start
            try:
                message = self._decode(view[begin:end])
            except ValueError:  # what follows cannot be trusted either
                self.close()
                return len(data)
            self._take(message)
            start = end

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - gone is gone
        """Tell the owner."""
        self._lost()

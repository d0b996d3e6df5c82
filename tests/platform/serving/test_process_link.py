"""The socket between a gateway and an engine: messages arrive whole and in order."""

from __future__ import annotations

import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium_platform.adapters import engine_messages as messages
from tritium_platform.adapters.process_link import ProcessLink

names = st.text(max_size=30) | st.just("x" * 5000)


class OpenTransport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self):
        super().__init__()
        self.written = bytearray()
        self.is_closed = False

    def write(self, data):
        self.written += data

    def is_closing(self):
        return self.is_closed

    def close(self):
        self.is_closed = True


def new_link():
    taken = []
    link = ProcessLink(decode=messages.decode_command, take=taken.append, lost=lambda: None)
    link.connection_made(OpenTransport())
    return link, taken


def written(sent):
    link, _ = new_link()
    for message in sent:
        link.send(message)
    return bytes(link._transport.written)


@given(st.lists(names, max_size=8), st.data())
def test_messages_arrive_in_order_however_the_bytes_are_cut(requests, data):
    sent = [messages.Abort(name) for name in requests]
    wire = written(sent)
    link, taken = new_link()
    while wire:
        size = data.draw(st.integers(1, len(wire)), label="bytes")
        link.data_received(wire[:size])
        wire = wire[size:]
    assert taken == sent


@given(st.lists(names, min_size=1, max_size=5), st.binary(min_size=1, max_size=20))
def test_what_comes_behind_something_unreadable_is_not_taken(requests, rubbish):
    good = written([messages.Abort(name) for name in requests])
    bad = (
        len(rubbish + b"\xc1").to_bytes(4, "little") + b"\xc1" + rubbish
    )  # 0xc1 is never used in MessagePack
    link, taken = new_link()
    link.data_received(good + bad + good)
    link.data_received(good)
    assert [message.request_id for message in taken] == requests
    assert not link.is_open


async def test_both_ends_talk_over_a_pair_of_sockets_until_one_is_gone():
    ours, theirs = socket.socketpair()
    taken, is_lost = asyncio.Queue(), asyncio.Event()
    left = await ProcessLink.over(
        ours, decode=messages.decode_report, take=taken.put_nowait, lost=is_lost.set
    )
    right = await ProcessLink.over(
        theirs, decode=messages.decode_command, take=lambda _: None, lost=lambda: None
    )
    right.send(messages.Refused("a" * 10**6))
    right.send(messages.Refused("b"))
    right.close()  # what was sent still goes out
    assert [(await taken.get()).message[0], (await taken.get()).message] == ["a", "b"]
    async with asyncio.timeout(5):
        await is_lost.wait()
    assert not left.is_open
    left.send(messages.Abort("nobody hears it"))


@pytest.mark.parametrize("size", [0, 3])
def test_a_part_of_a_length_is_waited_for(size):
    wire = written([messages.Abort("r")])
    link, taken = new_link()
    link.data_received(wire[:size])
    assert taken == []
    link.data_received(wire[size:])
    assert [message.request_id for message in taken] == ["r"]

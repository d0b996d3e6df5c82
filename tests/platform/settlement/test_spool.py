"""The spool after a crash: a torn tail is dropped, damage is told, what was acknowledged is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tritium_platform.adapters.spool import MAGIC, Spool, encode_frame, read_spool
from tritium_platform.errors import PlatformError
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from pathlib import Path

PAYLOADS = (b"first", b"", MAGIC * 3, encode_frame(b"a frame of another file", offset=7), b"the last one")


def written(directory: Path, payloads: tuple[bytes, ...] = PAYLOADS) -> Path:
    spool = Spool(directory / f"{uuid7().hex}.spool")
    for payload in payloads:
        spool.append(payload)
    spool.close()
    return spool.path


@given(st.lists(st.binary(max_size=300), max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_appended_is_read_in_order(tmp_path: Path, payloads: list[bytes]) -> None:
    path = written(tmp_path, tuple(payloads))
    content = read_spool(path)
    assert [frame.payload for frame in content.frames] == payloads
    assert content.torn_bytes == 0
    assert (content.frames[-1].end if payloads else 0) == path.stat().st_size


def test_cut_at_any_byte_the_whole_frames_before_it_are_there(tmp_path: Path) -> None:
    path = written(tmp_path)
    data, whole = path.read_bytes(), read_spool(path).frames
    for size in range(len(data)):
        path.write_bytes(data[:size])
        content = read_spool(path)
        assert content.frames == tuple(frame for frame in whole if frame.end <= size)
        assert content.torn_bytes == size - (content.frames[-1].end if content.frames else 0)


def test_any_bit_that_turns_is_told_unless_it_is_in_the_tail_that_may_be_torn(tmp_path: Path) -> None:
    path = written(tmp_path)
    data, whole = path.read_bytes(), read_spool(path).frames
    last = whole[-2].end
    for place in range(len(data) * 8):
        turned = bytearray(data)
        turned[place // 8] ^= 1 << place % 8
        path.write_bytes(turned)
        if place // 8 < last:
            with pytest.raises(PlatformError, match="damaged"):
                read_spool(path)
        else:
            content = read_spool(path)
            assert content.frames == whole[:-1]
            assert content.torn_bytes == len(data) - last


@given(st.binary(max_size=60), st.sampled_from(["as it is", "in a frame of elsewhere"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rubbish_behind_the_last_frame_is_a_torn_tail(tmp_path: Path, rubbish: bytes, form: str) -> None:
    path = written(tmp_path, (b"one",))
    tail = rubbish if form == "as it is" else encode_frame(rubbish, offset=1)
    with path.open("ab") as file:
        file.write(tail)
    content = read_spool(path)
    assert [frame.payload for frame in content.frames] == [b"one"]
    assert content.torn_bytes == len(tail)


def test_a_spool_never_writes_over_another(tmp_path: Path) -> None:
    path = written(tmp_path)
    with pytest.raises(FileExistsError):
        Spool(path)

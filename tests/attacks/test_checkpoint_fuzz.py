"""Attack: a valid weight file with bytes changed, cut or inserted: never another error or a wrong tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import safetensors
import safetensors.numpy as official
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.errors import ValidationError
from tritium.formats.checkpoint import open_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

VALID = official.save(
    {
        "model.layers.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "model.layers.0.weight_scale": np.ones(1, np.float16),
        "packed": np.arange(5, dtype=np.uint8),
        "empty": np.zeros((0, 4), np.int64),
    },
    metadata={"format": "pt"},
)


def mutations() -> st.SearchStrategy[bytes]:
    position = st.integers(0, len(VALID) - 1)
    header = st.integers(0, int.from_bytes(VALID[:8], "little") + 8)

    def changed(places: list[tuple[int, int]]) -> bytes:
        raw = bytearray(VALID)
        for place, value in places:
            raw[place] = value
        return bytes(raw)

    byte = st.integers(0, 255) | st.sampled_from(list(b'0123456789-,:"[]{}\\eE. '))
    flips = st.lists(st.tuples(header | position, byte), min_size=1, max_size=4).map(changed)
    cuts = position.map(lambda cut: VALID[:cut])
    inserts = st.tuples(position, st.binary(min_size=1, max_size=9)).map(
        lambda at: VALID[: at[0]] + at[1] + VALID[at[0] :]
    )
    removals = st.tuples(position, st.integers(1, 9)).map(lambda at: VALID[: at[0]] + VALID[at[0] + at[1] :])
    return flips | cuts | inserts | removals | st.binary(max_size=200)


def read_all(path: Path, *, memory_map_above: int) -> dict[str, np.ndarray] | None:
    try:
        with open_checkpoint(path, memory_map_above=memory_map_above) as checkpoint:
            return {name: checkpoint.read(name) for name in checkpoint.tensors}
    except ValidationError:
        return None


@settings(max_examples=1500, deadline=2000)
@given(raw=mutations())
def test_what_we_accept_is_what_the_official_reader_sees(raw, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    path.write_bytes(raw)
    mapped, copied = read_all(path, memory_map_above=-1), read_all(path, memory_map_above=1 << 40)
    assert (mapped is None) == (copied is None)
    if mapped is None or copied is None:
        return
    expected = dict(safetensors.deserialize(raw))
    assert set(mapped) == set(copied) == set(expected)
    for name, entry in expected.items():
        assert mapped[name].tobytes() == copied[name].tobytes() == bytes(entry["data"])
        assert mapped[name].shape == copied[name].shape == tuple(entry["shape"])


def test_the_valid_file_is_accepted(tmp_path: Path):
    (tmp_path / "x.safetensors").write_bytes(VALID)
    read = read_all(tmp_path / "x.safetensors", memory_map_above=-1)
    assert read is not None
    assert len(read) == 4

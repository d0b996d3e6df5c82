"""Pages of mapped files are given back after reading; rows are read without the rest of their matrix."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import numpy as np
import pytest

from tritium.errors import ValidationError
from tritium.formats.checkpoint import open_checkpoint
from tritium.formats.mapped_pages import release_pages
from tritium.formats.safetensors import write_safetensors

SHAPE = (4000, 512)


def resident_kilobytes(file: Path) -> int:
    """What this process has of a mapped file in memory, from the system's own list."""
    maps = Path("/proc/self/smaps").read_text()
    entries = re.findall(rf"{re.escape(str(file))}\n(?:.*\n)*?Rss: +(\d+) kB", maps)
    return sum(map(int, entries))


@pytest.fixture
def matrix() -> np.ndarray:
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


@pytest.fixture
def file(tmp_path: Path, matrix: np.ndarray) -> Path:
    write_safetensors(tmp_path / "model.safetensors", {"m": matrix, "n": matrix[:10].astype(np.float64)})
    return tmp_path / "model.safetensors"


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="asks Linux what is resident")
def test_released_pages_leave_memory_and_come_back_with_the_same_content(file, matrix):
    with open_checkpoint(file, memory_map_above=0) as checkpoint:
        mapped = checkpoint.read("m")
        assert resident_kilobytes(file) >= matrix.nbytes // 1024
        release_pages(mapped)
        assert resident_kilobytes(file) < 200
        release_pages(mapped[1000:2000])
        np.testing.assert_array_equal(mapped, matrix)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="asks Linux what is resident")
def test_writing_a_mapped_tensor_leaves_none_of_it_in_memory(file, matrix, tmp_path):
    mapped = np.memmap(file, np.uint8, mode="r")
    write_safetensors(tmp_path / "copy.safetensors", {"bytes": mapped})
    assert resident_kilobytes(file) < 200
    with open_checkpoint(tmp_path / "copy.safetensors") as checkpoint:
        np.testing.assert_array_equal(checkpoint.read("bytes"), np.fromfile(file, np.uint8))


def test_memory_that_is_not_a_files_or_was_written_to_is_left_alone(file):
    private = mmap.mmap(-1, 1 << 16, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    written = np.frombuffer(private, np.uint8)
    written[:] = 7
    release_pages(written)
    assert (written == 7).all()
    copied = np.memmap(file, np.uint8, mode="c")
    copied[:] = 9
    release_pages(copied)
    assert (copied == 9).all()
    release_pages(np.ones(5))


@pytest.mark.parametrize("memory_map_above", [0, 1 << 40])
@pytest.mark.parametrize("rows", [range(3, 17), [3999, 0, 5, 5], range(0), range(2, 9, 3)])
def test_rows_are_those_of_the_matrix(file, matrix, rows, memory_map_above):
    with open_checkpoint(file, memory_map_above=memory_map_above) as checkpoint:
        np.testing.assert_array_equal(checkpoint.read_rows("m", rows), matrix[list(rows)], strict=True)
        small = [row for row in rows if row < 10]
        exact = checkpoint.read_rows_float32("n", small)
        np.testing.assert_array_equal(exact, matrix[small], strict=True)


def test_a_row_that_is_not_finite_is_named_by_its_own_number(tmp_path, matrix):
    matrix[7, 3] = np.nan
    write_safetensors(tmp_path / "model.safetensors", {"m": matrix})
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.read_rows("m", [6, 8]).shape == (2, 512)
        with pytest.raises(ValidationError, match=r"NaN or Inf at \[7, 3\]"):
            checkpoint.read_rows("m", [6, 7])
        with pytest.raises(ValidationError, match="does not have it"):
            checkpoint.read_rows("x", [0])

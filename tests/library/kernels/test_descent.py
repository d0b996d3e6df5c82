"""The native descent against its numpy twin, on every instruction set."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.errors import ValidationError
from tritium.kernels import descent
from tritium.kernels import reference_descent as reference

pytestmark = pytest.mark.usefixtures("isa")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows that descend, and what they share."""

    levels: np.ndarray
    slope: np.ndarray
    hessian: np.ndarray
    stiffness: np.ndarray

    def copy(self) -> Rows:
        return replace(self, **{name: value.copy() for name, value in vars(self).items()})

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return tuple(vars(self).values())


def drawn(rows: int, inputs: int, *, seed: int, limit: int = 1) -> Rows:
    draw = np.random.default_rng(seed)
    read = draw.normal(size=(inputs + 5, inputs)) * draw.lognormal(size=inputs)
    hessian = (read.T @ read).astype(np.float32)
    hessian = np.maximum(hessian, hessian.T) + np.eye(inputs, dtype=np.float32)
    levels = draw.integers(-limit, limit + 1, (rows, inputs)).astype(np.float32)
    missed = draw.normal(size=(rows, inputs)) * draw.choice([0.01, 1.0], size=(rows, 1))
    return Rows(
        levels=levels,
        slope=(missed @ hessian).astype(np.float32),
        hessian=hessian,
        stiffness=np.full(rows, np.nan, np.float32),
    )


def tell_others(rows: Rows, changes: np.ndarray, *, block: int) -> None:
    moves, end = descent.find_moves(changes), block + changes.shape[1]
    for others in (slice(0, block), slice(end, rows.slope.shape[1])):
        descent.tell(rows.slope, rows.hessian, moves, first=block, columns=others)


@given(
    rows=st.integers(1, 9),
    inputs=st.integers(1, 150),
    limit=st.sampled_from([1, 4, 13]),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_groups_step_as_the_reference_does(rows, inputs, limit, seed, data):
    found = drawn(rows, inputs, seed=seed, limit=limit)
    expected = found.copy()
    draw = np.random.default_rng(seed)
    size, at_once = data.draw(st.integers(1, inputs)), data.draw(st.integers(1, 3))
    before = draw.choice([0.0, 0.5, 1.0], size=rows).astype(np.float32)
    for block in range(0, inputs, size * at_once):
        end = min(block + size * at_once, inputs)
        changes = [np.full((rows, end - block), np.nan, np.float32) for _ in range(2)]
        for first in range(block, end, size):
            columns = slice(first, min(first + size, inputs))
            pull = descent.weigh_group(*found.arrays, columns=columns)
            np.testing.assert_array_equal(pull, reference.weigh_group(*expected.arrays, columns=columns))
            scales = np.where(draw.random(rows) < 0.5, before, before * np.float32(1.125))
            values = {
                "columns": columns,
                "block": block,
                "before": before,
                "scales": scales,
                "limit": limit,
            }
            moved = descent.round_group(*found.arrays, changes[0], **values)
            assert moved == reference.round_group(*expected.arrays, changes[1], **values)
        tell_others(found, changes[0], block=block)
        for others in (slice(0, block), slice(end, inputs)):
            reference.tell(expected.slope, expected.hessian, changes[1], first=block, columns=others)
        for native, twin in zip((*found.arrays, changes[0]), (*expected.arrays, changes[1]), strict=True):
            np.testing.assert_array_equal(native, twin)


@pytest.mark.parametrize("columns", [slice(13, 1053), slice(13, 1054)])
def test_long_groups_step_as_the_reference_does(columns):
    """More than 1,024 columns stay where they are in the Hessian, if they are whole sixteens."""
    found = drawn(3, 1060, seed=4)
    expected = found.copy()
    before, scales = np.full(3, 0.5, np.float32), np.array([0.5, 0.625, 0.0], np.float32)
    values = {"columns": columns, "block": 0, "before": before, "scales": scales, "limit": 1}
    changes = [np.zeros((3, 1060), np.float32) for _ in range(2)]
    pull = descent.weigh_group(*found.arrays, columns=columns)
    np.testing.assert_array_equal(pull, reference.weigh_group(*expected.arrays, columns=columns))
    moved = descent.round_group(*found.arrays, changes[0], **values)
    assert moved == reference.round_group(*expected.arrays, changes[1], **values)
    for native, twin in zip((*found.arrays, changes[0]), (*expected.arrays, changes[1]), strict=True):
        np.testing.assert_array_equal(native, twin)


def test_the_number_of_threads_changes_nothing():
    one, three = (drawn(300, 200, seed=3) for _ in range(2))
    columns, scales = slice(64, 128), np.full(300, 0.5, np.float32)
    for threads, each in ((1, one), (3, three)):
        changes = np.zeros((300, 128), np.float32)
        descent.weigh_group(*each.arrays, columns=columns, threads=threads)
        assert descent.round_group(
            *each.arrays,
            changes,
            columns=columns,
            block=0,
            before=scales,
            scales=2 * scales,
            limit=1,
            threads=threads,
        )
        moves = descent.find_moves(changes, threads=threads)
        descent.tell(each.slope, each.hessian, moves, first=0, columns=slice(128, 200), threads=threads)
    for alone, together in zip(one.arrays, three.arrays, strict=True):
        np.testing.assert_array_equal(alone, together)


def test_blocks_of_any_width_leave_the_same_bits():
    """When a column is told of what moved is free, as long as it is before its own turn."""
    narrow, wide = (drawn(40, 96, seed=2) for _ in range(2))
    scales = np.full(40, 0.5, np.float32)
    for rows, width in ((narrow, 32), (wide, 64)):
        for block in range(0, 96, width):
            changes = np.empty((40, min(width, 96 - block)), np.float32)
            for first in range(block, min(block + width, 96), 32):
                descent.round_group(
                    *rows.arrays,
                    changes,
                    columns=slice(first, first + 32),
                    block=block,
                    before=scales,
                    scales=scales * np.float32(1.25),
                    limit=1,
                )
            tell_others(rows, changes, block=block)
    for one, other in zip(narrow.arrays, wide.arrays, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_slope_stays_that_of_the_quadratic():
    """What a step does to the slope is what the changed weights make of the Hessian."""
    found = drawn(20, 96, seed=1)
    begun = found.copy()
    before, scales = np.full(20, 0.5, np.float32), np.full(20, 0.625, np.float32)
    columns, changes = slice(32, 64), np.empty((20, 32), np.float32)
    descent.weigh_group(*found.arrays, columns=columns)
    descent.round_group(
        *found.arrays, changes, columns=columns, block=32, before=before, scales=scales, limit=1
    )
    tell_others(found, changes, block=32)
    change = np.zeros((20, 96))
    change[:, columns] = found.levels[:, columns] * 0.625 - begun.levels[:, columns] * 0.5
    np.testing.assert_allclose(changes, change[:, columns], rtol=1e-6)
    expected = begun.slope - change @ begun.hessian.astype(np.float64)
    np.testing.assert_allclose(found.slope, expected, rtol=1e-4, atol=1e-4 * np.abs(begun.slope).max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slope": np.zeros((4, 9), np.float32)}, "slope"),
        ({"levels": np.zeros((4, 8), np.int8)}, "levels"),
        ({"hessian": np.zeros((8, 9), np.float32)}, "hessian"),
        ({"stiffness": np.zeros(3, np.float32)}, "stiffness"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, message):
    rows = replace(drawn(4, 8, seed=0), **change)
    with pytest.raises(ValidationError, match=message):
        descent.weigh_group(*rows.arrays, columns=slice(0, 8))


def test_columns_and_scales_that_are_not_there_are_refused():
    rows = drawn(4, 8, seed=0)
    ones = np.ones(4, np.float32)
    for columns in (slice(0, 9), slice(-1, 4), slice(4, 4)):
        with pytest.raises(ValidationError, match="columns"):
            descent.weigh_group(*rows.arrays, columns=columns)
    changes = np.zeros((4, 8), np.float32)
    good = {"columns": slice(0, 8), "block": 0, "before": ones, "scales": ones, "limit": 1}
    with pytest.raises(ValidationError, match="scales"):
        descent.round_group(*rows.arrays, changes, **{**good, "scales": ones[:3]})
    with pytest.raises(ValidationError, match="limit"):
        descent.round_group(*rows.arrays, changes, **{**good, "limit": 128})


def test_a_block_that_is_not_there_or_not_the_groups_is_refused():
    rows = drawn(4, 8, seed=0)
    ones, changes = np.ones(4, np.float32), np.zeros((4, 4), np.float32)
    values = {"before": ones, "scales": ones, "limit": 1}
    for block in (-1, 5):
        with pytest.raises(ValidationError, match="block's columns"):
            descent.round_group(*rows.arrays, changes, columns=slice(4, 5), block=block, **values)
    for columns in (slice(0, 2), slice(5, 7)):
        with pytest.raises(ValidationError, match="group's columns"):
            descent.round_group(*rows.arrays, changes, columns=columns, block=2, **values)


def test_moves_that_do_not_fit_are_refused():
    rows, changes = drawn(4, 8, seed=0), np.ones((4, 4), np.float32)
    moves = descent.find_moves(changes)
    assert moves.size == 16
    for first in (-1, 5):
        with pytest.raises(ValidationError, match="moved are not all there"):
            descent.tell(rows.slope, rows.hessian, moves, first=first, columns=slice(0, 4))
    for columns in (slice(-1, 2), slice(7, 9), slice(3, 2)):
        with pytest.raises(ValidationError, match="told are not all there"):
            descent.tell(rows.slope, rows.hessian, moves, first=0, columns=columns)
    with pytest.raises(ValidationError, match="slope"):
        descent.tell(rows.slope[:3].copy(), rows.hessian, moves, first=0, columns=slice(4, 8))
    with pytest.raises(ValidationError, match="changes"):
        descent.find_moves(changes[:, ::2])

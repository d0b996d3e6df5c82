from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tritium.engine.pressure import PressureLadder, Rung


@given(readings=st.lists(st.tuples(st.floats(0, 1.2), st.floats(0.01, 20)), max_size=80))
def test_it_moves_one_rung_at_a_time_and_only_for_cause(readings):
    ladder, now = PressureLadder(), 0.0
    changed_at, low_since = -100.0, None
    for pressure, pause in readings:
        now += pause
        before = ladder.rung
        if pressure >= 0.85:
            low_since = None
        elif low_since is None:
            low_since = now
        assert ladder.observe(pressure, now) == (ladder.rung is not before)
        if ladder.rung > before:
            assert ladder.rung == before + 1
            assert pressure >= 0.92
            assert now - changed_at >= 1.0
        if ladder.rung < before:
            assert ladder.rung == before - 1
            assert low_since is not None
            assert now - low_since >= 10.0
            low_since = now
        if ladder.rung is not before:
            changed_at = now


def test_it_climbs_to_the_top_while_pressure_stays_and_comes_all_the_way_back():
    ladder, rungs = PressureLadder(), []
    for tick in range(10):
        ladder.observe(0.95, tick * 0.5)
        rungs.append(ladder.rung)
    assert rungs[:5] == [Rung.EVICT_CACHES, Rung.EVICT_CACHES, Rung.SHRINK, Rung.SHRINK, Rung.REFUSE]
    assert rungs[-1] is Rung.REFUSE
    for tick in range(10, 100):
        ladder.observe(0.5, tick * 0.5)
    assert ladder.rung is Rung.CALM


def test_pressure_between_low_and_high_holds_the_rung():
    ladder = PressureLadder()
    ladder.observe(0.95, 0.0)
    for tick in range(1, 1000):
        assert not ladder.observe(0.88, float(tick))
    assert ladder.rung is Rung.EVICT_CACHES


def test_pressure_that_swings_faster_than_it_calms_changes_nothing_twice():
    ladder = PressureLadder()
    changes = sum(ladder.observe(0.5 if tick % 2 else 0.93, tick * 4.0) for tick in range(200))
    assert changes == 3  # up to the top, and it stays there

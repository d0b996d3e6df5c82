"""The engine's time and the road's are the whole time of a request."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium_platform.api.overhead import overhead_headers


@dataclass
class Walked:
    engine_span: tuple[float, float] | None


@given(st.floats(0, 10), st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=5))
def test_both_together_are_the_whole(seconds, spans):
    passages = [Walked((min(span), max(span))) for span in spans]
    headers = overhead_headers([*passages, Walked(None)], seconds=seconds)
    engine, overhead = float(headers["x-tritium-engine-ms"]), float(headers["x-tritium-overhead-ms"])
    assert engine + overhead == pytest.approx(seconds * 1000, abs=0.002)
    assert engine >= 0 <= overhead


def test_texts_side_by_side_count_from_the_first_to_the_last():
    passages = [Walked((1.0, 1.5)), Walked((1.25, 2.0))]
    assert overhead_headers(passages, seconds=1.25) == {
        "x-tritium-engine-ms": "1000.000",
        "x-tritium-overhead-ms": "250.000",
    }


def test_where_no_engine_worked_nothing_is_said():
    assert overhead_headers([], seconds=1.0) == {}
    assert overhead_headers([Walked(None)], seconds=1.0) == {}

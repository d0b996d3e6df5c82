"""How latencies are counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tritium_platform.insight.health import OutcomeCount, OutcomeKind, latency_bucket, percentile_latency_ms


@given(st.integers(0, 2**40))
def test_a_latency_lies_in_its_bucket(milliseconds: int) -> None:
    bucket = latency_bucket(milliseconds)
    assert milliseconds <= 2**bucket
    assert bucket == 0 or milliseconds > 2 ** (bucket - 1)


def test_the_percentile_is_the_edge_of_its_bucket() -> None:
    outcomes = [OutcomeCount(OutcomeKind.SUCCESS, 3, 95), OutcomeCount(OutcomeKind.SUCCESS, 10, 5)]
    assert percentile_latency_ms(outcomes, percent=95) == 8
    assert percentile_latency_ms(outcomes, percent=96) == 1024
    assert percentile_latency_ms([], percent=95) == 0

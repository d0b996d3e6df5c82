from __future__ import annotations

import time

import numpy as np
import pytest

from tritium.engine.batcher import BatcherConfig, EmbeddingBatcher
from tritium.engine.request import ContextLengthExceededError, QueueFullError
from tritium.errors import PlatformError, ProcessingError, ValidationError


class CountingEncoder:
    """Puts an input's length and sum into its row; remembers the sizes of its batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, inputs):
        self.batches.append(len(inputs))
        if any(9 in token_ids for token_ids in inputs):
            raise ArithmeticError("nine")
        return np.array([[len(token_ids), sum(token_ids)] for token_ids in inputs], dtype=np.float32)


def new_batcher(**limits) -> tuple[EmbeddingBatcher, CountingEncoder]:
    encoder = CountingEncoder()
    config = BatcherConfig(**({"max_input_tokens": 8} | limits))
    return EmbeddingBatcher(encoder, config=config), encoder


def test_a_full_batch_is_due_at_once_and_a_short_one_after_the_delay():
    batcher, encoder = new_batcher(max_batch_inputs=3, max_delay_seconds=0.05)
    assert batcher.seconds_until_due() is None
    future = batcher.add([(1,), (2,)])
    batcher.run_due()
    assert encoder.batches == []
    assert 0 < batcher.seconds_until_due() <= 0.05
    batcher.add([(3,)])
    assert batcher.seconds_until_due() == 0
    batcher.run_due()
    assert encoder.batches == [3]
    assert future.done()
    batcher.add([(1,)])
    time.sleep(0.06)
    batcher.run_due()
    assert encoder.batches == [3, 1]


def test_many_tokens_make_a_batch_due_and_bound_its_size():
    batcher, encoder = new_batcher(max_batch_tokens=10, max_delay_seconds=60)
    batcher.add([(1,) * 6, (1,) * 6, (1,) * 4])
    assert batcher.seconds_until_due() == 0
    batcher.run_due()
    batcher.run_due()
    assert encoder.batches == [1, 2]


def test_requests_share_batches_and_get_their_own_rows_and_figures():
    batcher, encoder = new_batcher(max_batch_inputs=2)
    first, second = batcher.add([(1, 2), (3,), (4,)]), batcher.add([(5, 6, 7)])
    while batcher.has_work:
        batcher.run_batch()
    assert encoder.batches == [2, 2]
    assert first.result().vectors == ((2.0, 3.0), (1.0, 3.0), (1.0, 4.0))
    assert second.result().vectors == ((3.0, 18.0),)
    assert (first.result().prompt_tokens, second.result().prompt_tokens) == (4, 3)
    assert first.result().compute_seconds > 0
    assert first.result().queue_seconds >= 0


def test_a_bad_input_fails_its_own_request_only(caplog):
    batcher, _ = new_batcher()
    bad, good = batcher.add([(1,), (9,)]), batcher.add([(2,)])
    batcher.run_batch()
    assert good.result().vectors == ((1.0, 2.0),)
    with pytest.raises(ProcessingError):
        bad.result()
    assert "nine" in caplog.text  # the caller learns that it failed, the operator why


def test_a_cancelled_request_is_not_computed():
    batcher, encoder = new_batcher(max_batch_inputs=8)
    gone, stays = batcher.add([(1,), (2,)]), batcher.add([(3,)])
    gone.cancel()
    batcher.run_batch()
    assert encoder.batches == [1]
    assert stays.result().vectors == ((1.0, 3.0),)


def test_limits_are_named():
    batcher, _ = new_batcher(max_waiting_inputs=2)
    with pytest.raises(ContextLengthExceededError) as caught:
        batcher.add([(1,) * 9])
    assert caught.value.details["limit"] == 8
    for nothing in ([], [()], [(1,), ()]):
        with pytest.raises(ValidationError, match="empty"):
            batcher.add(nothing)
    with pytest.raises(QueueFullError):
        batcher.add([(1,)] * 3)


def test_closing_fails_what_waits():
    batcher, _ = new_batcher()
    future = batcher.add([(1,)])
    batcher.close()
    with pytest.raises(PlatformError):
        future.result()
